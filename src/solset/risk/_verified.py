"""A loss as an object: what it is of the losses of single points, verified on all of them."""

from collections.abc import Sequence
from dataclasses import replace
from math import isfinite
from typing import cast

import torch
from torch import Tensor, nn

from solset.errors import bad_type, bad_value
from solset.risk._empirical import EmpiricalRisk, Loss, Reduction
from solset.risk._losses import pointwise
from solset.risk._probe import HalfPrecision, probe_indices
from solset.risk._weighed import PointWeights, one_by_one, point_weights, weighed

_ROUNDING = 1e3  # units of rounding by which sums in another order may differ


def reduction_of(loss: Loss, outputs: Tensor, targets: Tensor, *, strict: bool = True) -> Reduction:
    """Whether a loss is a mean or a sum over points, by evaluating it on a batch and point by point.

    Args:
        loss: Function of outputs and targets that returns a scalar.
        outputs: Network outputs of a few points, ``(b, *out)``.
        targets: Targets of the same points.
        strict: Whether a loss that is neither is refused; a mean is returned for it otherwise.

    Raises:
        TypeError: If the loss does not return a scalar tensor.
        ValueError: If the loss is neither, or contradicts its ``reduction`` attribute.
    """
    shaken = _shaken(outputs)
    whole = _checked_value(loss, shaken, targets)
    try:
        alone = pointwise(loss, shaken, targets)
    except (RuntimeError, ValueError, IndexError) as error:
        raise bad_type(
            "loss",
            expected="a loss that takes a single point too",
            got=f"{type(error).__name__} on one point: {error}",
            cure="Look for a squeeze() that drops the axis of the points; squeeze(-1) keeps it. Pass a loss "
            "of all outputs at once as solset.WholeBatch(loss).",
        ) from error
    stated = getattr(loss, "reduction", None)
    close = _ROUNDING * torch.finfo(outputs.dtype).eps * float(alone.abs().sum() + whole.abs())
    fitting = [
        name
        for name, value in (("mean", alone.mean()), ("sum", alone.sum()))
        if isfinite(close) and abs(float(whole) - float(value)) <= close
    ]
    contradicts = fitting and stated in {"mean", "sum"} and stated not in fitting
    if contradicts or (strict and not fitting):
        raise bad_value(
            "loss",
            expected="a mean or a sum over points",
            got=f"reduction {stated!r}: {float(whole):.6g} on a batch, {float(alone.sum()):.6g} summed alone",
            cure="Fold terms of the whole batch into a sum over points.",
        )
    return cast("Reduction", stated if stated in fitting else [*fitting, "mean"][0])


def _checked_value(loss: Loss, outputs: Tensor, targets: Tensor) -> Tensor:
    """The loss of a few points, refused if it is no scalar, or depends on anything that requires grad."""
    with torch.enable_grad():
        whole = loss(outputs, targets)
    if not isinstance(whole, Tensor) or whole.numel() != 1:
        cure = 'Use reduction="mean" or "sum".'
        if isinstance(whole, Tensor):
            got = f"shape {tuple(whole.shape)}"
        else:
            got = type(whole).__name__
            cure = 'Return the one number that training minimised, as reduction="mean" does.'
        raise bad_type("loss", expected="a scalar tensor", got=got, cure=cure)
    if whole.requires_grad and (learned := _learned(loss)):
        raise bad_value(
            "loss",
            expected="a function of outputs and targets, whose own weights are held or belong to the model",
            got=f"weights of its own that require grad ({', '.join(learned)})",
            cure='Let them move by naming them, as in parameters=["*", "loss.*"], or hold them with '
            "requires_grad_(False). If they are the model's, pass an L2 penalty as weight_decay and any "
            "other as penalty=.",
        )
    if whole.requires_grad:  # the outputs are detached
        raise bad_value(
            "loss",
            expected="a function of outputs and targets alone",
            got="one that depends on tensors that require grad, such as a penalty on weights",
            cure="Pass an L2 penalty as weight_decay and any other as penalty=, a function of the parameters "
            "by name; detach weights of the loss itself, which are held.",
        )
    if bool(torch.isinf(whole)):
        raise bad_value(
            "loss",
            expected="finite near the outputs",
            got=f"{float(whole)} on a few points",
            cure="Look at the outputs there: they overflow, or leave the loss's domain.",
        )
    return whole


