"""The audit: every training point ranked by the distance that it can move the model."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from solset.changes import Add, Change, Move, PointsChange, Relabel, Remove, Reweight
from solset.checks import checked, positive
from solset.derivatives import Premises
from solset.errors import SolsetWarning, Status, bad_type, bad_value
from solset.goals import held_out
from solset.modulus._audit_batches import AuditRoute, JointAudit, each_batch
from solset.modulus._audit_finite import FiniteAudit
from solset.modulus._audit_result import Audit
from solset.modulus._audit_run import Batches, audit_run
from solset.modulus._audit_trust import certainties, notes_of, route_of
from solset.modulus._kinds import Kind, can_be_small, change_of
from solset.modulus._lipschitz import part_of
from solset.modulus._peers import feature_influence, memory_perturbation
from solset.modulus._result import Certainty
from solset.problem import Optimality, Problem, Stationary, as_map, premises_of
from solset.risk import WeighedLoss, as_points, as_tensors, identity
from solset.storage import Identity
from solset.training import Run

_UNITS: dict[type[Change], str] = {
    Move: "input unit",
    Relabel: "unit of a target",
    Reweight: "unit of a relative factor",
}


@checked
def audit(
    problem: Problem | Run,
    kind: Kind = Move,
    *,
    points: Sequence[int] | None = None,
    validation: tuple[Any, Any] | None = None,
    layer: str | Sequence[str] | None = None,
    joint: bool | None = None,
    optimality: Optimality = "auto",
    influence: bool = True,
    prior_precision: float | None = None,
    checkpoint: Path | str | Callable[[str], Path] | None = None,
    progress: bool | None = None,
) -> Audit:
    """Every training point with its Lipschitz modulus in one kind of change, and the effect of the worst one.

    ``κ_k² = λ_max(J_{x,k}ᵀ [(JJᵀ)⁻¹]_kk J_{x,k})`` with the constraints of all points, or with
    ``(J_k J_kᵀ)⁻¹`` for the point by itself; ``‖H⁺B_k‖`` where the loss is not fitted. Other kinds of
    change have their own derivative in the place of ``J_x`` and ``B``. Points that join, leave or change
    their class do so as a whole: the number is then the length of the change of the weights itself.

    Args:
        problem: Problem at its trained weights; or the run of a training, whose points are ranked by what
            they do to the validation loss at its end, by ``Move`` or ``Remove``, with no other arguments.
        kind: Class of the change, or a change of that kind: ``Move`` for features; ``Relabel`` for targets
            (class labels: every other label of the training data is tried, or those that the change gives);
            ``Reweight`` for relative factors; ``Remove`` for points that leave; ``Add(inputs, targets)``
            for candidates that join one at a time.
        points: Indices ``K`` of the points to audit, for a class; all by default.
        validation: Inputs and targets of a validation set, whose mean loss is followed; none by default.
        layer: Name or name patterns of the weights that may move; all by default.
        joint: Whether the constraints of all points hold, beside isolated points; by default where the Gram
            matrix of all rows fits. Interpolating map only.
        optimality: Optimality map or its name; ``"auto"`` takes the interpolating map wherever the training
            set is fitted.
        influence: Whether to compute Koh & Liang's feature influence on the validation loss, which takes a
            solve with the Hessian.
        prior_precision: Precision ``δ`` of the weights' prior in the memory-perturbation column; by default
            ``n`` times the weight decay (the weight decay itself for a sum), or 1 without one.
        checkpoint: Existing folder for finished batches, or a function from a file's name to its path; a
            later call with the same arguments goes on from them.
        progress: Whether to show a progress bar; by default where the output is a terminal.

    Raises:
        ValueError: If points are not the problem's, validation data do not fit, joint constraints do not fit
            the memory budget, or the checkpoint is of another audit.

    Cost for features: joint, the Gram matrix and its decomposition, then ``c`` backward passes over ``K``;
    isolated, ``c`` rows and ``c`` backward passes for each point. Stationary: ``min(d, p)`` second-order
    sweeps over each point and as many solves. A change that is never small takes one estimate for each choice
    of each point, all from one factorisation.

    Example:
        >>> from torch import nn
        >>> model = nn.Linear(2, 1, bias=False).double()
        >>> with torch.no_grad():
        ...     _ = model.weight.copy_(torch.tensor([[3.0, 4.0]]))
        >>> x = torch.eye(2, dtype=torch.float64) * torch.tensor([[1.0], [10.0]])
        >>> audit(Problem(model, nn.MSELoss(), x, x @ model.weight.detach().T)).modulus  # ‖w‖ / ‖x_k‖
        tensor([5.0000, 0.5000], dtype=torch.float64)
    """
    _check(validation, prior_precision)
    if isinstance(problem, Run):
        others = {
            "layer": layer,
            "joint": joint,
            "optimality": as_map(optimality),
            "prior_precision": prior_precision,
            "checkpoint": checkpoint,
        }
        return audit_run(problem, kind, points, validation, others, progress)
    whole = change_of(problem, kind, points)
    part, change = part_of(problem, whole, layer)
    gradient = None if validation is None else _validation_gradient(part, *validation)
    route, chosen, optimality_used, reason = route_of(part, change, gradient, joint, optimality)
    store = Batches.at(checkpoint, lambda: _identity(part, change, chosen, gradient, route, optimality_used))
    columns = _columns(route, chosen, store, progress)
    result = _without_peers(part, change, route, chosen, columns, optimality_used, reason)
    if bool(result.score.isinf().all()) and len(chosen) > 1:
        text = f"all {len(chosen)} moduli are infinite, so that nothing ranks these points: {_cause(part)}"
        warnings.warn(text, SolsetWarning, stacklevel=3)
        result = replace(result, notes=(text, *result.notes))
    result = _vetoed(
        result, premises_of(part.point, as_map(optimality_used) or Stationary(), _harmless(change))
    )
    is_shown = influence and isinstance(change, Move)
    return _with_peers(result, part, route, gradient if is_shown else None, prior_precision)


def _columns(
    route: AuditRoute, chosen: Sequence[int], store: Batches, progress: bool | None
) -> dict[str, Tensor]:
    """The numbers of all points by name, batch after batch."""
    hidden = None if progress is None else not progress  # None: tqdm looks for a terminal
    parts = []
    with tqdm(total=len(chosen), desc="audit", unit="point", disable=hidden) as bar:
        for count, batch in each_batch(route, chosen, store.batch):
            parts.append(batch)
            bar.update(count)
    return {name: torch.cat([one[name] for one in parts]) for name in parts[0]}


def _without_peers(
    part: Problem,
    change: Change,
    route: AuditRoute,
    chosen: list[int],
    columns: dict[str, Tensor],
    optimality: str,
    reason: str,
) -> Audit:
    """The audit of these numbers, before the columns of other methods."""
    shape = (len(chosen), *_shape_of_a_point(part, change, columns["map"]))
    losses = route.losses if isinstance(route, FiniteAudit) else part.risk()
    return Audit(
        kind=type(change).__name__,
        unit="weight units" if isinstance(route, FiniteAudit) else f"weight units per {_UNITS[type(change)]}",
        points=tuple(chosen),
        modulus=columns.get("modulus"),
        isolated_modulus=columns.get("isolated_modulus"),
        validation_change=columns.get("validation_change"),
        validation_slope=columns.get("validation_slope"),
        loss=losses.select(chosen).losses().to(torch.float64),
        gradient_norm=columns["gradient_norm"],
        feature_influence=None,
        memory_perturbation=None,
        directions=columns["direction"].reshape(shape),
        maps=columns["map"].reshape(shape),
        optimality=optimality,
        reason=reason,
        certainty=certainties(route, chosen, columns),
        notes=notes_of(route, chosen, columns),
    )


def _harmless(change: Change) -> Change:
    """The change as premises see it: each point of an audit changes by itself, so that no class is lost."""
    return Reweight([0]) if isinstance(change, Remove | Relabel) else change


def _shape_of_a_point(part: Problem, change: Change, maps: Tensor) -> tuple[int, ...]:
    """The shape of one point's coordinates, or the number of choices of a change that is never small."""
    if not isinstance(change, PointsChange) or not can_be_small(part, change):
        return (maps.shape[1],)
    return tuple(replace(change, points=change.chosen(part.risk())[:1]).space(part.risk()).shape[1:])


