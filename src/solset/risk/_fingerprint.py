"""What tells one trained point from another, in a few short strings that fit a JSON file."""

import hashlib
import re
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from solset import comm
from solset.risk._empirical import EmpiricalRisk

PLAIN = (bool, int, float, str, type(None))


def digest(tensors: Iterable[Tensor]) -> str:
    """The first half of a SHA-256 sum over entries, shapes and dtypes.

    Args:
        tensors: In order.
    """
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        found.update(_entries(tensor))
    return found.hexdigest()[:32]


def fingerprint(risk: EmpiricalRisk) -> dict[str, Any]:
    """What a risk's values depend on besides its weights. Cost: one read of the data.

    Args:
        risk: Any; code that changed under the same names is not noticed.
    """
    state = {**dict(risk.model.named_parameters()), **risk.fixed}
    fixed = [value for name, value in state.items() if name not in risk.layout.shapes]
    return {
        "model": without_addresses(str(risk.model)),
        "fixed parameters and buffers": digest([*fixed, *risk.model.buffers()]),
        "weights that move": list(risk.layout.shapes),
        "loss": _loss_settings(risk.loss),
        "reduction": [risk.reduction, risk.total],
        "weight decay": risk.weight_decay,
        "batch size": risk.batch_size,
        "data": _data_digest(risk),
    }


def without_addresses(text: str) -> str:
    """A text without the places in memory that Python shows, which are others in the next process.

    Args:
        text: Such as the representation of a function.

    Example:
        >>> without_addresses("<function loss at 0x7f16c44d>")
        '<function loss>'
    """
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)


def _loss_settings(loss: Any) -> list[Any]:
    """A loss by its name and all its plain settings, which its own text does not always show."""
    if isinstance(loss, partial):
        given = repr(loss.args), repr(sorted(loss.keywords.items()))
        return [_loss_settings(loss.func), *map(without_addresses, given)]
    if not isinstance(loss, nn.Module):
        return [getattr(loss, "__qualname__", type(loss).__qualname__)]
    plain = {name: value for name, value in sorted(vars(loss).items()) if isinstance(value, PLAIN)}
    return [without_addresses(str(loss)), plain, digest([*loss.parameters(), *loss.buffers()])]


def _data_digest(risk: EmpiricalRisk) -> str:
    """Of all inputs and all targets, whatever the batches; the first process reads them for all."""
    found = comm.from_first(lambda: _read_all(risk).encode())
    return "" if found is None else found.decode()


def _read_all(risk: EmpiricalRisk) -> str:
    inputs, targets = hashlib.sha256(), hashlib.sha256()
    kinds: list[object] = []
    count = len(risk.points)
    for start in range(0, count, risk.batch_size):
        x, y = risk.points[range(start, min(start + risk.batch_size, count))]
        inputs.update(_entries(x))
        targets.update(_entries(y))
        kinds = [str(x.dtype), tuple(x.shape[1:]), str(y.dtype), tuple(y.shape[1:]), count]
    both = f"{kinds}{inputs.hexdigest()}{targets.hexdigest()}"
    return hashlib.sha256(both.encode()).hexdigest()[:32]


def _entries(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()
