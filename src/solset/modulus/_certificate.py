"""What is known of a modulus: which theorem applies, checked and not assumed."""

from dataclasses import replace

import torch
from torch import Tensor

from solset.derivatives import Linearisation
from solset.linalg import ROUNDING
from solset.modulus._rank_probe import rank_is_constant
from solset.modulus._result import Carrier, Certainty, Certificate
from solset.modulus._routes import Found
from solset.problem import Problem

SHARE = 0.01  # of the squared length of the combinations, above which an output is named
STILL = 1e-3  # Newton step to the nearest stationary point, relative to the weights, that is not looked at


def certify(part: Problem, moved: list[int], line: Linearisation, found: Found, probes: int) -> Certificate:
    """The certificate, without residual and activation margin.

    Args:
        part: The trained point, with the constraints and weights in use.
        moved: ``K``, as points of ``part``.
        line: Its linearisation.
        found: The ratio.
        probes: Nearby points at which a rank is looked at.
    """
    ratio, lower = found.ratio, measured(line, found)
    bare = Certificate(
        certainty=Certainty.UNKNOWN,
        reason="",
        criterion_holds=None,
        rows=line.constraint.operator.shape[0],
        rank=None if ratio is None else ratio.rank,
        joint_rank=None if ratio is None else ratio.joint_rank,
        lower=lower,
        upper=float("inf"),
        residual=0.0,
        activation_margin=float("inf"),
    )
    if ratio is None:
        return _of_products(bare, line, found)
    if not line.map.is_exact:
        text = "the Gauss–Newton matrix stands for the Hessian: exact only at zero residual"
        return replace(bare, reason=text)
    if ratio.rank == 0 and ratio.value == 0.0:
        return replace(
            bare,
            certainty=Certainty.NO_CONSTRAINT,
            criterion_holds=True,
            reason="no constraint: neither these weights nor these features move the outputs (0/0)",
            upper=0.0,
        )
    off = _newton_step(part, line)
    if off > STILL:
        text = f"the weights are not stationary: a Newton step would change them by {off:.2g} of their length"
        return replace(bare, reason=text)
    if ratio.value == float("inf"):
        return _infinite(bare, part, line, found)
    return _finite(part, moved, line, replace(bare, criterion_holds=True), found, probes)


def measured(line: Linearisation, found: Found) -> float:
    """A ratio by products alone: ``‖Cᵀu‖ / ‖Aᵀu‖`` where ``u`` is known, else ``‖A⁺CΔx‖`` as solved.

    Args:
        line: The pair ``(A, C)``.
        found: The ratio.
    """
    if found.left is None:
        return float(line.system.solve(line.data @ found.direction).value.norm())
    pushed = float((line.constraint.operator.T @ found.left).norm())
    moved = float((line.data.T @ found.left).norm())
    return moved / pushed if pushed > 0 else (float("inf") if moved > 0 else 0.0)


def _of_products(bare: Certificate, line: Linearisation, found: Found) -> Certificate:
    """Two bounds, and no rank."""
    text = f"{_name(line)} was only multiplied with, so that no rank was seen; exact if it is full"
    if bare.lower > found.upper:
        return replace(
            bare, reason=f"{text}, but the solves were too inaccurate: a larger ratio was measured"
        )
    if not found.upper < float("inf"):
        return replace(bare, reason=f"{text}, but a solve ended with status '{found.solves}'")
    return replace(bare, reason=text, upper=found.upper)


def _finite(
    part: Problem, moved: list[int], line: Linearisation, bare: Certificate, found: Found, probes: int
) -> Certificate:
    """Exact at full row rank, or where the rank does not change nearby."""
    if line.left_out:
        return replace(bare, reason=f"a lower bound: {line.left_out} of the constraint's rows are not in use")
    full = bare.rank if line.map.keeps_outputs else bare.joint_rank
    if full == bare.rows:
        text = f"{_name(line)} has full row rank {bare.rows}"
        if not line.map.keeps_outputs:
            text = f"[H, B] has full row rank {bare.rows} and the criterion holds"
        return replace(bare, certainty=Certainty.EXACT, reason=text, upper=found.upper)
    verdict = rank_is_constant(part, moved, line, expected=bare.joint_rank or 0, probes=probes)
    text = f"rank {bare.rank} of {bare.rows}; {verdict.reason}"
    if not verdict.holds:
        return replace(bare, reason=text)
    return replace(bare, certainty=Certainty.CONSTANT_RANK, reason=text, upper=found.upper)


def _infinite(bare: Certificate, part: Problem, line: Linearisation, found: Found) -> Certificate:
    """Proven where a product with ``u`` is rounding; named by the outputs that take part."""
    if found.ratio is None or found.left is None:
        return bare
    u = found.left
    pushed = float((line.constraint.operator.T @ u).norm())
    if pushed > ROUNDING * torch.finfo(u.dtype).eps * _size(line, u):
        text = (
            f"rank {bare.rank} of {bare.rows} at the tolerance in use, but a combination below it is not 0: "
            f"features move it {bare.lower:.3g} times as far"
        )
        return replace(bare, reason=text)
    kernel = "Jᵀu = 0 and J_xᵀu ≠ 0" if line.map.keeps_outputs else "Hu = 0 and Bᵀu ≠ 0"
    has_rows = line.map.keeps_outputs and not line.left_out
    c = part.output_count if has_rows else 1
    return replace(
        bare,
        certainty=Certainty.INFINITE,
        criterion_holds=False,
        reason=f"a combination u has {kernel}, to the rounding of {str(u.dtype).removeprefix('torch.')}",
        carriers=_carriers(found.ratio.participation, c) if has_rows else (),
        multiplier=u.reshape(-1, c) if has_rows else u,
        lower=float("inf"),
    )


def _size(line: Linearisation, u: Tensor) -> float:
    """What ``Aᵀu`` is a small number against: the lengths of the rows that ``u`` combines."""
    gram = line.system.gram
    if gram is not None:
        return float((u.to(torch.float64).square() @ gram.diagonal()).sqrt())
    return float(torch.linalg.matrix_norm(line.constraint.operator.to_dense(), 2))


def _carriers(participation: Tensor, outputs: int) -> tuple[Carrier, ...]:
    share = participation / participation.sum()
    ranked = share.argsort(descending=True).tolist()
    return tuple(
        Carrier(i // outputs, i % outputs, float(share[i]))
        for i in ranked
        if float(share[i]) >= SHARE * float(share.max())
    )


def _newton_step(part: Problem, line: Linearisation) -> float:
    """``‖H⁺∇E‖ / ‖w̄‖`` for the stationary map; 0 for the other, whose constraint holds at any weights."""
    if line.map.keeps_outputs:
        return 0.0
    step = line.system.solve(part.gradient()).value.norm()
    return float(step / part.weights().norm().clamp_min(torch.finfo(step.dtype).tiny))


def _name(line: Linearisation) -> str:
    return "J" if line.map.keeps_outputs else "H"
