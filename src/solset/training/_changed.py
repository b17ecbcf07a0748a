"""A training on changed data: what a change asks for, checked against the recipe."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from solset.changes import Change, TrainingChange, require_change
from solset.checks import shaped
from solset.errors import bad_type, bad_value
from solset.risk import mapped, named_tensors, source_of
from solset.training._adjustment import Adjustment, decays_of, require_rate
from solset.training._calculus import derivatives
from solset.training._data import Data, joined
from solset.training._losses import LossByPoints, losses_of, refuse_factors
from solset.training._setting import Setting
from solset.training._slopes import BatchSlope
from solset.training._state import own_randomness, trained
from solset.training._step import Record, StepDerivative
from solset.training._told import told

_LIKE_TRAINING = "Pass them as the training data were passed."


def training_change(
    setting: Setting, change: Change, *, counts_alike: bool = True
) -> tuple[TrainingChange, Adjustment]:
    """What a change does to a training, checked against its data, its loss and its optimizer.

    Raises:
        TypeError: If it is no change, or its data are of another kind than those of training.
        ValueError: If it does not fit the data, the loss or the optimizer.

    Cost: a forward pass of relabelled and new points.
    """
    require_change(change)
    data = setting.data
    asked = change.of_training(len(data), lambda: data.space)
    asked = replace(asked, targets=_targets_like(data, asked.targets), added=_added_like(data, asked.added))
    model, optimizer = setting.pair()
    names = {id(value): name for name, value in trained(model).items()}
    parts = [decays_of(step, optimizer, names, setting.adjustment) for step in asked.decays]
    if asked.rate:
        require_rate(optimizer)
    decays = tuple(map(sum, zip(*parts, strict=True)))
    if asked.added:
        _require_apart(data, model)
    if asked.targets or asked.added:
        _require_taken(setting, model, asked, counts_alike=counts_alike)
    return asked, Adjustment(decays, asked.rate)


def changed(setting: Setting, change: Change, scale: float = 1.0) -> Setting:
    """The same training on changed data, with a changed optimizer where the change says so.

    Raises:
        TypeError: As for :func:`training_change`.
        ValueError: As for :func:`training_change`, or if a setting of the optimizer becomes negative.
    """
    asked, adjustment = training_change(setting, change, counts_alike=scale != 1.0)
    return at_scale(setting, asked, adjustment, scale)


def at_scale(setting: Setting, asked: TrainingChange, adjustment: Adjustment, scale: float) -> Setting:
    """The same training after a part of a change.

    Args:
        setting: Parts of the training.
        asked: Change of the data, from :func:`training_change`.
        adjustment: Change of the optimizer, from the same.
        scale: Part of the change that is made; 0 only makes room for what joins.
    """
    whole = setting.adjustment.then(adjustment, scale)
    if adjustment:
        _, optimizer = setting.pair()
        settings = whole.adjusted([dict(group) for group in optimizer.param_groups])
        least = min(float(each.get("weight_decay", 0.0)) for each in settings)
        if least < 0 or whole.rate < -1:
            raise bad_value(
                "change",
                expected="such that no weight decay or learning rate is negative afterwards",
                got=f"a weight decay of {least:g}" if least < 0 else f"a rate times {1 + whole.rate:g}",
                cure="The change is added to the weight decay, and multiplies the learning rate.",
            )
    return replace(setting, data=setting.data.changed(asked, scale), adjustment=whole)


def batch_change(
    derivative: StepDerivative, record: Record, change: TrainingChange, start: Data, end: Data
) -> BatchSlope:
    """The change of one batch: zeros but for its points that change."""
    features, targets, factors, shares = (
        None if leaf is None else torch.zeros_like(leaf) for leaf in derivative.batch_leaves(record)
    )
    points = start.of_step(record.batch, record.step)
    for row, point in enumerate(points):
        if features is not None and point in change.features:
            features[row] = change.features[point]
        if targets is not None and point in change.targets:
            targets[row] = end.targets[point] - start.targets[point]
        if shares is not None and point in start.labels:
            shares[row] = 1.0
    if factors is not None and start.factors is not None and end.factors is not None:
        factors = (end.factors - start.factors)[points].to(factors)
    return BatchSlope(features, targets, factors, shares)


def _targets_like(data: Data, new: Mapping[int, Tensor]) -> dict[int, Tensor]:
    """The new targets in the form of those of training."""
    if not new:
        return {}
    old = data.read([0])[1]
    if not isinstance(old, Tensor):
        got = f"targets that are a {type(old).__name__}"
        cure = "Run a Training of the changed data."
        raise bad_type("change", expected="new targets where each is one tensor", got=got, cure=cure)
    values = torch.stack(list(new.values()))
    shaped(
        "targets",
        values,
        (len(values), *old.shape[1:]),
        cure="Pass one target for each point, like in training.",
    )
    if values.is_floating_point() and not old.is_floating_point():
        cure = f"Training has targets of this type: use `targets.to({old.dtype})`."
        raise bad_type("targets", expected=str(old.dtype), got=str(values.dtype), cure=cure)
    if not bool(torch.isfinite(values).all()):
        cure = "Remove the points instead."
        raise bad_value("targets", expected="finite", got="NaN or infinite entries", cure=cure)
    return dict(zip(new, values.to(old.device, old.dtype), strict=True))


def _added_like(data: Data, added: Sequence[tuple[Any, Any]]) -> tuple[tuple[Any, Any], ...]:
    """The new points as one pair of trees like those of training."""
    if not added:
        return ()
    if data.entry is None:
        raise bad_value(
            "change",
            expected="no new points for a recorded loop, whose batches are those of its own loader",
            got="Add",
            cure="Write the loop as a Training, which says in which batches new points come.",
        )
    like = data.read([0])
    pairs = []
    for inputs, targets in added:
        source = source_of(inputs, targets, next(iter(dict(named_tensors(like[0])).values())))
        pair = source.read(range(source.count))
        for name, old, new in zip(("inputs", "targets"), like, pair, strict=True):
            _require_same_form(name, old, new)
        pairs.append(pair)
    whole = pairs[0]
    for pair in pairs[1:]:
        whole = joined(whole, pair)
    return (whole,)


def _require_same_form(name: str, old: Any, new: Any) -> None:
    forms = [
        {path: (tuple(value.shape[1:]), value.dtype) for path, value in named_tensors(tree)}
        for tree in (old, new)
    ]
    if forms[0] != forms[1]:
        shown = [", ".join(f"{path} {form}".strip() for path, form in one.items()) for one in forms]
        raise bad_value(name, expected=f"{shown[0]} for each point", got=shown[1], cure=_LIKE_TRAINING)


def _require_apart(data: Data, model: nn.Module) -> None:
    """Refuses layers in which a new point would be seen by the others, whatever its factor."""
    layers = [
        name for name, module in model.named_modules() if isinstance(module, _BatchNorm) and module.training
    ]
    if layers and data.entry is not None:
        raise bad_value(
            "change",
            expected="no new points for a model whose layers see the whole batch",
            got=f"Add, and BatchNorm in {', '.join(layers[:3])}",
            cure="Use GroupNorm or LayerNorm, or run a Training of the larger data.",
        )


def _require_taken(setting: Setting, model: nn.Module, asked: TrainingChange, *, counts_alike: bool) -> None:
    """Refuses targets that the loss does not take, or in which it has no derivative."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()  # a few points are no batch
    drawn, points = setting.data.drawn, list(asked.targets)
    for group in ([i for i in points if i < drawn], [i for i in points if i >= drawn]):
        for start in range(0, len(group), 256):
            some = group[start : start + 256]
            inputs, old = setting.data.read(some)
            new = torch.stack([asked.targets[i] for i in some])
            _require_loss(setting, model, inputs, new, old, counts_alike=counts_alike)
    for inputs, targets in asked.added:
        _require_loss(setting, model, inputs, targets, None, counts_alike=True)


