"""Flat vectors inside the library for shaped tensors outside."""

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from solset.errors import bad_type, bad_value


@dataclass(frozen=True)
class Space:
    """The shape, type and device of the tensors that stand for one flat vector.

    Attributes:
        name: Name of the argument in error messages.
        shape: Shape of the tensor; a flat vector of the same length is accepted too.
        dtype: Floating-point type of the tensor.
        device: Device of the tensor.

    Example:
        >>> space = Space("dx", (2, 3), torch.float32, torch.device("cpu"))
        >>> space.flatten(torch.zeros(2, 3)).shape
        torch.Size([6])
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @property
    def size(self) -> int:
        """Length of the flat vector."""
        return prod(self.shape)

    def flatten(self, value: Tensor) -> Tensor:
        """The flat vector of a tensor in this space.

        Args:
            value: Tensor of this space's shape, or already flat.

        Raises:
            TypeError: If it is not a tensor.
            ValueError: If shape, dtype or device differ or an entry is not finite.
        """
        if not isinstance(value, Tensor):
            got = type(value).__name__
            raise bad_type(self.name, expected="a tensor", got=got, cure="Use torch.as_tensor.")
        if tuple(value.shape) not in {self.shape, (self.size,)}:
            raise bad_value(
                self.name,
                expected=f"of shape {self.shape} or ({self.size},)",
                got=f"shape {tuple(value.shape)}",
                cure="One block per point, in the order of `points`, each shaped like one input.",
            )
        if value.dtype != self.dtype or value.device != self.device:
            raise bad_value(
                self.name,
                expected=f"{self.dtype} on {self.device}",
                got=f"{value.dtype} on {value.device}",
                cure=f"Use `{self.name}.to(device, dtype)`.",
            )
        if not bool(torch.isfinite(value).all()):
            raise bad_value(
                self.name,
                expected="finite",
                got="NaN or infinite entries",
                cure="Find their source; no estimate survives them.",
            )
        return value.detach().reshape(-1)

    def unflatten(self, vector: Tensor) -> Tensor:
        """The tensor of this space's shape with the entries of a flat vector."""
        return vector.reshape(self.shape)
