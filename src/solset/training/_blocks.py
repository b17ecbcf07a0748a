"""Parameters of an optimizer that one vector holds, since its rule treats each entry by itself."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Block:
    """Parameters of one group of an optimizer as one tensor, which is flat for several of them."""

    places: tuple[int, ...]  # Places of the parameters among all trained ones
    shapes: tuple[torch.Size, ...]  # Shape of each of these parameters
    group: int  # Place of their group in the optimizer

    def joined(self, tensors: Sequence[Tensor]) -> Tensor:
        """A tensor for each parameter of the block as one."""
        return torch.cat([each.reshape(-1) for each in tensors]) if len(self.places) > 1 else tensors[0]

    def split(self, tensor: Tensor) -> list[Tensor]:
        """The tensor of the block as one for each of its parameters."""
        if len(self.places) == 1:
            return [tensor.reshape(self.shapes[0])]
        pieces = tensor.split([shape.numel() for shape in self.shapes])
        return [piece.reshape(shape) for piece, shape in zip(pieces, self.shapes, strict=True)]

    def parts(self, keys: Sequence[Hashable]) -> list["Block"]:
        """The block cut into blocks of equal keys."""
        if len(set(keys)) == 1:
            return [self]
        rows = list(zip(keys, self.places, self.shapes, strict=True))
        alike = [[row for row in rows if row[0] == key] for key in dict.fromkeys(keys)]
        return [
            Block(tuple(place for _, place, _ in part), tuple(shape for *_, shape in part), self.group)
            for part in alike
        ]

    def cut(self, tensor: Tensor, parts: Sequence["Block"]) -> list[Tensor]:
        """The tensor of the block as one for each of its parts."""
        if len(parts) == 1:
            return [tensor]
        pieces = dict(zip(self.places, self.split(tensor), strict=True))
        return [part.joined([pieces[place] for place in part.places]) for part in parts]

    def merged(self, tensors: Sequence[Tensor], parts: Sequence["Block"]) -> Tensor:
        """Tensors for each part as that of the block."""
        if len(parts) == 1:
            return tensors[0]
        pieces = {
            place: piece
            for part, tensor in zip(parts, tensors, strict=True)
            for place, piece in zip(part.places, part.split(tensor), strict=True)
        }
        return self.joined([pieces[place] for place in self.places])
