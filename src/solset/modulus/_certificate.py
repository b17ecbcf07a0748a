"""What is known of a modulus: which theorem applies, checked and not assumed."""

from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from solset.changes import Change, Move, Reweight
from solset.derivatives import Linearisation, Verdict
from solset.linalg import ROUNDING, LargestRatio
from solset.modulus._rank import flat_outputs, rank_is_constant
from solset.modulus._result import Carrier, Certainty, Certificate
from solset.modulus._routes import Ratio, by_decomposition
from solset.problem import LinearisedMap, Problem

SHARE = 0.01  # share in the combinations, relative to the largest one, from which an output is named
CLEAR = 1e-10  # size of the smallest eigenvalue, relative to the largest, from which a rank counts as proven
ROUNDED = 100  # units of rounding: size of such an eigenvalue below which the value itself is rounding
AGREE = 100  # times the root of rounding: relative difference up to which two ratios agree
STILL = 1e-3  # Newton step, relative to the weights, up to which they count as stationary


def certify(part: Problem, change: Change, line: Linearisation, ratio: Ratio, probes: int) -> Certificate:
    """The certificate, without residual and activation margin; withheld where its own numbers contradict it.

    Args:
        part: Problem with the constraints and weights in use.
        change: Change of the data of ``part`` whose coordinates are answered.
        line: Linearisation of ``part`` in use.
        ratio: Ratio that stands for the modulus.
        probes: Number of nearby points at which a rank is looked at.
    """
    certificate = _judged(part, change, line, ratio, probes)
    slack = AGREE * torch.finfo(line.data.dtype).eps ** 0.5
    if certificate.upper < (1 - slack) * certificate.lower:
        text = (
            f"the value {certificate.upper:.6g} lies below a ratio that was measured, {certificate.lower:.6g}"
        )
        return replace(certificate, certainty=Certainty.UNKNOWN, reason=text, upper=float("inf"))
    return certificate


def _judged(part: Problem, change: Change, line: Linearisation, ratio: Ratio, probes: int) -> Certificate:
    """The same, before its bounds are compared."""
    exact = ratio.exact
    bare = Certificate(
        certainty=Certainty.UNKNOWN,
        reason="",
        criterion_holds=None,
        rows=line.constraint.operator.shape[0],
        rank=None if exact is None else exact.rank,
        joint_rank=None if exact is None else exact.joint_rank,
        lower=_measured(line, ratio),
        upper=float("inf"),
        residual=0.0,
        activation_margin=float("inf"),
    )
    if veto := _veto_of_map(line):
        return replace(bare, reason=veto)
    if exact is None:
        return _of_products(bare, line, ratio)
    if veto := _veto_of_rank(line):
        return replace(bare, reason=veto)
    if exact.rank == 0 and exact.value == 0.0:
        return replace(
            bare,
            certainty=Certainty.NO_CONSTRAINT,
            criterion_holds=True,
            reason="no constraint: neither these weights nor this change move the outputs (0/0)",
            upper=0.0,
        )
    off = _newton_step(part, line)
    if off > STILL:
        text = f"the weights are not stationary: a Newton step would change them by {off:.2g} of their length"
        return replace(bare, reason=text)
    if exact.value == float("inf"):
        claim = _infinite(bare, part, change, line, exact, exact.attained_at.to(line.data.dtype))
        is_single = claim.certainty is Certainty.INFINITE and line.data.dtype != torch.float64
        return _confirmed(claim, bare, part, change, line) if is_single else claim
    return _finite(part, change, line, replace(bare, criterion_holds=True), ratio, probes)


def _veto_of_map(line: Linearisation) -> str:
    """Why nothing is proven, whatever the ratio; empty where nothing is against a proof."""
    if line.premises.veto or line.map.is_exact:
        return line.premises.veto
    return line.map.qualification(0, line.rows, line.left_out).reason


def _veto_of_rank(line: Linearisation) -> str:
    """Why the spectrum proves no rank; empty where it does."""
    if line.system.doubt:
        return line.system.doubt
    if line.minimum.verdict is not Verdict.HELD:
        return line.minimum.reason
    clearance = line.system.clearance
    if clearance is not None and clearance < max(CLEAR, ROUNDED * torch.finfo(line.data.dtype).eps):
        return f"an eigenvalue is {clearance:.2g} of the largest, too near to rounding to prove a rank"
    return ""


def _measured(line: Linearisation, ratio: Ratio) -> float:
    """A ratio by products alone: ``‖Cᵀu‖ / ‖Aᵀu‖`` where ``u`` is known, else ``‖A⁺CΔx‖`` as solved."""
    if ratio.left is None:
        return float(line.system.solve(line.data @ ratio.direction).value.norm())
    pushed = float((line.constraint.operator.T @ ratio.left).norm())
    moved = float((line.data.T @ ratio.left).norm())
    return moved / pushed if pushed > 0 else (float("inf") if moved > 0 else 0.0)