def _vetoed(result: Audit, premises: Premises) -> Audit:
    """The audit without the certainties that a premise does not allow; warns of premises that failed."""
    for failure in premises.failures:
        warnings.warn(failure, SolsetWarning, stacklevel=3)
    if not premises.veto:
        return result
    certainty = (Certainty.UNKNOWN,) * len(result.points)
    return replace(result, certainty=certainty, notes=(premises.veto, *result.notes))


def _validation_gradient(part: Problem, inputs: Any, targets: Any) -> Tensor:
    """``∇ℓ`` of the mean (or summed) validation loss at the trained weights, ``(p,)``."""
    risk = part.risk()
    inputs, targets = (as_tensors("validation", tree, risk.weights) for tree in (inputs, targets))
    if risk.points.tree is not None or risk.points.targets is not None:
        x = held_out(part.risk(), inputs)
        points = as_points(x, risk.points.target_rows(targets, x), x.device)
        points = replace(points, tree=risk.points.tree, moving=risk.points.moving)
    else:
        points = as_points(inputs, targets, risk.weights.device)
        if tuple(inputs.shape[1:]) != part.input_shape or inputs.dtype != risk.weights.dtype:
            shape = ", ".join(map(str, part.input_shape))
            raise bad_value(
                "validation",
                expected=f"inputs of shape (k, {shape}) and {risk.weights.dtype}",
                got=f"{tuple(inputs.shape)} and {inputs.dtype}",
                cure="Preprocess them like the training data.",
            )
    at_once = len(points) if isinstance(risk.loss, WeighedLoss) else risk.batch_size  # a mean by its weights
    whole = replace(risk, points=points, total=len(points), batch_size=at_once)
    return whole.without_regularisation().gradient()


