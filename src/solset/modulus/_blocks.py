"""One point at a time: what its own block of ``(AAᵀ)⁺`` and of ``C`` say about it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from solset.linalg import equilibrated


@dataclass(frozen=True)
class PointBlocks:
    """Of a batch of points, in float64.

    Attributes:
        inverse: ``P_k = [(AAᵀ)⁺]_kk``, ``(b, c, c)``.
        kernel: Columns ``u`` of the kernel of ``Aᵀ``, the rows of point ``k``, ``(b, c, q)``.
        data: ``C_k``: ``J_{x,k}``, ``(b, c, d)``.
        scale: What rows were multiplied with before a rank was cut, ``(b, c)``.
        resolution: Relative size up to which a kernel vector's image counts as zero.
    """

    inverse: Tensor
    kernel: Tensor
    data: Tensor
    scale: Tensor
    resolution: float

    def sensitivity(self) -> "Sensitivity":
        """Modulus, worst direction and map of every point: ``κ_k² = λ_max(C_kᵀ P_k C_k)``."""
        squares = self.data @ self.data.mT
        values, vectors = torch.linalg.eigh(squares)
        root = vectors * values.clamp_min(0).sqrt().unsqueeze(1)
        found, z = torch.linalg.eigh(root.mT @ self.inverse @ root)
        u = (self.inverse @ root @ z[..., -1:]).squeeze(-1)
        modulus = found[:, -1].clamp_min(0).sqrt()
        maps = torch.einsum("bcd,bce,bed->bd", self.data, self.inverse, self.data).clamp_min(0).sqrt()
        leaking, other, leaks = self._leaks(squares)
        u = torch.where(leaking.unsqueeze(1), other, u)
        direction = torch.einsum("bcd,bc->bd", self.data, u)
        length = direction.norm(dim=1, keepdim=True)
        direction = torch.where(length > 0, direction / length.clamp_min(1e-300), direction)
        infinite = torch.full_like(modulus, float("inf"))
        return Sensitivity(
            torch.where(leaking, infinite, modulus),
            direction,
            torch.where(leaks & leaking.unsqueeze(1), infinite.unsqueeze(1), maps),
        )

    def _leaks(self, squares: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Which points move an output combination that no weight moves, by which ``u``, by which features."""
        b, c, d = self.data.shape
        if self.kernel.shape[2] == 0:
            none = torch.zeros(b, dtype=torch.bool, device=self.data.device)
            return none, self.data.new_zeros(b, c), none.unsqueeze(1).expand(b, d)
        span = self.kernel @ self.kernel.mT  # (b, c, c): its columns span what the kernel has at this point
        found, q = torch.linalg.eigh(span)
        basis = q * found.clamp_min(0).sqrt().unsqueeze(1)
        pushed, z = torch.linalg.eigh(basis.mT @ squares @ basis)
        size = torch.linalg.matrix_norm(self.scale.unsqueeze(2) * self.data, 2)
        leaking = pushed[:, -1].clamp_min(0).sqrt() > self.resolution * size
        features = torch.einsum("bcd,bce->bde", self.data, basis).norm(dim=2)
        u = (basis @ z[..., -1:]).squeeze(-1)
        return leaking & (size > 0), u, features > (self.resolution * size).unsqueeze(1)


@dataclass(frozen=True)
class Sensitivity:
    """Of a batch of points.

    Attributes:
        modulus: ``(b,)``, in weight units per input unit.
        direction: The unit data direction that attains it, ``(b, d)``; zero where nothing moves.
        maps: ``‖A⁺ C e_j‖`` of every feature, ``(b, d)``.
    """

    modulus: Tensor
    direction: Tensor
    maps: Tensor


def isolated_blocks(squares: Tensor, data: Tensor, tolerance: float) -> PointBlocks:
    """Every point with its own constraint alone, rows scaled to length one before the rank is cut.

    Args:
        squares: ``J_k J_kᵀ``, ``(b, c, c)``, float64.
        data: ``J_{x,k}``, ``(b, c, d)``.
        tolerance: Relative size below which an eigenvalue counts as zero.
    """
    scale, scaled = equilibrated(squares)
    values, vectors = torch.linalg.eigh(scaled)
    kept = (values > tolerance * values[:, -1:]) & (values > 0)
    one = torch.ones_like(values)
    inverse = torch.where(kept, 1 / torch.where(kept, values, one), torch.zeros_like(values))
    columns = scale.unsqueeze(2) * vectors
    return PointBlocks(
        inverse=(columns * inverse.unsqueeze(1)) @ columns.mT,
        kernel=columns * (~kept).unsqueeze(1),
        data=data,
        scale=scale,
        resolution=tolerance**0.5,
    )
