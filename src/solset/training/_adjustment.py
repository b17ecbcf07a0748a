"""The settings of an optimizer as data of a training: weight decay and learning rate."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim import Optimizer

from solset.errors import bad_value
from solset.risk import matches
from solset.training._state import Settings

_DECAYS = (
    torch.optim.SGD,
    torch.optim.Adam,
    torch.optim.AdamW,
    torch.optim.RMSprop,
    torch.optim.Adagrad,
    torch.optim.Adadelta,
    torch.optim.Adamax,
    torch.optim.NAdam,
    torch.optim.RAdam,
    torch.optim.ASGD,
)
_LINEAR_IN_RATE = _DECAYS[:-1]  # ASGD keeps a rate in its state


@dataclass(frozen=True)
class Adjustment:
    """What was changed in the settings of an optimizer, or a change of them."""

    # Change of the weight decay of each group of parameters; empty where none changes
    decays: tuple[float, ...] = ()
    rate: float = 0.0  # Relative change of the learning rate of every step

    def __bool__(self) -> bool:
        return bool(self.decays) or self.rate != 0.0

    def adjusted(self, settings: Settings) -> Settings:
        """The numbers of an optimizer's groups with the changes in them."""
        decays = self.decays or (0.0,) * len(settings)
        return [
            {
                **numbers,
                "lr": numbers["lr"] * (1.0 + self.rate),
                **({"weight_decay": numbers["weight_decay"] + decay} if decay else {}),
            }
            for numbers, decay in zip(settings, decays, strict=True)
        ]

    @contextmanager
    def on(self, optimizer: Optimizer) -> Iterator[None]:
        """A context in which an optimizer has the changed numbers."""
        if not self:
            yield
            return
        names = ("lr", "weight_decay")
        before = [{name: group[name] for name in names if name in group} for group in optimizer.param_groups]
        for group, numbers in zip(optimizer.param_groups, self.adjusted(before), strict=True):
            group.update(numbers)
        try:
            yield
        finally:
            for group, numbers in zip(optimizer.param_groups, before, strict=True):
                group.update(numbers)

    def then(self, other: "Adjustment", scale: float) -> "Adjustment":
        """Both changes one after the other."""
        decays = self.decays or (0.0,) * len(other.decays)
        steps = other.decays or (0.0,) * len(decays)
        rate = (1.0 + self.rate) * (1.0 + scale * other.rate) - 1.0
        return Adjustment(tuple(a + scale * b for a, b in zip(decays, steps, strict=True)), rate)


def decays_of(
    change: float | Mapping[str, float], optimizer: Optimizer, names: Mapping[int, str], before: Adjustment
) -> list[float]:
    """The change of the weight decay of each group of an optimizer.

    Args:
        change: Change of the decay of all groups that decay, or one by pattern of names.
        optimizer: Optimizer of the trained parameters.
        names: Name of each parameter, by its ``id``.
        before: Earlier change of the settings, which comes first.

    Raises:
        ValueError: If no group decays, a pattern matches nothing, or a group would have two decays.
    """
    _require_known(optimizer, _DECAYS, "weight decay")
    groups = optimizer.param_groups
    if not isinstance(change, Mapping):
        have = [group["weight_decay"] > 0 for group in before.adjusted([dict(group) for group in groups])]
        if not any(have):
            raise bad_value(
                "change",
                expected="a change other than of the decay for an optimizer without weight decay",
                got=f"Decay({change})",
                cure="Give the optimizer a weight_decay, or name the weights: Decay({'*': 1e-3}).",
            )
        return [float(change) if decays else 0.0 for decays in have]
    for pattern in change:
        if not any(matches(name, pattern) for name in names.values()):
            raise bad_value(
                "change",
                expected="patterns that match a weight",
                got=repr(pattern),
                cure=f"The names are: {', '.join(names.values())}.",
            )
    return [_one_of_group([names[id(each)] for each in group["params"]], change) for group in groups]


def _one_of_group(names: Sequence[str], change: Mapping[str, float]) -> float:
    steps = {name: next((step for p, step in change.items() if matches(name, p)), 0.0) for name in names}
    if len(set(steps.values())) > 1:
        first, second = (
            next(name for name in steps if steps[name] == step)
            for step in list(dict.fromkeys(steps.values()))[:2]
        )
        raise bad_value(
            "change",
            expected="one change for all weights of a group of the optimizer, which share a weight decay",
            got=f"{steps[first]} for {first} and {steps[second]} for {second}",
            cure="Give the optimizer a group for each.",
        )
    return float(next(iter(steps.values()), 0.0))


def require_rate(optimizer: Optimizer) -> None:
    """Refuses an optimizer whose step is not linear in the learning rate."""
    _require_known(optimizer, _LINEAR_IN_RATE, "learning rate")


def has_decay(optimizer: Optimizer) -> bool:
    """Whether a derivative in the weight decay is known for the optimizer."""
    return type(optimizer) in _DECAYS


def has_rate(optimizer: Optimizer) -> bool:
    """Whether a derivative in the learning rate is known for the optimizer."""
    return type(optimizer) in _LINEAR_IN_RATE


def _require_known(optimizer: Optimizer, kinds: Sequence[Any], what: str) -> None:
    if type(optimizer) not in kinds:
        raise bad_value(
            "change",
            expected=f"a change other than of the {what}, whose derivative is not known here",
            got=f"a change of the {what} of {type(optimizer).__name__}",
            cure=f"Use one of {', '.join(kind.__name__ for kind in kinds)}.",
        )
