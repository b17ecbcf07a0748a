"""The derivative of the loss in its targets, and the outputs that a target asks for."""

from functools import cached_property
from math import prod

import torch
from torch import Tensor

from solset.errors import bad_value
from solset.linalg import LinearOperator
from solset.operators._curvature import loss_curvature
from solset.risk import EmpiricalRisk, flat_rows, losses_at, output_shape, slopes_at, target_form

AGREES = 1e-3  # difference of autograd from a difference quotient, of which the latter explains 1e-6
FLAT = 1e-9  # share of the largest curvature of a point below which its loss counts as flat
STEPS = 30  # limit of Newton's steps to the outputs that a target asks for
_CURE = 'Take "stationary", with weight decay where the loss has no finite minimum.'


class TargetSlopes(LinearOperator):
    """The mixed derivative ``α ∂²_{f,y} L`` of the losses of some points, ``(|K|·c, |K|·t)``.

    Args:
        losses: Losses of the points, whose targets are real numbers.

    Raises:
        ValueError: If the loss has no derivative in its targets, or autograd has a wrong one.

    Cost: one forward pass over the points; then a sweep through their losses for each product.
    """

    def __init__(self, losses: EmpiricalRisk) -> None:
        self._losses, self.outputs = losses, losses.outputs()
        count, self._form = len(losses.points), target_form(losses)[0]
        shape = (self.outputs.numel(), count * prod(self._form))
        super().__init__(shape, losses.weights.dtype, losses.weights.device)
        self._out = output_shape(losses)
        self._require_right()

    @cached_property
    def _targets(self) -> Tensor:
        """The targets, with the factors that may stand beside them."""
        return self._losses.points[range(len(self.outputs))][1]

    def _slope(self, outputs: Tensor, change: Tensor) -> Tensor:
        """The slope ``α ∂_f L`` as a function of outputs and of a change of the targets."""
        targets = self._targets
        flat = flat_rows(targets)
        width = prod(self._form)
        moved = torch.cat([flat[:, :width] + change.to(flat.dtype), flat[:, width:]], dim=1)
        moved = moved.reshape(targets.shape)
        shaped = outputs.reshape(-1, *self._out)
        value = self._losses.batch_scale(len(outputs)) * self._losses.loss(shaped, moved)
        (slope,) = torch.autograd.grad(
            value, outputs, create_graph=True, allow_unused=True, materialize_grads=True
        )
        return slope

    def _leaves(self) -> tuple[Tensor, Tensor]:
        outputs = self.outputs.detach().clone().requires_grad_()
        change = torch.zeros(len(outputs), prod(self._form), dtype=self.dtype, device=self.device)
        return outputs, change.requires_grad_()

    def _apply(self, block: Tensor) -> Tensor:
        directions = block.T.reshape(block.shape[1], len(self.outputs), -1)
        with torch.enable_grad():
            outputs, change = self._leaves()
            cotangent = torch.zeros_like(outputs, requires_grad=True)
            slope = self._slope(outputs, change)
            pulled = _pulled(slope, change, cotangent, create_graph=True)
            columns = [_pulled(pulled, cotangent, part) for part in directions]
        return torch.stack([part.flatten() for part in columns], dim=1)

    def _apply_transposed(self, block: Tensor) -> Tensor:
        cotangents = block.T.reshape(block.shape[1], *self.outputs.shape)
        with torch.enable_grad():
            outputs, change = self._leaves()
            slope = self._slope(outputs, change)
            columns = [_pulled(slope, change, part) for part in cotangents]
        return torch.stack([part.flatten() for part in columns], dim=1)

    def blocks(self) -> Tensor:
        """The derivative at each point, ``(|K|, c, t)``. Cost: a sweep for each output of a point."""
        count, c = self.outputs.shape
        unit = torch.eye(c, dtype=self.dtype, device=self.device)
        rows = [self.T @ unit[j].repeat(count) for j in range(c)]
        return torch.stack([row.reshape(count, -1) for row in rows], dim=1)

    def _require_right(self) -> None:
        """Compares the derivative with a difference along one direction: loss code may round or detach."""
        generator = torch.Generator().manual_seed(0)
        drawn = torch.rand(self.shape[1], generator=generator, dtype=torch.float64).to(
            self.device, self.dtype
        )
        try:
            here, answer = self._leaves()[0], self @ drawn
            step = torch.finfo(self.dtype).eps ** (1 / 3) * float(flat_rows(self._targets).abs().max() + 1.0)
            sides = []
            for sign in (1.0, -1.0):
                with torch.enable_grad():
                    sides.append(self._slope(here, sign * step * drawn.reshape(len(here), -1)).detach())
            difference = ((sides[0] - sides[1]) / (2 * step)).flatten()
            missed, size = float((answer - difference).norm()), float(difference.norm())
            rounding = torch.finfo(self.dtype).eps / step * float(sides[0].norm())
            if missed <= AGREES * max(size, float(answer.norm())) + 1e2 * rounding:
                return
            reason = f"autograd differs from a difference of the slope by {missed:.2g} of {size:.2g}"
        except (RuntimeError, NotImplementedError, TypeError, IndexError, ValueError) as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise bad_value(
            "targets",
            expected="targets in which the loss has a derivative",
            got=reason,
            cure="Pass labels as whole numbers, whose change is finite; or remove points and add others.",
        )