def _learned(loss: Loss) -> list[str]:
    """The names of the parameters of a loss that require grad."""
    module = loss if isinstance(loss, nn.Module) else getattr(loss, "loss", None)  # of a loss of trees
    parameters = module.named_parameters() if isinstance(module, nn.Module) else []
    return [name for name, value in parameters if value.requires_grad]


def verified(
    risk: EmpiricalRisk, outputs: Tensor, targets: Tensor, sample_weights: Tensor | None = None
) -> EmpiricalRisk:
    """The risk whose loss is what its points say, each with its own weight where they count unequally.

    A class weight, an ignored target or a term of the whole batch may touch only points that a probe of a
    few does not meet. The loss of all points at once is compared with the losses of the points one by one,
    at outputs a little off the trained ones, where no loss is zero. If it is neither their mean nor their
    sum, the weights are looked for with which it is a sum.

    Args:
        risk: The risk at the trained weights; its reduction is what a few points showed.
        outputs: Outputs of all points, ``(n, *out)``.
        targets: Targets of all points, ``(n, ...)``.
        sample_weights: Weights of the points, ``(n,)``, by which the loss of each is multiplied; a mean is
            then divided by their sum. ``None`` for equal ones.

    Returns:
        The same risk for a plain mean or sum; else the risk in which every point counts with its weight.

    Raises:
        ValueError: If the loss is no sum over points.

    Cost: the loss of ``n`` single points and of all at once, with gradients where they count unequally; no
        pass through the network.
    """
    if risk.is_whole:
        return _verified_whole(risk, outputs, targets, sample_weights)
    shaken = _shaken(outputs)
    # Outputs of another point miss the target by far more than rounding, however well the model fits.
    foreign = shaken.roll(len(shaken) // 2, dims=0)
    is_batched = takes_vmap(risk.loss, shaken, targets)
    alone, whole = _alone_and_whole(risk.loss, foreign, targets, is_batched=is_batched)
    if not bool(torch.isfinite(alone).all()):
        alone, whole = _alone_and_whole(risk.loss, shaken, targets, is_batched=is_batched)
    expected = float(alone.mean() if risk.reduction == "mean" else alone.sum())
    scale = float(alone.abs().mean() if risk.reduction == "mean" else alone.abs().sum())
    # The loss of a single point may be 0/0 or infinite, and then says nothing of all points.
    if isfinite(scale) and abs(float(whole) - expected) <= _ROUNDING * torch.finfo(outputs.dtype).eps * scale:
        if sample_weights is None:
            return risk
        factors = sample_weights / (sample_weights.mean() if risk.reduction == "mean" else 1.0)
        forms = {"scales": False, "is_batched": is_batched, "is_normalised": True}
        return weighed(risk, factors, targets, samples=sample_weights, **forms)
    weights = _weights(risk.loss, [foreign, shaken, shaken.roll(1, dims=0)], targets, is_batched=is_batched)
    if weights is None:
        _refuse_not_finite(alone, whole)
        raise bad_value(
            "loss",
            expected="a mean or a sum over points, on every point, if need be with a weight for each",
            got=f"{float(whole):.6g} for all points at once, but a {risk.reduction} of {expected:.6g} one by "
            f"one, and no such weights",
            cure="Pass a loss of all outputs together, such as a contrastive loss or a Dice over the batch, "
            "as solset.WholeBatch(loss): it has no losses of single points.",
        )
    alpha, scales = weights.alpha, weights.scales
    if sample_weights is not None:
        shares = alpha * sample_weights
        alpha, scales = shares * (alpha.sum() / shares.sum()), False
    mean = replace(risk, reduction="mean")
    factors = len(targets) * alpha
    forms = {"scales": scales, "is_batched": is_batched, "is_normalised": weights.scales}
    return weighed(mean, factors, targets, samples=sample_weights, **forms)


def _alone_and_whole(
    loss: Loss, outputs: Tensor, targets: Tensor, *, is_batched: bool
) -> tuple[Tensor, Tensor]:
    """The losses of the points one by one, and the loss of all at once."""
    with torch.no_grad():
        return one_by_one(loss, outputs, targets, is_batched=is_batched), loss(outputs, targets)


def _verified_whole(
    risk: EmpiricalRisk, outputs: Tensor, targets: Tensor, sample_weights: Tensor | None
) -> EmpiricalRisk:
    """The risk of a loss of all outputs at once, whose value has to be one number that outputs decide."""
    if sample_weights is not None:
        raise bad_value(
            "sample_weights",
            expected="left out for a loss of all outputs at once",
            got=f"{len(sample_weights)} weights",
            cure="Let the loss itself weigh the points.",
        )
    with HalfPrecision() as half:
        value = float(_checked_value(risk.loss, _shaken(outputs), targets))
    half.refuse("loss")
    with torch.no_grad():
        again = float(risk.loss(_shaken(outputs), targets))
    if abs(again - value) > _ROUNDING * torch.finfo(outputs.dtype).eps * abs(value):
        raise bad_value(
            "loss",
            expected="the same for the same outputs and targets",
            got=f"{value:.6g} and then {again:.6g}",
            cure="Draw pairs, negatives or noise once, before the problem is built.",
        )
    return replace(risk, reduction="sum")


def _refuse_not_finite(alone: Tensor, whole: Tensor) -> None:
    broken = (~torch.isfinite(alone)).nonzero().flatten().tolist()
    if broken and bool(torch.isfinite(whole)):
        raise bad_value(
            "loss",
            expected="a mean or a sum over points, and finite for each of them",
            got=f"{float(whole):.6g} for all points at once, but values that are not finite for points "
            f"{broken[:5]} one by one",
            cure="Pass a loss of all outputs together, such as one of pairs of points, as "
            "solset.WholeBatch(loss). A loss of single points overflows there, or leaves its domain.",
        )
    if broken or not bool(torch.isfinite(whole)):
        raise bad_value(
            "loss",
            expected="finite, with a finite gradient",
            got=f"values that are not finite in points {broken[:5]}" if broken else float(whole),
            cure="Look at the outputs there: they overflow, or leave the loss's domain.",
        )


def _weights(
    loss: Loss, tries: Sequence[Tensor], targets: Tensor, *, is_batched: bool
) -> PointWeights | None:
    """The weights of the points in float64 where the loss takes it, so that they are as good as the data."""
    precise = targets.to(torch.float64) if targets.is_floating_point() else targets
    try:
        doubled = [outputs.to(torch.float64) for outputs in tries]
        return point_weights(loss, doubled, precise, is_batched=is_batched)
    except (RuntimeError, TypeError):  # a loss with weights of its own dtype
        return point_weights(loss, tries, targets, is_batched=is_batched)


def shares_of(loss: Loss, outputs: Tensor, targets: Tensor) -> Tensor:
    """The weights with which the loss of some points together is a sum of their losses, ``(b,)``.

    Args:
        loss: The user's function of outputs and targets.
        outputs: Outputs of the points, ``(b, *out)``.
        targets: Targets of the points.

    Raises:
        ValueError: If the loss is no such sum.
    """
    shaken = _shaken(outputs)
    tries = [shaken.roll(len(shaken) // 2, dims=0), shaken, shaken.roll(1, dims=0)]
    weights = _weights(loss, tries, targets, is_batched=takes_vmap(loss, shaken, targets))
    if weights is None:
        raise bad_value(
            "targets",
            expected="targets with which the loss is a weighted sum over points",
            got="a loss that is none with these, or is not finite",
            cure="Pass targets like those of training.",
        )
    return weights.alpha


def takes_vmap(loss: Loss, outputs: Tensor, targets: Tensor) -> bool:
    """Whether the losses of many points at once equal those of single ones, tried on a few.

    Args:
        loss: The user's function of outputs and targets.
        outputs: Outputs of the points, ``(b, *out)``.
        targets: Targets of the points.
    """
    probed = probe_indices(len(outputs))
    few, aims = outputs[probed], targets[probed]
    with torch.no_grad():
        try:
            batched = one_by_one(loss, few, aims, is_batched=True)
        except Exception:  # noqa: BLE001 - what a user's loss raises under vmap is anything
            return False
        single = one_by_one(loss, few, aims, is_batched=False)
    rounding = _ROUNDING * torch.finfo(single.dtype).eps
    return torch.allclose(batched, single, rtol=rounding, atol=0.0, equal_nan=True)


def _shaken(outputs: Tensor) -> Tensor:
    """Outputs changed by up to a tenth; positive numbers and probabilities stay so."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(outputs.shape, generator=generator, dtype=torch.float64).to(outputs)
    return torch.where(outputs == 0, 0.1 * noise, outputs * (1.0 - 0.1 * noise))
