"""A loss whose points count unequally: class weights, ignored targets, masks, weights of samples."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import prod

import torch
from torch import Tensor

from solset.checks import points_of, require, shaped
from solset.errors import bad_value
from solset.risk._empirical import EmpiricalRisk, Loss
from solset.risk._layout import flat_rows
from solset.risk._points import Batch, Indices


@dataclass(frozen=True)
class WeighedLoss:
    """The mean (or sum) of ``c_i ℓ_i`` over a batch; the last column of its targets holds the ``c_i``.

    Targets without that column are those of other points, such as a validation set: on them it is the user's
    loss itself.

    Attributes:
        loss: The user's function of outputs and targets.
        shape: Shape of one point's target.
        dtype: Type of the targets.
        is_mean: Whether a batch is averaged; it is summed otherwise.
        scales: Whether the user's loss of a batch times the mean of ``c_i`` is the mean of ``c_i ℓ_i``, as it
            is for class weights; otherwise the loss is taken of each point by itself.
        is_batched: Whether :func:`torch.vmap` takes the loss of many points by themselves at once.
        is_normalised: Whether the loss of fewer points is divided by the sum of their own factors, so that it
            is known when points are removed.
        samples: Weights of the training points that were passed beside the loss, ``(n,)``; ``None`` for none.
    """

    loss: Loss
    shape: tuple[int, ...]
    dtype: torch.dtype
    is_mean: bool
    scales: bool
    is_batched: bool
    is_normalised: bool
    samples: Tensor | None = field(default=None, compare=False, repr=False)

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of a batch."""
        if not self.has_factors(targets):
            return self.loss(outputs, targets)
        factors, plain = targets[:, -1].to(outputs.dtype), self.plain(targets, outputs.dtype)
        counted = factors != 0  # the loss of an ignored point may be 0/0
        if not bool(counted.all()):
            factors, plain, rows = factors[counted], plain[counted], outputs[counted]
        else:
            rows = outputs
        if len(rows) == 0:
            return 0.0 * outputs.sum()
        if self.scales:
            total = factors.sum() * self.loss(rows, plain).reshape(())
        else:
            total = factors @ one_by_one(self.loss, rows, plain, is_batched=self.is_batched)
        return total / len(targets) if self.is_mean else total

    def has_factors(self, targets: Tensor) -> bool:
        """Whether targets have the column of factors."""
        has_column = tuple(targets.shape[1:]) == (prod(self.shape) + 1,) != self.shape
        return has_column and targets.dtype == torch.float64

    def plain(self, targets: Tensor, dtype: torch.dtype) -> Tensor:
        """The targets alone, real numbers in the type of the outputs.

        Args:
            targets: Rows of targets and factors, ``(b, q + 1)``.
            dtype: Type of the outputs.
        """
        wanted = dtype if self.dtype.is_floating_point else self.dtype
        return targets[:, :-1].reshape(len(targets), *self.shape).to(wanted)


def plain_targets(risk: EmpiricalRisk, targets: Tensor) -> Tensor:
    """The user's targets of a batch, without what a risk keeps beside them."""
    loss = risk.loss
    return loss.plain(targets, loss.dtype) if isinstance(loss, WeighedLoss) else targets


def point_factors(risk: EmpiricalRisk, points: Indices) -> Tensor | None:
    """The factors ``c_i`` of some points, ``(|K|,)``; ``None`` where all points count alike.

    Raises:
        ValueError: If it is not known by what a mean over fewer points is divided.
    """
    loss = risk.loss
    if not isinstance(loss, WeighedLoss):
        return None
    if risk.reduction == "mean" and not loss.is_normalised:
        raise bad_value(
            "loss",
            expected="a weighted mean over the points of any batch, where points are removed or reweighted",
            got="one whose divisor is no sum over the points, such as the number of positives",
            cure="Write it as a sum, or divide by a fixed number.",
        )
    return risk.points[points_of(points, len(risk.points))][1][:, -1].to(risk.weights)


def weighed(
    risk: EmpiricalRisk,
    factors: Tensor,
    targets: Tensor,
    *,
    scales: bool,
    is_batched: bool,
    is_normalised: bool,
    samples: Tensor | None = None,
) -> EmpiricalRisk:
    """The risk in which the loss of each point counts times a factor.

    Args:
        risk: Risk of which the loss is a mean or a sum.
        factors: Factor ``c_i`` of each point, ``(n,)``.
        targets: Targets of some points, for their shape and type.
        scales: Whether the loss of a batch scales, as :class:`WeighedLoss` says.
        is_batched: Whether ``torch.vmap`` takes the loss.
        is_normalised: Whether a mean is divided by the sum of the factors, as :class:`WeighedLoss` says.
        samples: Weights of the training points that are a part of the factors, ``(n,)``.
    """
    points, column = risk.points, factors.to(torch.float64)

    def fetch(indices: Sequence[int]) -> Batch:
        inputs, plain = points[indices]
        columns = (flat_rows(plain).to(torch.float64), column[list(indices)].unsqueeze(1))
        return inputs, torch.cat(columns, dim=1)

    shape, is_mean = tuple(targets.shape[1:]), risk.reduction == "mean"
    loss = WeighedLoss(risk.loss, shape, targets.dtype, is_mean, scales, is_batched, is_normalised, samples)
    return replace(risk, points=replace(points, fetch=fetch, moved={}), loss=loss)


