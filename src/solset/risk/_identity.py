"""The identity of a trained point: what tells it from another, in short texts that fit a JSON file."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from solset import comm
from solset.risk._empirical import EmpiricalRisk
from solset.risk._tree_loss import TreeLoss
from solset.storage import Identity, hash_bytes

_PLAIN = (bool, int, float, str, type(None))


def digest(tensors: Iterable[Tensor]) -> str:
    """The first half of a SHA-256 sum over the entries, shapes and dtypes of tensors."""
    total = hashlib.sha256()
    for tensor in tensors:
        total.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        total.update(_entries(tensor))
    return total.hexdigest()[:32]


def identity(
    risk: EmpiricalRisk, settings: Mapping[str, object] | None = None, *, depends_on_batches: bool = True
) -> Identity:
    """The identity of a result that was computed from a risk at its weights.

    Args:
        risk: The risk at the trained weights. Code that changed under the same names is not noticed.
        settings: Settings of the computation by name, which :func:`settings_of` makes plain.
        depends_on_batches: Whether the batch size is a part of the identity; true by default.

    Cost: one read of the data.
    """
    moving = list(risk.layout.shapes)
    state = {**dict(risk.model.named_parameters()), **dict(risk.model.named_buffers()), **risk.fixed}
    fixed = [value for name, value in state.items() if name not in moving]
    problem = {
        "model": hash_bytes(without_addresses(str(risk.model)).encode())[:32],
        "fixed parameters and buffers": digest(fixed),
        "weights that move": hash_bytes(str(moving).encode())[:32],
        "weights": digest([risk.weights]),
        "loss": _loss_settings(risk.loss),
        "reduction": [risk.reduction, risk.total],
        "weight decay": settings_of(risk.weight_decay),
        "penalty": None if risk.penalty is None else digest([risk.regularisation_gradient()]),
        "data": _data_digest(risk),
        "door": hash_bytes(
            without_addresses(repr((risk.points.tree, risk.points.targets, risk.door))).encode()
        )[:32],
    }
    if depends_on_batches:
        problem["batch size"] = risk.batch_size
    return Identity({**problem, **{name: settings_of(part) for name, part in (settings or {}).items()}})


def settings_of(value: object) -> Any:
    """The settings of a value in the types of JSON: tensors by digest, what is not plain by its type."""
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, Tensor | np.ndarray):
        return digest([torch.as_tensor(value)])
    if isinstance(value, Mapping):
        return {str(name): settings_of(part) for name, part in value.items()}
    if isinstance(value, tuple | list | range):
        return [settings_of(part) for part in value]
    kind = type(value).__qualname__
    if is_dataclass(value):
        return [kind, {field.name: settings_of(getattr(value, field.name)) for field in fields(value)}]
    return getattr(value, "__qualname__", kind)


def without_addresses(text: str) -> str:
    """A text without the places in memory that Python shows, which differ in the next process.

    Example:
        >>> without_addresses("<function loss at 0x7f16c44d>")
        '<function loss>'
    """
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)


def _loss_settings(loss: Any) -> list[Any]:
    """A loss by its name and all its plain settings, which its own text does not always show."""
    if isinstance(loss, TreeLoss):
        return _loss_settings(loss.loss)
    if isinstance(loss, partial):
        arguments = repr(loss.args), repr(sorted(loss.keywords.items()))
        return [_loss_settings(loss.func), *map(without_addresses, arguments)]
    if is_dataclass(loss) and not isinstance(loss, type):
        parts = {field.name: getattr(loss, field.name) for field in fields(loss)}
        plain = {name: _loss_settings(part) if callable(part) else str(part) for name, part in parts.items()}
        return [type(loss).__qualname__, plain]
    if not isinstance(loss, nn.Module):
        return [getattr(loss, "__qualname__", type(loss).__qualname__)]
    plain = {name: value for name, value in sorted(vars(loss).items()) if isinstance(value, _PLAIN)}
    return [without_addresses(str(loss)), plain, digest([*loss.parameters(), *loss.buffers()])]


def _data_digest(risk: EmpiricalRisk) -> str:
    """The digest of all inputs and targets, however batched; the first process reads them for all."""
    digits = comm.from_first(lambda: _read_all(risk).encode())
    return "" if digits is None else digits.decode()


def _read_all(risk: EmpiricalRisk) -> str:
    inputs, targets = hashlib.sha256(), hashlib.sha256()
    kinds: list[object] = []
    count = len(risk.points)
    for start in range(0, count, risk.batch_size):
        x, y = risk.points[range(start, min(start + risk.batch_size, count))]
        inputs.update(_entries(x))
        targets.update(_entries(y))
        kinds = [str(x.dtype), tuple(x.shape[1:]), str(y.dtype), tuple(y.shape[1:]), count]
    return hash_bytes(f"{kinds}{inputs.hexdigest()}{targets.hexdigest()}".encode())[:32]


def _entries(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    # PyTorch calls one entry that was expanded contiguous, but gives no bytes of it.
    if flat.stride() != (1,):
        flat = flat.clone(memory_format=torch.contiguous_format)
    return flat.view(torch.uint8).numpy().tobytes()
