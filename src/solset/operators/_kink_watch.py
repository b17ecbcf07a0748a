"""The units of a network and a loss that stand on a kink, seen in one forward pass."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from solset.operators._kink_table import ELEMENTWISE, bare, distances_to_kinks, is_smooth
from solset.operators._ties import TYING, UNSEEN, is_other_norm, ties_of
from solset.risk import EmpiricalRisk

_TRANSFORMS = ("_functorch/eager_transforms.py", "_functorch/vmap.py")  # files that run transformed functions


@dataclass(frozen=True, eq=False)
class Tied:
    """The units of one call that stand on a kink."""

    module: str  # Module, or function of the loss, that made the call, in words
    count: int  # Number of units of the call, on a kink or not
    units: Tensor  # Places of those on a kink among them, in order
    points: Tensor  # Place in the batch of the point of each of these; -1 where it is not known
    ties: Tensor  # Number of entries with which each of these is tied; 1 where it stands on a kink alone

    def without(self, other: "Tied | None") -> "Tied":
        """The units that another pass does not tie as often, and those of which it is not known."""
        if other is None or other.count != self.count:
            return self
        ties = torch.zeros(self.count, dtype=torch.long)
        ties[other.units] = other.ties
        leaves = (ties[self.units] != self.ties) | (self.points < 0)
        return Tied(self.module, self.count, self.units[leaves], self.points[leaves], self.ties[leaves])


class KinkWatch(TorchDispatchMode):
    """A context in which every operation is looked at, also those inside of a user's own functions.

    An operation that is not known to be smooth, and whose kinks are not known, may be on one.

    Args:
        names: Names of the modules by their identity, as ``id(module)``.
        batch: Number of points in the batch.
        is_exact: Whether only rounding is allowed between two entries that count as equal.

    Attributes:
        calls: One entry for each call of an operation with kinks, in order.
    """

    def __init__(self, names: Mapping[int, str], batch: int, *, is_exact: bool = False) -> None:
        super().__init__()
        self.calls: list[Tied] = []
        self._names, self._batch, self._is_exact = names, batch, is_exact
        one = torch.ones(1, dtype=torch.long)
        self._unseen = Tied("a torch.func transform", 1, 0 * one, -one, one)

    def __torch_dispatch__(
        self,
        func: Any,
        types: Iterable[type],  # noqa: ARG002
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Runs the operation, and records where its argument is on a kink."""
        kwargs = kwargs or {}
        name = bare(func._schema.name.split("::")[-1])
        if is_smooth(name, kwargs) or not any(_is_continuous(value) for value in args):
            return func(*args, **kwargs)
        if _is_transformed():  # another operation here would end the process inside of PyTorch
            self.calls.append(self._unseen)
            return func(*args, **kwargs)
        if not has_known_kinks(name, args, kwargs):
            self._record(torch.ones((), dtype=torch.bool))
            return func(*args, **kwargs)
        first = args[0]
        tol = _closeness(first, is_exact=self._is_exact)
        masks = [z.abs() <= tol for z in distances_to_kinks(name, args, kwargs)]  # before an in-place change
        result = func(*args, **kwargs)
        chosen = ties_of(name, args, kwargs, result, tol)
        if chosen is not None:
            masks.append(chosen)
        for mask in masks:
            self._record(mask)
        return result

    def _record(self, mask: Tensor) -> None:
        units = mask.flatten().nonzero().flatten().cpu()
        ties = mask.flatten().cpu().long()[units]
        name = _module_now(self._names) if len(units) else ""
        per_point = mask.numel() // self._batch
        is_known = mask.ndim > 0 and mask.numel() % self._batch == 0 and mask.shape[0] % self._batch == 0
        points = units // per_point if is_known else torch.full_like(units, -1)
        self.calls.append(Tied(name, mask.numel(), units, points, ties))


def has_known_kinks(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether the kinks of an operation that may have some can be looked for, in its first argument."""
    if not _is_continuous(args[0]) or name in UNSEEN or is_other_norm(name, args, kwargs):
        return False
    return name in ELEMENTWISE or name in TYING or "max_pool" in name


def _is_continuous(value: Any) -> bool:
    """Whether an argument is a tensor with entries that can move."""
    if not isinstance(value, Tensor):
        return False
    return (value.is_floating_point() or value.is_complex()) and value.numel() > 0


def _is_transformed() -> bool:
    """Whether a model calls the operation inside of a ``torch.func`` transform, such as ``vmap``."""
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_filename.endswith(_TRANSFORMS):
            return True
        frame = frame.f_back
    return False


def _closeness(first: Tensor, *, is_exact: bool) -> float:
    """The distance up to which two entries count as equal: rounding in float32, 1e-10 in float64."""
    rounding = 4 * torch.finfo(first.dtype).eps
    relative = rounding if is_exact else max(1e-10, rounding)
    return relative * float(first.detach().abs().square().mean().sqrt().nan_to_num(0.0, 0.0))


def names_of(model: nn.Module) -> dict[int, str]:
    """The modules of a network in words, such as ``MaxPool2d 'features.2'``, by their identity."""
    return {
        id(module): f"{type(module).__name__} '{name}'" if name else type(module).__name__
        for name, module in model.named_modules()
    }


def _module_now(names: Mapping[int, str]) -> str:
    """The innermost module of the network whose code is running, found in the stack; else the loss."""
    frame = sys._getframe(1)
    while frame is not None:
        text = names.get(id(frame.f_locals.get("self")))
        if text is not None:
            return text
        frame = frame.f_back
    return "the loss"


def watched(
    risk: EmpiricalRisk,
    parameters: Sequence[Tensor],
    inputs: Tensor,
    targets: Tensor,
    *,
    is_exact: bool = False,
) -> tuple[list[Tied], list[Tied]]:
    """The calls with kinks in one forward pass of a batch: those of the network, and those of the loss.

    A loss of all outputs at once has its calls where the batch holds all points.

    Args:
        risk: Empirical risk with the network and the loss.
        parameters: Weights in the shapes of the parameters.
        inputs: Inputs of the batch.
        targets: Targets of the batch.
        is_exact: Whether only rounding is allowed between two entries that count as equal.
    """
    names = names_of(risk.model)
    # Some operations take another way, past every watch, where nothing requires grad.
    leaves = [part.detach().requires_grad_() for part in parameters]
    with torch.enable_grad():
        with KinkWatch(names, len(inputs), is_exact=is_exact) as network:
            outputs = risk.forward(leaves, inputs)
        with KinkWatch({}, len(inputs), is_exact=is_exact) as loss:
            if not risk.is_whole or len(inputs) == len(risk.points):
                risk.loss(outputs, targets)
    return network.calls, loss.calls