def one_by_one(loss: Loss, outputs: Tensor, targets: Tensor, *, is_batched: bool) -> Tensor:
    """The loss of each point by itself, ``(b,)``."""

    def single(output: Tensor, target: Tensor) -> Tensor:
        return loss(output.unsqueeze(0), target.unsqueeze(0)).reshape(())

    if is_batched:
        with warnings.catch_warnings():
            # Losses without a batching rule run in a loop: slow, and as correct as the others.
            warnings.filterwarnings("ignore", message="There is a performance drop", category=UserWarning)
            return torch.vmap(single)(outputs, targets)
    return torch.stack([single(output, target) for output, target in zip(outputs, targets, strict=True)])


@dataclass(frozen=True)
class PointWeights:
    """Weights ``α_i`` with which a loss of all points is ``Σ α_i ℓ_i``."""

    alpha: Tensor  # Weight of each point, ``(n,)``; 0 for one that is ignored
    scales: bool  # Whether the loss of a batch is ``Σ α_i ℓ_i / Σ α_i`` over its points, as tried on some
    is_batched: bool  # Whether :func:`torch.vmap` takes the loss


def point_weights(
    loss: Loss, tries: Sequence[Tensor], targets: Tensor, *, is_batched: bool
) -> PointWeights | None:
    """The weights with which the loss of all points is a sum over points, or ``None`` if it is none.

    ``∇_f L`` of all points at once is ``α_i ∇_f ℓ_i`` at each point, whatever the outputs. The weights are
    read from one set of outputs and have to hold at the others, for gradients and values.

    Cost: a gradient of the loss of all points and of ``n`` single ones for each set of outputs.
    """
    slopes = [_slopes(loss, outputs, targets, is_batched=is_batched) for outputs in tries]
    if not all(bool(torch.isfinite(whole).all()) for _, whole, _, _ in slopes):
        return None
    # The loss of an ignored point is 0/0: it has no gradient of its own, and must have none among all.
    alone = torch.stack([part.nan_to_num(0.0, 0.0, 0.0) for _, _, _, part in slopes])
    whole = torch.stack([part for _, part, _, _ in slopes])
    squares = alone.square().sum(dim=2)
    best = squares.argmax(dim=0)
    at = torch.arange(len(best), device=best.device)
    products = (whole * alone).sum(dim=2)[best, at]
    alpha = torch.where(squares[best, at] > 0, products / squares[best, at].clamp_min(1e-300), 0.0)
    close = 1e4 * torch.finfo(whole.dtype).eps
    size = whole.norm(dim=2)
    missed = (whole - alpha.unsqueeze(1) * alone).norm(dim=2)
    if bool((missed > close * (size + size.mean(dim=1, keepdim=True))).any()):
        return None
    for value, _, values, _ in slopes:
        parts = torch.where(alpha == 0, 0.0, alpha * values)
        if not float((value - parts.sum()).abs()) <= close * float(parts.abs().sum()):
            return None
    scales = all(
        _scales(loss, outputs, targets, alpha, values, close)
        for outputs, (_, _, values, _) in zip(tries, slopes, strict=True)
    )
    return PointWeights(alpha, scales, is_batched)


def _slopes(loss: Loss, outputs: Tensor, targets: Tensor, *, is_batched: bool) -> tuple[Tensor, ...]:
    """Value and gradient of the loss of all points, and of the loss of each by itself."""
    leaf = outputs.detach().clone().requires_grad_()
    with torch.enable_grad():
        value = loss(leaf, targets).reshape(())
        (whole,) = torch.autograd.grad(value, leaf, allow_unused=True, materialize_grads=True)
        values = one_by_one(loss, leaf, targets, is_batched=is_batched)
        (alone,) = torch.autograd.grad(values.sum(), leaf, allow_unused=True, materialize_grads=True)
    return value.detach(), flat_rows(whole), values.detach(), flat_rows(alone)


def _scales(
    loss: Loss, outputs: Tensor, targets: Tensor, alpha: Tensor, values: Tensor, close: float
) -> bool:
    """Whether the loss of some random batches is the weighted mean of their points."""
    counted = (alpha != 0).nonzero().flatten()
    generator = torch.Generator().manual_seed(0)
    for size in (1, 2, 3, max(4, len(counted) // 3), max(4, 2 * len(counted) // 3)):
        order = torch.randperm(len(counted), generator=generator).to(counted.device)
        chosen = counted[order[:size]]
        with torch.no_grad():
            value = float(loss(outputs[chosen], targets[chosen]))
        parts = alpha[chosen] * values[chosen]
        total = float(alpha[chosen].sum()) * value
        if not abs(total - float(parts.sum())) <= close * float(parts.abs().sum()):
            return False
    return True


def sample_factors(sample_weights: Tensor, count: int, like: Tensor) -> Tensor:
    """The weights of samples, checked, ``(n,)``.

    Raises:
        TypeError: If they are not a tensor.
        ValueError: If there is not one for each point, or one is negative or not finite, or all are zero.
    """
    cure = "Pass one number of at least 0 for each training point."
    require("sample_weights", sample_weights, Tensor, cure=cure)
    shaped("sample_weights", sample_weights, (count,), cure=cure)
    values = sample_weights.detach().to(like.device, torch.float64)
    if not (bool(torch.isfinite(values).all()) and bool((values >= 0).all()) and bool((values > 0).any())):
        low, high = float(values.min()), float(values.max())
        raise bad_value(
            "sample_weights", expected="finite and not negative", got=f"{low} to {high}", cure=cure
        )
    return values