def _require_loss(
    setting: Setting, model: nn.Module, inputs: Any, new: Any, old: Any, *, counts_alike: bool
) -> None:
    tensors = [value for _, value in named_tensors(new)]
    device = tensors[0].device
    takes = "such that the model takes them"
    with own_randomness(device), torch.no_grad(), told("inputs", takes, _LIKE_TRAINING):
        outputs = setting.call(model, inputs)
    outputs, new = _on_host(outputs), _on_host(new)
    if old is not None and isinstance(new, Tensor) and new.is_floating_point():
        _require_slope(setting.loss, outputs, new, _on_host(old))
        return
    loss = copy.deepcopy(setting.loss).cpu() if isinstance(setting.loss, nn.Module) else setting.loss
    rule = setting.by_points
    if rule is None:
        if counts_alike:
            raise refuse_factors("new targets")
        terms = _tried(lambda: losses_of(loss)(outputs, new))
    else:
        terms = _tried(lambda: LossByPoints(loss, rule.divides).terms(outputs, new)[0])
    if not bool(torch.isfinite(terms).all()):
        _refuse("a loss that is not finite")


def _on_host(tree: Any) -> Any:
    """A tree in the memory of the host, where a label out of range is an error and no fault of the device."""
    return mapped(tree, lambda value, _: value.cpu() if isinstance(value, Tensor) else value)


def _require_slope(loss: Any, outputs: Any, new: Tensor, old: Tensor) -> None:
    """Refuses a loss that changes with the targets, but has no derivative in them."""
    with torch.enable_grad():
        leaf = old.detach().clone().requires_grad_()
        before, after = _tried(lambda: (loss(outputs, leaf), loss(outputs, new)))
        (slope,) = derivatives([before], [leaf])
    if not bool(torch.isfinite(after)):
        _refuse("a loss that is not finite")
    if not bool((slope != 0).any()) and float(after) != float(before.detach()):
        raise bad_value(
            "change",
            expected="no new targets for a loss without a derivative in them",
            got="a loss that changes with the targets, and whose derivative in them is zero",
            cure="Pass class labels as whole numbers, or remove the points and add them again.",
        )


def _tried(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except (RuntimeError, TypeError, IndexError, KeyError, AssertionError, ValueError) as error:
        _refuse(f"{type(error).__name__}: {error}".splitlines()[0].rstrip("."), error)


def _refuse(got: str, error: Exception | None = None) -> NoReturn:
    raise bad_value(
        "targets",
        expected="such that the loss takes them",
        got=got,
        cure="Pass labels that the model has outputs for, as in training.",
    ) from error
