"""The audit: every training point ranked by the distance that it can move the model."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from solset.changes import Move
from solset.checks import checked, positive
from solset.derivatives import Premises
from solset.errors import SolsetWarning, Status, bad_type, bad_value
from solset.goals import held_out
from solset.modulus._audit_batches import (
    AuditRoute,
    Batch,
    IsolatedAudit,
    JointAudit,
    StationaryAudit,
    each_batch,
)
from solset.modulus._audit_result import Audit
from solset.modulus._audit_store import Batches
from solset.modulus._lipschitz import part_of
from solset.modulus._peers import feature_influence, memory_perturbation, point_slopes
from solset.modulus._result import Certainty, listed
from solset.problem import (
    Interpolating,
    Optimality,
    Problem,
    Stationary,
    as_map,
    map_unless_fitted,
    premises_of,
)
from solset.risk import WeighedLoss, as_points, identity
from solset.storage import Identity


@checked
def audit(
    problem: Problem,
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
    """Every training point with its Lipschitz modulus, its worst perturbation, and the effect of that.

    ``κ_k² = λ_max(J_{x,k}ᵀ [(JJᵀ)⁻¹]_kk J_{x,k})`` with the constraints of all points, or with
    ``(J_k J_kᵀ)⁻¹`` for the point by itself; ``‖H⁺B_k‖`` where the loss is not fitted.

    Args:
        problem: Problem at its trained weights.
        points: Indices ``K`` of the points to audit; all by default.
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

    Cost: joint, the Gram matrix and its decomposition, then ``c`` backward passes over ``K``; isolated, ``c``
    rows and ``c`` backward passes for each point. Stationary: ``min(d, p)`` second-order sweeps over each
    point and as many solves.

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
    part, chosen = part_of(problem, points, layer)
    gradient = None if validation is None else _validation_gradient(part, *validation)
    slopes = point_slopes(part.risk())
    route, optimality_used, reason = _route(part, chosen, gradient, slopes, joint, optimality)
    store = Batches.at(checkpoint, lambda: _identity(part, chosen, gradient, route, optimality_used))
    hidden = None if progress is None else not progress  # None: tqdm looks for a terminal
    parts = []
    with tqdm(total=len(chosen), desc="audit", unit="point", disable=hidden) as bar:
        for count, batch in each_batch(route, chosen, store.batch):
            parts.append(batch)
            bar.update(count)
    columns = {name: torch.cat([one[name] for one in parts]) for name in parts[0]}
    shape = (len(chosen), *problem.input_shape)
    result = Audit(
        points=tuple(chosen),
        modulus=columns.get("modulus"),
        isolated_modulus=columns.get("isolated_modulus"),
        validation_change=columns.get("validation_change"),
        validation_slope=columns.get("validation_slope"),
        loss=part.risk().select(chosen).losses().to(torch.float64),
        gradient_norm=columns["gradient_norm"],
        feature_influence=None,
        memory_perturbation=None,
        directions=columns["direction"].reshape(shape),
        maps=columns["map"].reshape(shape),
        optimality=optimality_used,
        reason=reason,
        certainty=_certainties(route, chosen, columns),
        notes=_premises(route, chosen, columns.get("is_solved")),
    )
    if bool(result.score.isinf().all()) and len(chosen) > 1:
        text = f"all {len(chosen)} moduli are infinite, so that nothing ranks these points: {_cause(part)}"
        warnings.warn(text, SolsetWarning, stacklevel=3)
        result = replace(result, notes=(text, *result.notes))
    result = _vetoed(result, premises_of(part.point, as_map(optimality_used) or Stationary(), Move(chosen)))
    return _with_peers(result, part, route, gradient if influence else None, prior_precision)


def _vetoed(result: Audit, premises: Premises) -> Audit:
    """The audit without the certainties that a premise does not allow; warns of premises that failed."""
    for failure in premises.failures:
        warnings.warn(failure, SolsetWarning, stacklevel=3)
    if not premises.veto:
        return result
    certainty = (Certainty.UNKNOWN,) * len(result.points)
    return replace(result, certainty=certainty, notes=(premises.veto, *result.notes))


