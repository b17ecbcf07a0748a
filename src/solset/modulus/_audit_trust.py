"""The kind of an audit, what it verified of its moduli, and the sentences on what they rest on."""

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from solset.changes import Change, PointsChange
from solset.errors import bad_value
from solset.modulus._audit_batches import AuditRoute, Batch, IsolatedAudit, JointAudit, StationaryAudit
from solset.modulus._audit_finite import FiniteAudit, finite_choices
from solset.modulus._kinds import can_be_small
from solset.modulus._peers import point_slopes
from solset.modulus._result import Certainty, listed
from solset.problem import Interpolating, Optimality, Problem, as_map, map_unless_fitted


def route_of(
    part: Problem, change: Change, gradient: Tensor | None, joint: bool | None, optimality: Optimality
) -> tuple[AuditRoute, list[int], str, str]:
    """The kind of the audit, the places of its points, the name of the map, and why it was taken.

    Args:
        part: Problem with the weights that may move.
        change: Change of the points that are audited.
        gradient: Gradient of the validation loss, if there is one, ``(p,)``.
        joint: Whether the constraints of all points hold; ``None`` where their Gram matrix fits.
        optimality: Optimality map or its name.

    Raises:
        ValueError: If the map or ``joint`` does not suit the change.
    """
    asked, risk = as_map(optimality), part.risk()
    is_finite = not isinstance(change, PointsChange) or not can_be_small(part, change)
    keeps_outputs = part.is_fitted if asked is None else asked.keeps_outputs
    if joint is not None and (is_finite or not keeps_outputs):
        raise bad_value(
            "joint",
            expected="left out for this kind of change" if is_finite else "left out for this map",
            got=joint,
            cure="Leave it out; only the interpolating map has a constraint for each point.",
        )
    if is_finite:
        return _finite(part, change, gradient, optimality)
    change, chosen = cast("PointsChange", change), change.chosen(risk)
    if keeps_outputs:
        if not isinstance(asked, Interpolating | None):
            raise bad_value(
                "optimality",
                expected="Interpolating among the maps that keep the training outputs",
                got=repr(asked),
                cure="An audit by points knows that map's rows only; take lipschitz_modulus for this one.",
            )
        if not part.is_fitted:
            part.derivative(change, optimality=optimality)  # refuses, and says why
        is_joint = part.gram_fits if joint is None else joint
        kind = JointAudit if is_joint else IsolatedAudit
        text = "the training set is fitted" + (
            "" if is_joint else "; each point by itself, without the others' constraints"
        )
        return kind(part, change, gradient, point_slopes(risk)), chosen, Interpolating.name, text
    first = replace(change, points=chosen[:1])
    derivative = part.derivative(first, optimality=asked or map_unless_fitted(part.point)[0])
    route = StationaryAudit(part, change, gradient, point_slopes(risk), derivative.linearisation)
    why = map_unless_fitted(part.point)[1]
    text = f"the training set is not fitted{why}" if asked is None else "as asked for"
    return route, chosen, derivative.optimality, text


def _finite(
    part: Problem, change: Change, gradient: Tensor | None, optimality: Optimality
) -> tuple[AuditRoute, list[int], str, str]:
    """The audit of changes that are never small, one step for each."""
    choices, risk = finite_choices(part, change), part.risk()
    first = next((one for row in choices.values() for one in row if one is not None), change)
    line = part.derivative(first, optimality=optimality).linearisation
    every = change.joining(risk)
    losses = risk if every is None else every.select(range(len(risk.points), len(every.points)))
    route = FiniteAudit(part, gradient, losses, choices, optimality)
    return route, list(choices), line.optimality, line.reason.removeprefix(f"{line.optimality} because ")


def certainties(route: AuditRoute, points: Sequence[int], columns: Batch) -> tuple[Certainty, ...]:
    """The certainty that ranks prove: full row rank is exact, a kernel that products confirm infinite."""
    if isinstance(
        route, StationaryAudit | FiniteAudit
    ):  # whether the weights are stationary was not looked at
        return (Certainty.UNKNOWN,) * len(columns["modulus"])
    if isinstance(route, IsolatedAudit):
        return tuple(
            Certainty.EXACT if full else Certainty.UNKNOWN for full in columns["has_full_rank"].tolist()
        )
    assert isinstance(route, JointAudit)  # noqa: S101 - the only other kind
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
    moduli = JointAudit(double, route.change, None, route.slopes.double()).batch(chosen)["modulus"]
    return bool(moduli.isinf().all())


def notes_of(route: AuditRoute, points: list[int], columns: Batch) -> tuple[str, ...]:
    """The sentences on what the moduli rest on, where that is not plain full rank."""
    notes: list[str] = []
    if isinstance(route, JointAudit):
        notes += _on_rows(route)
    if isinstance(route, StationaryAudit):
        notes += _on_hessian(route)
    if isinstance(route, FiniteAudit):
        notes.append(
            "these changes are never small: the numbers are the lengths of whole steps of the weights"
        )
        doubted = _where(points, columns["is_doubted"])
        if doubted:
            notes.append(
                f"the step is in doubt for {listed(doubted)}: estimate one of them by itself to see why"
            )
    unsolved = _where(points, ~columns["is_solved"]) if "is_solved" in columns else []
    if unsolved:
        notes.append(
            f"the Hessian system was not solved for {listed(unsolved)}: infinite where it has no solution, "
            f"not a number where the solver did not get there"
        )
    return tuple(notes)


def _where(points: Sequence[int], is_named: Tensor) -> list[int]:
    return [points[i] for i in is_named.nonzero().flatten().tolist()]


def _on_rows(route: JointAudit) -> list[str]:
    side, doubt = route.constraints.side, route.constraints.doubt
    notes = [doubt] if doubt else []
    if side.rank < len(side.scale):
        notes.append(
            f"the {len(side.scale)} rows of J have rank {side.rank}: finite moduli are exact only where "
            f"that is locally constant"
        )
    return notes


def _on_hessian(route: StationaryAudit) -> list[str]:
    rank, size = route.line.system.rank, len(route.problem.weights())
    notes = []
    if route.line.map.remark:
        notes.append(route.line.map.remark)
    elif rank is None:
        notes.append("the solver does not see the Hessian's spectrum, so that it may be singular")
    elif rank < size:
        notes.append(f"the Hessian has rank {rank} of {size}: moduli are not known to be exact")
    if route.line.system.doubt:
        notes.append(route.line.system.doubt)
    return notes