def _identity(
    part: Problem,
    change: Change,
    chosen: list[int],
    gradient: Tensor | None,
    route: AuditRoute,
    optimality: str,
) -> Identity:
    kind = repr(replace(change, points=None) if isinstance(change, PointsChange) else change)
    has_data = isinstance(change, Add) or (isinstance(change, Relabel) and change.targets is not None)
    content = identity(change.applied_to(part.risk())).settings if has_data else None
    settings = {
        "kind of change": [kind, content],
        "points": [len(chosen), torch.tensor(chosen)],
        "validation": gradient,
        "optimality map": optimality,
        "kind": type(route).__name__,
        "points of a batch": route.at_once,
    }
    return identity(part.risk(), settings)


def _check(validation: Any, prior_precision: float | None) -> None:
    if validation is not None and not (isinstance(validation, tuple | list) and len(validation) == 2):
        raise bad_type(
            "validation",
            expected="a pair of inputs and targets",
            got=type(validation).__name__,
            cure="Read the data set into two tensors.",
        )
    if prior_precision is not None:
        positive("prior_precision", prior_precision, cure="Leave it out.")


def _cause(part: Problem) -> str:
    """Why no point can be answered."""
    rows, weights = part.point_count * part.output_count, len(part.weights())
    if part.is_fitted and part.point.flat:  # no constraint holds these outputs, however many there are
        return (
            f"the loss is flat at {part.point.flat} of {part.point_count} points, as where it is saturated, "
            f"and holds nothing there; train with weight decay or smoothed labels"
        )
    if part.is_fitted and rows > weights:
        return f"{rows} constraints for {weights} weights"
    dtype = str(part.weights().dtype).removeprefix("torch.")
    cure = "; compute in float64" if dtype == "float32" else ""
    return f"the system loses rank in {dtype} for every point, with a misfit of {part.misfit:.2g}{cure}"


def _with_peers(
    result: Audit, part: Problem, route: AuditRoute, gradient: Tensor | None, prior_precision: float | None
) -> Audit:
    """The audit with the columns of other methods, or with notes that say why they are missing."""
    notes = list(result.notes)
    if isinstance(route, JointAudit):
        risk = part.risk()
        decay = risk.weight_decay  # which is a number here: weights that decay keep no outputs
        default = float(decay) * (risk.total if risk.reduction == "mean" else 1) or 1.0
        precision = default if prior_precision is None else prior_precision
        scores = memory_perturbation(part, route.constraints.gram, route.slopes, precision)
        if scores is None:
            notes.append(
                "memory_perturbation is left out: its covariance is singular at this prior precision"
            )
        else:
            result = replace(result, memory_perturbation=scores[list(result.points)])
    else:
        notes.append("memory_perturbation is left out: it needs the Gram matrix of all rows")
    if gradient is not None:
        influence, status = feature_influence(part, gradient, list(result.points))
        result = replace(result, feature_influence=influence)
        if status is Status.INCONSISTENT:
            notes.append(
                "the gradient of the validation loss has a part outside the range of the Hessian, along "
                "which the solution set is free: feature_influence is that of the nearest solution"
            )
        elif status is not Status.CONVERGED:
            notes.append(f"the solve for feature_influence ended with status '{status}'")
    return replace(result, notes=tuple(notes))