def _route(
    part: Problem,
    chosen: list[int],
    gradient: Tensor | None,
    slopes: Tensor,
    joint: bool | None,
    optimality: Optimality,
) -> tuple[AuditRoute, str, str]:
    asked = as_map(optimality)
    if part.is_fitted if asked is None else asked.keeps_outputs:
        if not isinstance(asked, Interpolating | None):
            raise bad_value(
                "optimality",
                expected="Interpolating among the maps that keep the training outputs",
                got=repr(asked),
                cure="An audit by points knows that map's rows only; take lipschitz_modulus for this one.",
            )
        if not part.is_fitted:
            part.derivative(points=chosen, optimality=optimality)  # refuses, and says why
        is_joint = part.gram_fits if joint is None else joint
        kind = JointAudit if is_joint else IsolatedAudit
        text = "the training set is fitted" + (
            "" if is_joint else "; each point by itself, without the others' constraints"
        )
        return kind(part, gradient, slopes), Interpolating.name, text
    if joint is not None:
        raise bad_value(
            "joint",
            expected="left out for this map",
            got=joint,
            cure="Leave it out; only the interpolating map has a constraint for each point.",
        )
    derivative = part.derivative(points=chosen[:1], optimality=asked or map_unless_fitted(part.point)[0])
    route = StationaryAudit(part, gradient, slopes, derivative.linearisation)
    why = map_unless_fitted(part.point)[1]
    text = f"the training set is not fitted{why}" if asked is None else "as asked for"
    return route, derivative.optimality, text


def _validation_gradient(part: Problem, inputs: Any, targets: Any) -> Tensor:
    """``∇ℓ`` of the mean (or summed) validation loss at the trained weights, ``(p,)``."""
    risk = part.risk()
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
    part: Problem, chosen: list[int], gradient: Tensor | None, route: AuditRoute, optimality: str
) -> Identity:
    settings = {
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


def _certainties(route: AuditRoute, points: Sequence[int], columns: Batch) -> tuple[Certainty, ...]:
    """The certainty that ranks prove: full row rank is exact, a kernel that products confirm infinite."""
    if isinstance(route, StationaryAudit):  # whether the weights are stationary was not looked at
        return (Certainty.UNKNOWN,) * len(columns["modulus"])
    if isinstance(route, IsolatedAudit):
        return tuple(
            Certainty.EXACT if full else Certainty.UNKNOWN for full in columns["has_full_rank"].tolist()
        )
    side, doubt = route.constraints.side, route.constraints.doubt
    finite = Certainty.EXACT if side.rank == len(side.scale) and not doubt else Certainty.UNKNOWN
    is_infinite = columns["modulus"].isinf()
    infinite = Certainty.INFINITE if _is_proven(route, points, is_infinite) else Certainty.UNKNOWN
    return tuple(infinite if at else finite for at in is_infinite.tolist())


def _is_proven(route: JointAudit, points: Sequence[int], is_infinite: Tensor) -> bool:
    """Whether moduli that are infinite to rounding are so in float64, where near-duplicates differ."""
    if route.problem.weights().dtype == torch.float64 or not bool(is_infinite.any()):
        return True
    double = route.problem.in_double()
    if double is None:
        return False
    chosen = [point for point, at in zip(points, is_infinite.tolist(), strict=True) if at]
    moduli = JointAudit(double, None, route.slopes.double()).batch(chosen)["modulus"]
    return bool(moduli.isinf().all())


def _premises(route: AuditRoute, points: list[int], is_solved: Tensor | None) -> tuple[str, ...]:
    """The sentences on what the moduli rest on, where that is not plain full rank."""
    notes = []
    if isinstance(route, JointAudit):
        side = route.constraints.side
        if route.constraints.doubt:
            notes.append(route.constraints.doubt)
        if side.rank < len(side.scale):
            notes.append(
                f"the {len(side.scale)} rows of J have rank {side.rank}: finite moduli are exact only where "
                f"that is locally constant"
            )
    if isinstance(route, StationaryAudit):
        rank, size = route.line.system.rank, len(route.problem.weights())
        if route.line.map.remark:
            notes.append(route.line.map.remark)
        elif rank is None:
            notes.append("the solver does not see the Hessian's spectrum, so that it may be singular")
        elif rank < size:
            notes.append(f"the Hessian has rank {rank} of {size}: moduli are not known to be exact")
        if route.line.system.doubt:
            notes.append(route.line.system.doubt)
    if is_solved is not None and not bool(is_solved.all()):
        unsolved = [points[i] for i in (~is_solved).nonzero().flatten().tolist()]
        notes.append(
            f"the Hessian system was not solved for {listed(unsolved)}: infinite where it has no solution, "
            f"not a number where the solver did not get there"
        )
    return tuple(notes)


def _cause(part: Problem) -> str:
    """Why no point can be answered."""
    rows, weights = part.point_count * part.output_count, len(part.weights())
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