def _of_products(bare: Certificate, line: Linearisation, ratio: Ratio) -> Certificate:
    """Two bounds, and no rank."""
    text = f"{_name(line)} was only multiplied with, so that no rank was seen; exact if it is full"
    if bare.lower > ratio.upper:
        return replace(
            bare, reason=f"{text}, but the solves were too inaccurate: a larger ratio was measured"
        )
    if not ratio.upper < float("inf"):
        return replace(bare, reason=f"{text}, but a solve ended with status '{ratio.solves}'")
    return replace(bare, reason=text, upper=ratio.upper)


def _finite(
    part: Problem, change: Change, line: Linearisation, bare: Certificate, ratio: Ratio, probes: int
) -> Certificate:
    """Exact at full row rank, or where the rank does not change nearby."""
    if line.map.keeps_outputs and isinstance(change, Reweight):
        text = "fitted points are fitted with any factors, so that no solution moves"
        return replace(bare, certainty=Certainty.EXACT, reason=text, upper=ratio.upper)
    if line.left_out:
        return replace(bare, reason=f"a lower bound: {line.left_out} of the constraint's rows are not in use")
    full = bare.rank if line.map.keeps_outputs else bare.joint_rank
    if full == bare.rows:
        text = f"{_name(line)} has full row rank {bare.rows}"
        if not line.map.keeps_outputs:
            text = f"[H, {_data_name(change, line)}] has full row rank {bare.rows} and the criterion holds"
        return replace(bare, certainty=Certainty.EXACT, reason=text, upper=ratio.upper)
    flat = "" if line.map.keeps_outputs else flat_outputs(part, bare.rank or 0)
    if flat:
        return replace(bare, reason=flat)
    verdict = rank_is_constant(part, change, line, expected=bare.joint_rank or 0, probes=probes)
    text = f"rank {bare.rank} of {bare.rows}; {verdict.reason}"
    if not verdict.holds:
        return replace(bare, reason=text)
    return replace(bare, certainty=Certainty.CONSTANT_RANK, reason=text, upper=ratio.upper)


def _infinite(
    bare: Certificate,
    part: Problem,
    change: Change,
    line: Linearisation,
    exact: LargestRatio,
    u: Tensor,
) -> Certificate:
    """Proven where a product with ``u`` is rounding; named by the outputs that take part."""
    pushed = float((line.constraint.operator.T @ u).norm())
    if pushed > ROUNDING * torch.finfo(u.dtype).eps * _size(line, u):
        text = (
            f"rank {bare.rank} of {bare.rows} at the tolerance in use, but a combination below it is not 0: "
            f"the change moves it {bare.lower:.3g} times as far"
        )
        return replace(bare, reason=text)
    name = _data_name(change, line)
    kernel = f"Jᵀu = 0 and {name}ᵀu ≠ 0" if line.map.keeps_outputs else f"Hu = 0 and {name}ᵀu ≠ 0"
    has_rows = line.map.keeps_outputs and not line.left_out
    c = part.output_count if has_rows else 1
    return replace(
        bare,
        certainty=Certainty.INFINITE,
        criterion_holds=False,
        reason=f"a combination u has {kernel}, to the rounding of {str(u.dtype).removeprefix('torch.')}",
        carriers=_carriers(exact.participation, c) if has_rows else (),
        multiplier=u.reshape(-1, c) if has_rows else u,
        lower=float("inf"),
    )


def _confirmed(
    claim: Certificate, bare: Certificate, part: Problem, change: Change, line: Linearisation
) -> Certificate:
    """An infinite modulus of float32 where it is one in float64 too: rounding makes near-duplicates equal."""
    double = None if line.left_out else part.in_double()
    text = "a combination u vanishes to the rounding of float32, and float64 could not be tried"
    if double is None:
        return replace(bare, reason=text)
    optimality = cast("LinearisedMap", line.map)
    ratio = by_decomposition(double.derivative(change, optimality=optimality).linearisation)
    if ratio is None:
        return replace(bare, reason=text)
    if ratio.value < float("inf"):
        text = "a combination u vanishes to the rounding of float32, but in float64 the ratio is finite"
        return replace(bare, reason=text, lower=ratio.value)
    return replace(claim, reason=claim.reason.replace("float32", "float64"))


def _size(line: Linearisation, u: Tensor) -> float:
    """The size against which ``Aᵀu`` is judged: the lengths of the rows that ``u`` combines."""
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


def _data_name(change: Change, line: Linearisation) -> str:
    """The letter of the data operator: that of the paper for features, ``C`` for any other change."""
    if not isinstance(change, Move):
        return "C"
    return "J_x" if line.map.keeps_outputs else "B"
