"""Whether a rank stays the same at nearby points."""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from solset.changes import Change
from solset.derivatives import Linearisation
from solset.errors import Status
from solset.linalg import LeftSide, LinearOperator
from solset.modulus._kinks import activation_margin
from solset.operators import Hessian, Jacobian
from solset.problem import Problem
from solset.retraining import Newton
from solset.risk import EmpiricalRisk, flat_rows
from solset.solvers import Dense

REACH = 1e-3  # distance of nearby points from the trained point, relative to inputs and weights
FARTHEST = 0.1  # the same, for rows that may be flat to a high order
SEEN = 1e-6  # relative size of a singular value that counts, in float64, where a matrix was solved for
FAINT = 1e-10  # the same, of rows that were only differentiated
CURVED = 1e-8  # curvature of the loss in an output, relative to the point's largest, that counts
ENTRIES = 5e7  # entries of a dense matrix that may be written out at a nearby point


@dataclass(frozen=True)
class Verdict:
    """The outcome of a look at nearby points."""

    holds: bool  # Whether the rank was the same at every one
    reason: str  # Phrase that says why


def rank_is_constant(
    part: Problem, change: Change, line: Linearisation, *, expected: int, probes: int
) -> Verdict:
    """Whether the joint rank of ``[A, C]`` is the expected one at random nearby points.

    For rows of ``J`` any point nearby counts (the constant-rank theorem). A Hessian's rank is probed on the
    graph of the solution map, at solutions that Newton's method finds for changed data, and the graph must be
    tangent to the kernel of ``[H, C]``: the distance to it must be of second order.

    Args:
        part: Problem with the constraints and weights in use.
        change: Change of the data of ``part`` whose coordinates are answered.
        line: Linearisation of ``part`` in use.
        expected: Joint rank at the trained point.
        probes: Number of nearby points; 0 leaves it undecided.

    Cost: a dense matrix and its decomposition for each probe.
    """
    risk = part.risk()
    m, q = line.constraint.operator.shape[0], line.data.shape[1]
    if probes < 1 or risk.weights.dtype != torch.float64 or m * (risk.layout.size + q) > ENTRIES:
        return Verdict(False, "whether the rank is constant nearby was not probed")
    generator = torch.Generator().manual_seed(0)
    farthest = _within_a_piece(risk, change) if line.map.keeps_outputs else REACH
    for number in range(1, probes + 1):
        if line.map.keeps_outputs:
            reach = REACH * (farthest / REACH) ** ((number - 1) / max(probes - 1, 1))
            rank = _rank_of_rows(part, change, generator, reach)
        else:
            rank = _rank_at_a_solution(part, line, change, generator)
        if isinstance(rank, str):
            return Verdict(False, f"not known to be constant nearby: {rank}")
        if rank != expected:
            text = f"not constant: the joint rank is {expected} here and {rank} at nearby point {number}"
            return Verdict(False, text)
    return Verdict(True, f"the joint rank {expected} is the same at {probes} nearby points")


def _within_a_piece(risk: EmpiricalRisk, change: Change) -> float:
    """The farthest reach of a probe: beyond a kink other rows count, which say nothing of the rank here."""
    size, moved = float(risk.weights.norm()), change.moving(risk)
    if moved:
        size += float(flat_rows(risk.points.features(moved)).norm(dim=1).max())
    margin = activation_margin(risk)
    return max(REACH, min(FARTHEST, margin / (2 * size))) if size > 0 else REACH


def _rank_of_rows(part: Problem, change: Change, generator: torch.Generator, reach: float) -> int:
    near = _nearby(part.risk(), change, generator, reach)
    return _joint_rank(Jacobian(near, memory_budget=0), change.of_outputs(near, 0), FAINT)


def rows_gain_rank(part: Problem, change: Change) -> bool:
    """Whether the rows of ``J`` gain rank at a random nearby point, as those of separated duplicates do.

    Rows that stay dependent, as those of more points than a model has degrees of freedom, have solutions in
    the sense of least squares; rows that gain rank ask for changes of the weights that grow without bound.

    Args:
        part: Problem with the constraints and weights in use.
        change: Change of the data of ``part`` whose coordinates are answered.

    Cost: two dense Jacobians and their decomposition.
    """
    risk, generator = part.risk(), torch.Generator().manual_seed(0)
    if len(risk.points) * part.output_count * risk.layout.size > ENTRIES:
        return False
    near = _nearby(risk, change, generator)
    seen = max(SEEN, 100 * torch.finfo(risk.weights.dtype).eps)
    here, there = (Jacobian(one, memory_budget=0).to_dense().to(torch.float64) for one in (risk, near))
    return LeftSide.of_gram(there @ there.T, seen**2).rank > LeftSide.of_gram(here @ here.T, seen**2).rank


