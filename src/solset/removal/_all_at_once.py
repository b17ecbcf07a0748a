"""Points left out one by one, and all of them at once where outputs are linear in the weights."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from solset.operators import Jacobian, loss_curvature, regularisation_of
from solset.problem import LinearisedMap, TrainedPoint
from solset.risk import point_factors, slopes_at
from solset.solvers import Factor, Solver
from solset.solvers.filters import Shifted

AT_ONCE = 2**22  # numbers in the rows of the points that are answered together
LINEAR = 1e-9  # relative error of a linear extrapolation of the outputs that counts as rounding
CURVED = 1e-9  # negative curvature of the loss, relative to the largest, that counts as rounding
SINGULAR = 1e-10  # distance of a leverage from 1 at which nothing else holds the direction


@dataclass(frozen=True, eq=False)
class LeftOut:
    """The outputs of a point at the solution without it."""

    outputs: Tensor  # Outputs of the point there, ``(c,)``
    leverage: float  # Largest share of the curvature in any direction that the point alone holds
    is_answered: bool  # Whether the rest of the data decides the weights where the point did
    is_solved: bool = True  # Whether the linear system was solved
    note: str = ""  # Sentences on what speaks against the step; empty where nothing does


def all_at_once(
    point: TrainedPoint,
    chosen: Sequence[int],
    optimality: LinearisedMap,
    solver: Solver | None,
    *,
    divides: bool,
) -> list[LeftOut] | None:
    """Every point left out by itself, from one decomposition; ``None`` where that is not exact.

    It is exact, as a Newton step, where outputs are linear in the weights, all points have the same ``α``,
    and what does not come from the points is a multiple of the identity, or stays as it is.

    Args:
        point: Trained point before the change.
        chosen: Indices of the points, checked.
        optimality: Optimality map whose matrix is symmetric.
        solver: Solver of its systems; ``None`` takes the map's default.
        divides: Whether a mean is divided by the number of points that are left.

    Cost: one decomposition, and the rows of ``J`` of the points; two forward passes for the test.
    """
    risk, other = point.risk, regularisation_of(point.risk)[1]
    factors = point_factors(risk, list(range(len(risk.points))))
    is_mean = divides and risk.reduction == "mean"
    if is_mean and (other is not None or (factors is not None and bool((factors != factors[0]).any()))):
        return None
    if not _is_linear(point):
        return None
    system = point.constraint(optimality, solver).system
    factor = system.factor()
    if factor is None or system.is_blind or factor.rank < point.weights:
        return None
    curvature = loss_curvature(risk, point.sweep.outputs, point.sweep.targets).to(torch.float64)
    if bool((torch.linalg.eigvalsh(curvature)[:, 0] < -CURVED * curvature.abs().max()).any()):
        return None
    scale = risk.total / (risk.total - (1.0 if factors is None else float(factors[0]))) if is_mean else 1.0
    return list(_answers(point, chosen, factor, curvature[list(chosen)], scale))


def _is_linear(point: TrainedPoint) -> bool:
    """Whether outputs at distant weights are those of the linear extrapolation."""
    risk = point.risk
    generator = torch.Generator().manual_seed(0)
    step = torch.randn(len(risk.weights), generator=generator, dtype=torch.float64).to(risk.weights)
    step = step * (1.0 + risk.weights.norm()) / step.norm()
    middle = point.sweep.outputs.reshape(len(risk.points), -1)
    ahead, behind = (risk.at(risk.weights + sign * step).outputs() for sign in (1.0, -1.0))
    close = max(LINEAR, 1e3 * torch.finfo(middle.dtype).eps)
    return bool((ahead + behind - 2 * middle).norm() <= close * (ahead.norm() + middle.norm()))


def _answers(
    point: TrainedPoint, chosen: Sequence[int], factor: Factor, curvature: Tensor, scale: float
) -> Iterator[LeftOut]:
    risk, double = point.risk, torch.float64
    before = Shifted(regularisation_of(risk)[0] * (1.0 / scale - 1.0))
    losses = (point.sweep.gradient - risk.regularisation_gradient()).to(double)
    share = factor.function(before, losses.unsqueeze(1))  # M⁻¹ times the gradient of all losses
    outputs = point.sweep.outputs.reshape(len(risk.points), -1)
    slopes = slopes_at(risk, outputs, point.sweep.targets).to(double)
    count = max(1, AT_ONCE // (point.weights * point.outputs))
    for start in range(0, len(chosen), count):
        part = list(chosen[start : start + count])
        rows = Jacobian(risk.select(part), memory_budget=0).to_dense().to(double)
        solved = factor.function(before, rows.T)
        shape = (len(part), point.outputs, point.weights)
        inner = torch.einsum("ncp,ndp->ncd", rows.reshape(shape), solved.T.reshape(shape))  # K
        pushed = (rows @ share).reshape(len(part), -1)
        shift = scale * torch.einsum("ncd,nd->nc", inner, slopes[part]) - (scale - 1.0) * pushed
        lengths = solved.reshape(point.weights, len(part), -1).square().sum(dim=(0, 2))
        rounding = 10 * torch.finfo(risk.weights.dtype).eps * factor.largest * lengths
        curved = curvature[start : start + count]
        yield from _held(outputs[part], inner, curved, shift / scale, rounding)


def _held(
    outputs: Tensor, inner: Tensor, curved: Tensor, shift: Tensor, rounding: Tensor
) -> Iterator[LeftOut]:
    """The outputs ``f + (I - KΛ)⁻¹ J v`` of each point, with its leverage."""
    values, vectors = torch.linalg.eigh(inner)
    root = (vectors * values.clamp_min(0).sqrt().unsqueeze(1)) @ vectors.mT
    leverages = torch.linalg.eigvalsh(root @ curved @ root)[:, -1]
    lost = (rounding * curved.abs().amax(dim=(1, 2))).clamp(SINGULAR, 1e-2)
    answered = leverages < 1.0 - lost
    middle = torch.eye(inner.shape[1]).to(inner) - inner @ curved
    safe = torch.where(answered[:, None, None], middle, torch.eye(inner.shape[1]).to(inner))
    left_out = outputs + torch.linalg.solve(safe, shift.unsqueeze(2)).squeeze(2).to(outputs.dtype)
    for one, leverage, is_answered in zip(left_out, leverages.tolist(), answered.tolist(), strict=True):
        yield LeftOut(one, leverage, is_answered=is_answered)
