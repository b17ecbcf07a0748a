"""The parameters that are the weights, and their places in the flat vector."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import prod

import torch
from torch import Tensor, nn

from solset.errors import bad_type, bad_value


@dataclass(frozen=True)
class Layout:
    """Names and shapes of the chosen parameters, in the order of ``named_parameters``.

    Attributes:
        shapes: Shape of each parameter, by name.
    """

    shapes: Mapping[str, torch.Size]

    @property
    def size(self) -> int:
        """``p``, the number of weights."""
        return sum(prod(shape) for shape in self.shapes.values())

    def split(self, flat: Tensor) -> list[Tensor]:
        """The parts of a flat vector ``(p,)``, each in its parameter's shape."""
        parts = torch.split(flat, [prod(shape) for shape in self.shapes.values()])
        return [part.reshape(shape) for part, shape in zip(parts, self.shapes.values(), strict=True)]

    def split_block(self, block: Tensor) -> list[Tensor]:
        """The parts of the columns of ``(p, k)``, each ``(k, *shape)``."""
        parts = torch.split(block, [prod(shape) for shape in self.shapes.values()])
        shapes = self.shapes.values()
        return [part.T.reshape(-1, *shape) for part, shape in zip(parts, shapes, strict=True)]

    @staticmethod
    def join(parts: Sequence[Tensor]) -> Tensor:
        """The flat vector of parameter-shaped parts."""
        return torch.cat([part.reshape(-1) for part in parts])


def flat_rows(block: Tensor) -> Tensor:
    """The entries of a block ``(k, *shape)`` as ``(k, size)``; ``shape`` may be empty, as that of a scalar.

    Args:
        block: Tensor with at least one axis; the first one counts points or columns.
    """
    return block.reshape(block.shape[0], prod(block.shape[1:]))


def choose_parameters(model: nn.Module, patterns: Sequence[str] | None) -> Layout:
    """The layout of the parameters whose names match; by default of those that require grad.

    Args:
        model: Network with the parameters.
        patterns: Shell-style name patterns such as ``"layer3.*"``; ``"*"`` matches those that require grad.

    Raises:
        TypeError: If the patterns are one string.
        ValueError: If a pattern matches nothing, a chosen parameter does not require grad, they are not all
            of one dtype on one device, or that device has no float64.
    """
    named = dict(model.named_parameters())
    trained = {name: value for name, value in named.items() if value.requires_grad}
    chosen = trained if patterns is None else {name: named[name] for name in matching(named, patterns)}
    if patterns is not None and "*" in patterns:  # all that were trained, and those that are named beside
        beside = [pattern for pattern in patterns if pattern != "*"]
        asked = {name for name in chosen if any(matches(name, pattern) for pattern in beside)}
        chosen = {name: value for name, value in chosen.items() if value.requires_grad or name in asked}
    if not chosen:
        raise bad_value(
            "model",
            expected="a module with parameters that require grad",
            got=f"{len(named)} frozen ones" if named else "no parameters",
            cure="Call requires_grad_() on the ones that were trained: only those move.",
        )
    _require_one_kind(chosen)
    return Layout({name: value.shape for name, value in chosen.items()})


def _require_one_kind(chosen: Mapping[str, nn.Parameter]) -> None:
    """Refuses parameters that are frozen, or of several or unfit dtypes and devices."""
    frozen = [name for name, value in chosen.items() if not value.requires_grad]
    if frozen:
        raise bad_value(
            "parameters",
            expected="parameters that require grad",
            got=f"frozen {', '.join(frozen)}",
            cure="Name the trained ones with `parameters=[...]`; frozen ones stay fixed.",
        )
    kinds = {(value.dtype, value.device) for value in chosen.values()}
    if len(kinds) > 1:
        raise bad_value(
            "model", expected="one dtype and device", got=sorted(map(str, kinds)), cure="Use `model.to(...)`."
        )
    if (dtype := next(iter(chosen.values())).dtype) not in {torch.float32, torch.float64}:
        raise bad_value(
            "model",
            expected="in float32 or float64",
            got=str(dtype).removeprefix("torch."),
            cure="Use `model.double()` or `model.float()`: second derivatives drown in less.",
        )
    _refuse_device(next(iter(chosen.values())).device)


def _refuse_device(device: torch.device) -> None:
    """Refuses a device without float64, in which Gram matrices and sums are computed."""
    try:
        torch.zeros(1, dtype=torch.float64, device=device).tolist()
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise bad_value(
            "model",
            expected="on a device with numbers in float64, such as cpu or cuda",
            got=f"on {device}",
            cure='Use `model.to("cpu")`.',
        ) from error


def matching(names: Iterable[str], patterns: Sequence[str]) -> list[str]:
    """The names that match a shell-style pattern, in their order; each pattern must match one."""
    expected = "a list of patterns"
    if isinstance(patterns, str):
        raise bad_type("parameters", expected=expected, got=repr(patterns), cure=f"Write [{patterns!r}].")
    if not isinstance(patterns, Sequence) or not all(isinstance(pattern, str) for pattern in patterns):
        got = type(patterns).__name__
        raise bad_type("parameters", expected=expected, got=got, cure='Write ["layer3.*"].')
    if not patterns:
        raise bad_value(
            "parameters", expected="one pattern or more", got="none", cure="Leave it out for all."
        )
    all_names = list(names)
    for pattern in patterns:
        if not any(matches(name, pattern) for name in all_names):
            raise bad_value(
                "parameters",
                expected="patterns that match a parameter name",
                got=repr(pattern),
                cure=f"The names are: {', '.join(all_names)}.",
            )
    return [name for name in all_names if any(matches(name, pattern) for pattern in patterns)]


def matches(name: str, pattern: str) -> bool:
    """Whether a parameter has a shell-style pattern; ``"*.bias"`` means the bias of the root module too.

    Args:
        name: Name of the parameter.
        pattern: Shell-style pattern such as ``"layer3.*"``.

    Example:
        >>> matches("0.bias", "*.bias"), matches("bias", "*.bias"), matches("debias", "*.bias")
        (True, True, False)
    """
    return fnmatchcase(name, pattern) or fnmatchcase(f".{name}", pattern)