def _nearby(
    risk: EmpiricalRisk, change: Change, generator: torch.Generator, reach: float = REACH
) -> EmpiricalRisk:
    """The risk at changed data and weights, both at random."""
    step = _small(change.typical(risk), generator, reach).flatten()
    there = _changed(risk, change, step)
    return there.at(risk.weights + _small(risk.weights.unsqueeze(0), generator, reach)[0])


def _changed(risk: EmpiricalRisk, change: Change, coordinates: Tensor) -> EmpiricalRisk:
    """The risk after a small change of this kind; a kind that has none was refused before."""
    small = change.along(risk, coordinates)
    return risk if small is None else small.applied_to(risk)


def flat_outputs(part: Problem, rank: int) -> str:
    """What speaks against the rank of a Hessian: more outputs than that which move, though hardly.

    The Hessian holds the squares of the outputs' slopes. Outputs that are saturated move the weights as all
    others do, but their squares are rounding.

    Cost: the dense Jacobian and its decomposition.
    """
    risk = part.risk()
    if risk.has_decay or len(risk.points) * part.output_count * risk.layout.size > ENTRIES:
        return ""
    values = part.point.curvature.values
    curved = int((values > CURVED * values.amax(dim=1, keepdim=True)).sum())
    rows = Jacobian(risk).to_dense().to(torch.float64)
    rows = rows / rows.norm(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    seen = max(FAINT, 100 * torch.finfo(risk.weights.dtype).eps)
    singular = torch.linalg.svdvals(rows)
    slopes = min(curved, int((singular > seen * singular.max()).sum()))
    if slopes <= rank:
        return ""
    return (
        f"the Hessian has rank {rank}, but {slopes} outputs move: some are so flat that it does not show them"
    )


def _rank_at_a_solution(
    part: Problem, line: Linearisation, change: Change, generator: torch.Generator
) -> int | str:
    """The rank at a true solution, if it is where the kernel of ``[H, C]`` says; else what went wrong."""
    risk = part.risk()
    step = _small(change.typical(risk), generator).flatten()
    random = _small(risk.weights.unsqueeze(0), generator)[0]
    answer = line.system.solve(-(line.data @ step)).value
    along = random - line.system.solve(line.constraint.operator @ random).value
    gaps, end = [], risk
    for t in (1.0, 0.5):
        start = _changed(risk, change, t * step).at(risk.weights + t * (answer + along))
        retrained = Newton(gradient_tol=1e-13, max_steps=50, solver=Dense()).run(start, risk.outputs)
        if retrained.status is not Status.CONVERGED and retrained.gradient_norm > 1e-11:
            return "no solution was found for changed data"
        gaps.append(float(retrained.change.norm()))
        end = end if t < 1 else start.at(retrained.weights)
    is_second_order = all(later <= 0.35 * earlier + 1e-9 for earlier, later in pairwise(gaps))
    if not is_second_order:
        return (
            f"solutions of changed data lie off the tangent set ({gaps[0]:.1e}, {gaps[1]:.1e} at half of it)"
        )
    return _joint_rank(Hessian(end, memory_budget=0), change.of_gradient(end, 0))


def _joint_rank(first: LinearOperator, second: LinearOperator, seen: float = SEEN) -> int:
    """The rank of the two side by side, rows and blocks scaled alike."""
    left, right = first.to_dense(), second.to_dense()
    sizes = [float(torch.linalg.matrix_norm(part, 2)) for part in (left, right)]
    joined = torch.cat([part / size for part, size in zip((left, right), sizes, strict=True) if size > 0], 1)
    rows = joined / joined.norm(dim=1, keepdim=True).clamp_min(torch.finfo(joined.dtype).tiny)
    singular = torch.linalg.svdvals(rows)
    return int((singular > seen * singular.max()).sum())


def _small(like: Tensor, generator: torch.Generator, reach: float = REACH) -> Tensor:
    """A random step for each row, of a length relative to it."""
    draw = torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like)
    lengths = flat_rows(like).norm(dim=1) / flat_rows(draw).norm(dim=1)
    typical = torch.where(lengths > 0, lengths, lengths.max().clamp_min(torch.finfo(like.dtype).tiny))
    return reach * draw * typical.reshape(-1, *[1] * (like.ndim - 1))
