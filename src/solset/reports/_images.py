"""Points that are images, in the shape in which figures take them."""

import torch
from torch import Tensor


def as_images(inputs: Tensor, shape: tuple[int, int] | None = None) -> Tensor | None:
    """Points as images ``(k, height, width)`` or ``(k, height, width, 3)``; ``None`` if they are none.

    Args:
        inputs: Points ``(k, *input)``; colours stand first, and flat points of 64 or more features are
            images where these make a square.
        shape: Height and width of the images; by default those that the inputs have.
    """
    size, values = tuple(inputs.shape[1:]), inputs.detach().to("cpu", torch.float64)
    if shape is not None:
        return values.reshape(len(values), *shape)
    if len(size) == 3 and size[0] in {1, 3}:
        return values[:, 0] if size[0] == 1 else values.movedim(1, 3)
    side = round(size[0] ** 0.5) if len(size) == 1 else 0
    if side >= 8 and side * side == size[0]:
        return values.reshape(len(values), side, side)
    return values if len(size) == 2 else None


def as_maps(maps: Tensor) -> Tensor | None:
    """Maps of images as ``(k, height, width)``: colours together, by root of squares."""
    images = as_images(maps)
    return images if images is None or images.ndim == 3 else images.square().sum(dim=3).sqrt()
