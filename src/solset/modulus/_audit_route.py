"""The kind of an audit: by the constraints of all points or of each, by the Hessian, or by finite steps."""

from dataclasses import replace
from typing import cast

from torch import Tensor

from solset.changes import Change, PointsChange
from solset.errors import bad_value
from solset.modulus._audit_batches import AuditRoute, IsolatedAudit, JointAudit, StationaryAudit
from solset.modulus._audit_finite import FiniteAudit, finite_choices
from solset.modulus._kinds import can_be_small
from solset.modulus._peers import point_slopes
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
