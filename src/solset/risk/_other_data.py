"""The same risk with other targets, more points, or points that count less or more, and what forbids it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from solset.checks import shaped
from solset.errors import bad_type, bad_value
from solset.linalg import Space
from solset.risk._empirical import EmpiricalRisk
from solset.risk._layout import flat_rows
from solset.risk._learned import with_held_weights
from solset.risk._points import Batch, Points
from solset.risk._probe import probe_indices
from solset.risk._sources import source_of
from solset.risk._verified import shares_of, takes_vmap
from solset.risk._weighed import WeighedLoss, one_by_one, plain_targets, weighed

_CURE = "Pass one target for each point, in the order of the points, shaped like one of the training."
_ROUNDING = 1e3  # units of rounding by which sums in another order may differ


def require_points(risk: EmpiricalRisk) -> None:
    """Refuses a loss that is one of all outputs at once, and has no part that belongs to a point.

    Raises:
        ValueError: If it has such a loss.
    """
    if risk.is_whole:
        raise bad_value(
            "change",
            expected="a move of features, where the loss is one of all outputs at once",
            got="a change of how much points count, or of which there are",
            cure="Such a loss has no part that belongs to a point: build the problem of the changed data.",
        )


def target_form(risk: EmpiricalRisk) -> tuple[tuple[int, ...], torch.dtype]:
    """The shape and the type of one point's target, as the user's loss takes it; a tree is one row."""
    loss = risk.loss
    if isinstance(loss, WeighedLoss):
        return loss.shape, loss.dtype
    targets = risk.points[[0]][1]
    return tuple(targets.shape[1:]), targets.dtype


def has_number_targets(risk: EmpiricalRisk) -> bool:
    """Whether the targets are real numbers, in which a loss may have a derivative."""
    tree = risk.points.targets
    return target_form(risk)[1].is_floating_point if tree is None else all(x.is_floating for x in tree.leaves)


def target_rows(risk: EmpiricalRisk, targets: Any, count: int) -> Tensor:
    """New targets of some points in the form of the training targets, ``(count, *target)``.

    Raises:
        TypeError: If they are of another kind than the training targets.
        ValueError: If shape or device do not fit, or a number is not finite.
    """
    shape, dtype = target_form(risk)
    if risk.points.targets is not None:
        rows = risk.points.target_rows(targets, risk.weights)
    else:
        rows = _as_tensor(targets, dtype, risk.weights.device)
    shaped("targets", rows, (count, *shape), cure=_CURE)
    if not bool(torch.isfinite(rows).all()):
        raise bad_value("targets", expected="finite", got="NaN or infinite entries", cure=_CURE)
    return rows


def _as_tensor(targets: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
    is_tensor = isinstance(targets, Tensor)
    try:
        values = targets.detach() if is_tensor else torch.as_tensor(targets, device=device)
    except (TypeError, ValueError, RuntimeError) as error:
        got = type(targets).__name__
        raise bad_type("targets", expected=f"numbers ({dtype})", got=got, cure=_CURE) from error
    is_real = values.dtype.is_floating_point
    fits = values.dtype == dtype if is_tensor and is_real else not is_real or dtype.is_floating_point
    if not fits or (is_tensor and is_real != dtype.is_floating_point):
        got, cure = str(values.dtype), f"Training has targets of this type: use `targets.to({dtype})`."
        raise bad_type("targets", expected=str(dtype), got=got, cure=cure)
    if values.device != device:
        raise bad_value(
            "targets", expected=f"on {device}", got=f"on {values.device}", cure="Move them there."
        )
    return values.to(dtype)


def with_targets(
    risk: EmpiricalRisk, points: Sequence[int], rows: Tensor, factors: Tensor | None = None
) -> EmpiricalRisk:
    """The same risk with other targets of some points."""
    if factors is not None:
        risk = as_weighed(risk)
        columns = (flat_rows(rows).to(torch.float64), factors.to(torch.float64).unsqueeze(1))
        rows = torch.cat(columns, dim=1)
    before, new = risk.points, dict(zip(points, rows, strict=True))

    def fetch(indices: Sequence[int]) -> Batch:
        inputs, targets = before.fetch(indices)
        if new.keys().isdisjoint(indices):
            return inputs, targets
        return inputs, torch.stack([new.get(i, targets[j]) for j, i in enumerate(indices)])

    return replace(risk, points=replace(before, fetch=fetch))


def as_weighed(risk: EmpiricalRisk) -> EmpiricalRisk:
    """The same risk with a factor for each point, which is 1 where all count alike.

    Cost: a forward pass of a few points.
    """
    if isinstance(risk.loss, WeighedLoss):
        return risk
    few = probe_indices(len(risk.points))
    outputs, targets = _outputs_of(risk, risk.points[few][0]), risk.points[few][1]
    return weighed(
        risk,
        torch.ones(len(risk.points), dtype=torch.float64, device=risk.weights.device),
        targets,
        scales=False,
        is_batched=takes_vmap(risk.loss, outputs, targets),
        is_normalised=True,
    )


def with_factors(risk: EmpiricalRisk, factors: Tensor, total: float) -> EmpiricalRisk:
    """The same risk in which the points count with other factors.

    Args:
        risk: Empirical risk in which each point has a factor, from :func:`as_weighed`.
        factors: New factor of each point, ``(n,)``.
        total: Number by which a mean is divided.
    """
    before, column = risk.points, factors.to(torch.float64)

    def fetch(indices: Sequence[int]) -> Batch:
        inputs, rows = before[indices]
        return inputs, torch.cat([rows[:, :-1], column[list(indices)].unsqueeze(1)], dim=1)

    loss = risk.loss
    assert isinstance(loss, WeighedLoss)  # noqa: S101 - see the argument
    points = replace(before, fetch=fetch, moved={})
    return replace(risk, points=points, loss=replace(loss, scales=False), total=total)


def joined(first: Points, more: Points) -> Points:
    """Training points with others after them."""
    count = len(first)

    def fetch(indices: Sequence[int]) -> Batch:
        old = [j for j, i in enumerate(indices) if i < count]
        new = [j for j, i in enumerate(indices) if i >= count]
        parts = [first[[indices[j] for j in old]]] if old else []
        parts += [more[[indices[j] - count for j in new]]] if new else []
        order = torch.as_tensor([*old, *new]).argsort()
        x, y = (torch.cat([part[side] for part in parts]) for side in (0, 1))
        return x[order.to(x.device)], y[order.to(y.device)]

    return replace(first, count=count + len(more), fetch=fetch, moved={})


def candidates(risk: EmpiricalRisk, inputs: Any, targets: Any) -> Points:
    """Points that are not in the training data, in the form of those that are.

    Raises:
        TypeError: If they are of another kind than the training data.
        ValueError: If shapes, dtypes, devices or trees do not fit, or an entry is not finite.
    """
    before, weights = risk.points, risk.weights
    source = source_of(inputs, targets, weights[:0])
    x, y = source.read(range(source.count))
    if before.tree is None:
        if not isinstance(x, Tensor):
            cure = "Pass them as the training data were passed."
            raise bad_type("inputs", expected="one tensor", got=f"a {type(x).__name__}", cure=cure)
        shape = (source.count, *before.feature_shape)
        Space("inputs", shape, weights.dtype, weights.device).flatten(x)
        x = x.reshape(shape)
    else:
        x = before.rows(x, before[[0]][0])
    y = target_rows(risk, y, source.count)
    return replace(before, count=source.count, fetch=lambda i: (x[list(i)], y[list(i)]), moved={}, alone=None)


def new_factors(risk: EmpiricalRisk, inputs: Tensor, rows: Tensor, points: Sequence[int]) -> Tensor | None:
    """The factors with which new targets count, such as the weight of a class; ``None`` where all are 1.

    The user's loss of these points and of some training points together tells them. A weight of a sample
    stays with its point; a point that joins has the mean weight.

    Args:
        risk: Empirical risk at the trained point.
        inputs: Inputs of the points that have the new targets.
        rows: New targets, from :func:`target_rows`.
        points: Indices of the points of which these are the new targets; none for points that join.

    Raises:
        ValueError: If the loss does not take the new targets, is not finite there, or is no weighted sum over
            points with them.

    Cost: a forward pass of these points and a few others, and passes through their losses.
    """
    loss = risk.loss
    user_loss = with_held_weights(loss.loss if isinstance(loss, WeighedLoss) else loss)
    samples = loss.samples if isinstance(loss, WeighedLoss) else None
    counting = range(len(risk.points)) if samples is None else samples.nonzero().flatten().tolist()
    probes = [counting[place] for place in probe_indices(len(counting))]
    near = [*points, *(i for i in probes if i not in set(points))]
    before, targets = risk.points[near]
    outputs = _outputs_of(risk, torch.cat([before, inputs]))
    plain = plain_targets(risk, targets)
    new_rows = rows.to(plain.dtype)
    shares = _shares(user_loss, outputs, torch.cat([plain, new_rows]))
    old, new = shares[: len(near)], shares[len(near) :]
    counted = new != 0  # the loss of an ignored point by itself is 0/0
    if bool(counted.any()):
        _require_finite(user_loss, outputs[len(near) :][counted], new_rows[counted])
    factors = targets[:, -1].to(shares) if isinstance(loss, WeighedLoss) else torch.ones_like(old)
    if points:
        old, factors = old[: len(points)], factors[: len(points)]
        if bool((old == 0).any()):
            raise bad_value(
                "points",
                expected="points that count, where their labels change",
                got=f"ignored points {[p for p, s in zip(points, old.tolist(), strict=True) if s == 0][:5]}",
                cure="Remove or add them instead.",
            )
        factors = factors * new / old
    else:
        typical = 1.0 if samples is None else samples[near].to(factors) / samples.mean().to(factors)
        factors = new * ((factors / typical).sum() / old.sum())
    close = 1e3 * torch.finfo(outputs.dtype).eps
    is_plain = not isinstance(loss, WeighedLoss) and bool(((factors - 1).abs() <= close).all())
    return None if is_plain else factors


def _shares(loss: Any, outputs: Tensor, targets: Tensor) -> Tensor:
    try:
        return shares_of(loss, outputs, targets)
    except (RuntimeError, TypeError, IndexError, KeyError, AssertionError) as error:
        raise bad_value(
            "targets",
            expected="such that the loss takes them",
            got=f"{type(error).__name__}: {error}".splitlines()[0].rstrip("."),
            cure="Pass labels that the network has outputs for, as in training.",
        ) from error


def _require_finite(loss: Any, outputs: Tensor, targets: Tensor) -> None:
    """Refuses targets at which the loss or its slope is infinite, as of an outcome that has probability 0."""
    with torch.enable_grad():
        leaf = outputs.detach().requires_grad_()
        value = loss(leaf, targets)
        slopes = torch.autograd.grad(value, leaf, allow_unused=True)[0] if value.requires_grad else None
    for text, part in (("a loss", value.detach()), ("a slope of the loss in the outputs", slopes)):
        if part is not None and not bool(torch.isfinite(part).all()):
            raise bad_value(
                "targets",
                expected="such that the loss is finite, with a finite gradient",
                got=f"{text} that is not",
                cure="Choose targets to which the model gives a probability above 0, or retrain.",
            )


def _outputs_of(risk: EmpiricalRisk, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        return risk.forward(risk.layout.split(risk.weights), inputs)


def targets_obstacle(risk: EmpiricalRisk, outputs: Tensor, targets: Tensor) -> str:
    """What keeps targets from having a derivative; empty where they have one.

    Args:
        risk: Empirical risk with the loss.
        outputs: Outputs of all points, ``(n, *out)``.
        targets: Targets of all points, as the risk keeps them.

    Cost: a pass through the loss where points count unequally; the network is not run.
    """
    if risk.points.targets is not None:
        return "targets are several tensors"
    if risk.door.moves_target:
        return "targets move with the inputs, whose derivative includes theirs"
    plain, loss = plain_targets(risk, targets), risk.loss
    if not plain.is_floating_point():
        return "targets are class labels or other whole numbers"
    if isinstance(loss, WeighedLoss):
        with torch.no_grad():
            alone = one_by_one(loss.loss, outputs, plain, is_batched=loss.is_batched)
            whole = float(loss.loss(outputs, plain))
        expected, size = (float(part.mean() if loss.is_mean else part.sum()) for part in (alone, alone.abs()))
        if not abs(whole - expected) <= _ROUNDING * torch.finfo(outputs.dtype).eps * size:
            return "the weights that the loss takes from targets would change with them"
    return ""
