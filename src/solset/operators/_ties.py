"""Ties of operations that choose an entry: maxima, pooling windows, sorting; and norms at zero."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

CHOICES = frozenset({"max", "min", "amax", "amin", "median", "nanmedian", "kthvalue", "mode"})
PLACES = frozenset({"argmax", "argmin", "aminmax"})
ORDERS = frozenset({"sort", "msort", "argsort", "topk", "cummax", "cummin"})
NORMS = frozenset(
    {"linalg_vector_norm", "norm", "cdist_forward", "pdist_forward", "dist", "std", "std_mean", "hypot"}
)

TYING = CHOICES | PLACES | ORDERS | NORMS
"""Operations whose entries may be tied, beside max pooling."""

UNSEEN = frozenset(
    {
        "grid_sampler_2d",
        "grid_sampler_3d",
        "multi_margin_loss",
        "multilabel_margin_loss_forward",
        "segment_reduce",
        "embedding_bag",
        "renorm",
        "fractional_max_pool2d",
        "fractional_max_pool3d",
        "bucketize",
        "searchsorted",
        "index_reduce",
        "scatter_reduce",
    }
)
"""Operations with kinks whose places are not looked for."""


def is_other_norm(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether an operation is a norm other than the Euclidean one, which has kinks away from zero too."""
    place = {"linalg_vector_norm": 1, "norm": 1, "pdist_forward": 1, "dist": 2, "cdist_forward": 2}.get(name)
    if place is None:
        return False
    given = kwargs.get("ord", kwargs.get("p", args[place] if len(args) > place else None))
    return given is not None and given != 2


def ties_of(
    name: str, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any, tol: float
) -> Tensor | None:
    """With how many other entries the one that an operation chose is tied, for each of its choices.

    Returns:
        A count, or a mark, for each choice; ``None`` if the operation chooses nothing.
    """
    first, value = args[0], result[0] if isinstance(result, tuple | list) else result
    if name in CHOICES:
        return _tied_with(value, first, args, kwargs, tol)
    if name in PLACES:
        dim = _argument("dim", 1, args, kwargs)
        rows = first.reshape(1, -1) if dim is None else first.movedim(dim, -1)
        return _has_equal(rows, tol)
    if name in ORDERS:
        dim = _argument("dim", 2 if name == "topk" else 1, args, kwargs)
        return _has_equal(first.movedim(0 if name == "msort" else -1 if dim is None else dim, -1), tol)
    if name in NORMS:
        return value.abs() <= tol
    if name.startswith("max_pool"):
        return _others(_windows(first, args, kwargs, value) >= value.unsqueeze(-1) - tol, dim=-1)
    if name.startswith("adaptive_max_pool"):
        return _adaptive(first, value, tol)
    return None


def _argument(name: str, place: int, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """An argument by name or place; a flag at this place is another overload's and counts as missing."""
    value = kwargs.get(name, args[place] if len(args) > place else None)
    return None if isinstance(value, bool) else value


def _tied_with(
    value: Tensor, first: Tensor, args: Sequence[Any], kwargs: Mapping[str, Any], tol: float
) -> Tensor:
    """How many other entries are equal to the one that a reduction took."""
    dims = [d for d in args[1:] if isinstance(d, int | list | tuple) and not isinstance(d, bool)]
    dim = kwargs.get("dim", dims[-1] if dims else None)  # `kthvalue` names k before the dimension
    axes = [dim] if isinstance(dim, int) else list(dim or range(first.ndim))
    axes = sorted(axis % max(first.ndim, 1) for axis in axes)
    if value.ndim != first.ndim:
        for axis in axes:
            value = value.unsqueeze(axis)
    equal = (first - value).abs() <= tol
    return _others(equal, dim=axes, keepdim=True) if first.ndim else equal & False


def _others(equal: Tensor, **options: Any) -> Tensor:
    """The number of entries that are equal, beside the one that was taken."""
    return (equal.sum(**options) - 1).clamp(min=0)


def _has_equal(rows: Tensor, tol: float) -> Tensor:
    """Whether neighbours in the order of the last dimension are equal."""
    return rows.sort(dim=-1)[0].diff(dim=-1) <= tol


def _windows(first: Tensor, args: Sequence[Any], kwargs: Mapping[str, Any], value: Tensor) -> Tensor:
    """The entries of every pooling window in the last dimension."""
    count = value.ndim - (first.ndim - _spatial(args))
    names = ("kernel_size", "stride", "padding", "dilation")
    defaults: dict[str, Any] = {"stride": [], "padding": 0, "dilation": 1}
    given = defaults | dict(zip(names, args[1:], strict=False)) | dict(kwargs)
    kernel, padding, dilation = (_each(given[name], count) for name in ("kernel_size", "padding", "dilation"))
    stride = _each(given["stride"], count) if given["stride"] else kernel
    padded, slots = first, value.shape[-count:]
    for axis in range(count):
        reach = (slots[axis] - 1) * stride[axis] + (kernel[axis] - 1) * dilation[axis] + 1
        right = max(0, reach - first.shape[axis - count] - padding[axis])
        edges = [0, 0] * (count - 1 - axis) + [padding[axis], right]
        padded = functional.pad(padded, edges, value=float("-inf"))
    parts = []
    for offset in product(*(range(size) for size in kernel)):
        place: list[slice] = [
            slice(o * d, o * d + (n - 1) * s + 1, s)
            for o, d, n, s in zip(offset, dilation, slots, stride, strict=True)
        ]
        parts.append(padded[(..., *place)])
    return torch.stack(parts, dim=-1)


def _spatial(args: Sequence[Any]) -> int:
    kernel = args[1]
    return len(kernel) if isinstance(kernel, list | tuple) else 1


def _each(value: Any, count: int) -> list[int]:
    values = list(value) if isinstance(value, list | tuple) else [value]
    return values * count if len(values) == 1 else values


def _adaptive(first: Tensor, value: Tensor, tol: float) -> Tensor:
    """The same for windows of adaptive size."""
    count = 3 if value.ndim == 5 else 2
    tied = torch.zeros_like(value, dtype=torch.long)
    for cell, place in _cells(first.shape[-count:], value.shape[-count:]):
        entries = first[(..., *place)].flatten(-count)
        tied[(..., *cell)] = _others(entries >= value[(..., *cell)].unsqueeze(-1) - tol, dim=-1)
    return tied


def _cells(sizes: Sequence[int], slots: Sequence[int]) -> Iterator[tuple[tuple[int, ...], tuple[slice, ...]]]:
    """Every place of an adaptive pooling's result, with its window."""
    ends: Callable[[int, int, int], slice] = lambda i, n, m: slice(i * n // m, -(-(i + 1) * n // m))  # noqa: E731
    for cell in product(*(range(slot) for slot in slots)):
        yield cell, tuple(ends(i, n, m) for i, n, m in zip(cell, sizes, slots, strict=True))