def _pulled(of: Tensor, leaf: Tensor, cotangent: Tensor, *, create_graph: bool = False) -> Tensor:
    if not of.requires_grad:
        return torch.zeros_like(leaf)
    return torch.autograd.grad(
        of,
        leaf,
        cotangent,
        create_graph=create_graph,
        retain_graph=True,
        allow_unused=True,
        materialize_grads=True,
    )[0]


def output_answer(slopes: TargetSlopes, losses: EmpiricalRisk) -> Tensor:
    """``Λ⁺ ∂²_{f,y} L`` at each point, ``(|K|, c, t)``: how far fitted outputs move against a target.

    Args:
        slopes: Derivative of the slopes of the losses in the targets.
        losses: Losses of the points.

    Raises:
        ValueError: If a target asks for outputs along which the loss does not curve.
    """
    blocks = slopes.blocks().to(torch.float64)
    answer, left = _solved(loss_curvature(losses, slopes.outputs).to(torch.float64), blocks)
    if bool((left > 1e-6 * blocks.norm(dim=(1, 2))).any()):
        raise bad_value(
            "optimality",
            expected="a map other than interpolating, where the loss does not curve in the outputs",
            got="a singular curvature of the loss, so that no outputs fit the new targets",
            cure=_CURE,
        )
    return answer.to(losses.weights.dtype)


def _solved(curvature: Tensor, rhs: Tensor) -> tuple[Tensor, Tensor]:
    """The shortest solutions ``(k, c, t)`` of the systems with each curvature, and what is left, ``(k,)``."""
    values, vectors = torch.linalg.eigh(curvature)
    is_curved = values > FLAT * values.amax(dim=1, keepdim=True).clamp_min(1e-300)
    inverse = torch.where(is_curved, 1 / torch.where(is_curved, values, 1.0), 0.0)
    answer = vectors @ (inverse.unsqueeze(2) * (vectors.mT @ rhs))
    return answer, (curvature @ answer - rhs).norm(dim=(1, 2))


def fitted_outputs(losses: EmpiricalRisk) -> Tensor:
    """The outputs at which the losses of some points are minimal, near those of the network, ``(|K|, c)``.

    Args:
        losses: Losses of the points, at the weights from whose outputs to start.

    Raises:
        ValueError: If there is no such minimum that a loss curves at: that of cross-entropy is at infinity.

    Cost: one forward pass over the points, and up to thirty passes through the curvature of their losses.
    """
    try:
        outputs = _newton(losses, losses.outputs().to(torch.float64))
    except RuntimeError:  # a loss with weights of its own dtype
        outputs = _newton(losses, losses.outputs())
    if outputs is None:
        raise bad_value(
            "optimality",
            expected="a map other than interpolating for a loss without a finite minimum in the outputs",
            got="no outputs that fit the new targets, such as those of cross-entropy for a label",
            cure=_CURE,
        )
    return outputs.to(losses.weights.dtype)


def _newton(losses: EmpiricalRisk, outputs: Tensor) -> Tensor | None:
    """Newton's method for each point by itself; ``None`` where it does not end at a minimum that curves."""
    first, largest = 0.0, 0.0
    accuracy = 10 * torch.finfo(outputs.dtype).eps
    for _ in range(STEPS):
        slopes = slopes_at(losses, outputs)
        curvature = loss_curvature(losses, outputs).to(torch.float64)
        if not bool(torch.isfinite(slopes).all() & torch.isfinite(curvature).all()):
            return None
        size, curved = slopes.norm(dim=1), curvature.norm(dim=(1, 2))
        first, largest = max(first, float(size.max())), max(largest, float(curved.max()))
        reach = curved.to(outputs.dtype) * (1.0 + outputs.norm(dim=1))
        if bool((size <= accuracy * torch.maximum(reach, size.new_tensor(first))).all()):
            return outputs if bool((curved > 1e-6 * largest).all()) else None
        step, left = _solved(curvature, -slopes.to(torch.float64).unsqueeze(2))
        if bool((left > 1e-6 * size.clamp_min(accuracy * first)).any()):
            return None
        outputs = _lowered(losses, outputs, step.squeeze(2).to(outputs.dtype))
    return None


def _lowered(losses: EmpiricalRisk, outputs: Tensor, step: Tensor) -> Tensor:
    """The outputs after a step of each point, halved while it raises the point's loss."""
    before = losses_at(losses, outputs)
    scale = outputs.new_ones(len(outputs), 1)
    for _ in range(20):
        after = losses_at(losses, outputs + scale * step)
        is_higher = ~(after <= before + 1e-12 * before.abs())
        if not bool(is_higher.any()):
            break
        scale[is_higher] /= 2
    return outputs + scale * step
