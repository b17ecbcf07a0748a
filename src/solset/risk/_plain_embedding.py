"""Embeddings as functions of their weights: gradients are dense, and rows are not written to."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, wraps
from inspect import signature
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional

REACHES = 1e-6  # relative distance to the largest norm within which a row counts as held by it


@contextmanager
def plain_embeddings() -> Iterator[None]:
    """A context in which PyTorch's embeddings are plain functions of their weights.

    ``sparse=True`` gives gradients that few operations take. ``scale_grad_by_freq=True`` divides gradients by
    the counts of a batch, so that they belong to no risk. ``max_norm=`` writes to the weights in the forward
    pass; here its rows are shortened in a copy, so that a row at its largest length may only turn.
    """
    plain = [_plain(getattr(functional, name)) for name in ("embedding", "embedding_bag")]
    with (
        patch.object(functional, "embedding", plain[0]),
        patch.object(functional, "embedding_bag", plain[1]),
    ):
        yield


@lru_cache(maxsize=8)  # the signature of a function takes longer to read than a small network to run
def _plain(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The function without what changes gradients, and with rows that are shortened in a copy."""
    names = signature(function)

    @wraps(function)  # these contexts stand inside each other, and the signature has to be seen through all
    def call(*args: Any, **named: Any) -> Tensor:
        bound = names.bind(*args, **named)
        bound.apply_defaults()
        given = bound.arguments
        given.update(sparse=False, scale_grad_by_freq=False)
        if given["max_norm"] is not None:
            given["weight"] = _shortened(given["weight"], given["max_norm"], given["norm_type"])
            given["max_norm"] = None
        return function(*bound.args, **bound.kwargs)

    return call


def _shortened(weight: Tensor, longest: float, order: float) -> Tensor:
    lengths = torch.linalg.vector_norm(weight, ord=order, dim=1, keepdim=True)
    is_held = lengths >= longest * (1.0 - REACHES)
    return weight * torch.where(is_held, longest / torch.where(is_held, lengths, 1.0), 1.0)


def filling_rows(model: nn.Module) -> dict[str, int]:
    """The row of the token that fills up, ``padding_idx``, by the name of the weights; training holds it.

    Args:
        model: Network whose modules are looked at.
    """
    return {
        f"{name}.weight" if name else "weight": module.padding_idx
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.padding_idx is not None
    }
