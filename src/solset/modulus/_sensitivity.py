"""One point at a time: its modulus, its worst direction, and the sensitivity to each of its features."""

from dataclasses import dataclass

import torch
from torch import Tensor

from solset.linalg import LeftSide, largest_ratios, largest_singular


@dataclass(frozen=True)
class Sensitivity:
    """How far each point of a batch moves the weights."""

    modulus: Tensor  # Lipschitz moduli ``(b,)``, in weight units per input unit
    direction: Tensor  # Unit data directions that attain them, ``(b, d)``; zero where nothing moves
    maps: Tensor  # Change of the weights per unit of each feature, ``‖A⁺ C e_j‖``, ``(b, d)``


def sensitivity(side: LeftSide, data: Tensor) -> Sensitivity:
    """The sensitivity to points whose outputs are constraints.

    Args:
        side: Left side of the constraints, seen at the rows of each point.
        data: Derivative ``J_{x,k}`` of each point's outputs in its features, ``(b, c, d)``.
    """
    values, vectors = torch.linalg.eigh(data @ data.mT)
    ratios = largest_ratios(side, vectors * values.clamp_min(0).sqrt().unsqueeze(-2))
    inverse = side.half.mT @ side.half
    maps = torch.einsum("bcd,bce,bed->bd", data, inverse, data).clamp_min(0).sqrt()
    moved = torch.einsum("bcd,bcl->bdl", data, side.kernel @ ratios.leaking).norm(dim=2)
    is_moved = moved > (side.resolution * ratios.size).unsqueeze(1)
    infinite = torch.full_like(maps, float("inf"))
    return Sensitivity(
        ratios.value,
        _unit(torch.einsum("bcd,bc->bd", data, ratios.attained_at(side))),
        torch.where(is_moved & ratios.value.isinf().unsqueeze(1), infinite, maps),
    )


def sensitivity_of_answers(answers: Tensor) -> Sensitivity:
    """The sensitivity to one point from the changes of the weights that its features cause.

    Args:
        answers: Matrix ``H⁺B_k``, ``(p, d)``.
    """
    modulus, left = largest_singular(answers)
    return Sensitivity(modulus.reshape(1), _unit((left @ answers).unsqueeze(0)), answers.norm(dim=0)[None])


def _unit(directions: Tensor) -> Tensor:
    lengths = directions.norm(dim=1, keepdim=True)
    return torch.where(lengths > 0, directions / lengths.clamp_min(1e-300), directions)
