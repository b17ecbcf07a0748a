"""Errors of the user's code and of PyTorch, told with the part of the recipe in which they happened."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from solset.errors import bad_type
from solset.risk import named_tensors

NAMED = 5  # points of a batch that a message names


@contextmanager
def told(argument: str, expected: str, cure: str, batch: Sequence[int] = ()) -> Iterator[None]:
    """A context in which an error is told with the argument of the training that raised it.

    A message of solset, and memory that ran out, stay as they are.

    Args:
        argument: Name of the argument whose code runs inside.
        expected: Description of what that code has to do.
        cure: One sentence that says what to do.
        batch: Indices of the points on which it runs; none by default.

    Raises:
        TypeError: If anything inside raises an error.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # a user's code may raise anything
        if str(error).startswith("`"):  # it is a message of solset
            raise
        first = str(error).partition("\n")[0]
        points = ", ".join(map(str, batch[:NAMED])) + (", …" if len(batch) > NAMED else "")
        where = f" on the batch of points {points}" if batch else ""
        raise bad_type(
            argument, expected=expected, got=f"{type(error).__name__}: {first}{where}", cure=cure
        ) from error


def described(tree: Any) -> str:
    """The shapes and dtypes of the tensors of a batch, such as ``"(8, 3) float32"``."""
    parts = []
    for name, value in named_tensors(tree):
        kind = str(value.dtype).removeprefix("torch.")
        parts.append(f"{name} {tuple(value.shape)} {kind}".strip())
    return ", ".join(parts) or type(tree).__name__
