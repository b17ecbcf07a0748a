"""What an audit verified of its moduli, and the sentences on what they rest on."""

from collections.abc import Sequence

import torch
from torch import Tensor

from solset.modulus._audit_batches import AuditRoute, Batch, IsolatedAudit, JointAudit, StationaryAudit
from solset.modulus._audit_finite import FiniteAudit
from solset.modulus._result import Certainty, listed


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
