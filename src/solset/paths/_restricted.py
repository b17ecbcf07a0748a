"""Rows of ``J`` on the directions that leave held activations at their kinks."""

import torch
from torch import Tensor

from solset.linalg import LinearOperator


class Restricted(LinearOperator):
    """``S A (I - QᵀQ)``: nearly orthonormal rows ``A`` on the directions that ``H`` maps to zero.

    ``Q = L⁻¹H`` is orthonormal, and ``S`` makes the rows nearly orthonormal again. The operator does not
    change if a multiple of a row of ``H`` is added to a row of ``A``, and only that differs between the two
    sides of a kink.

    Args:
        inner: Rows ``A``, ``(s, p)``.
        rows: Gradients ``H`` of the held activations' arguments, ``(k, p)``.
        nearby: Gradients close to those, ``(k, p)``.
        images: Products of the orthonormal rows with the nearby gradients, ``(s, k)``.
    """

    def __init__(self, inner: LinearOperator, rows: Tensor, nearby: Tensor, images: Tensor) -> None:
        super().__init__(inner.shape, inner.dtype, inner.device)
        self._inner, least = inner, torch.finfo(rows.dtype).eps ** 0.75
        self._root = _root(rows)
        self._unit = torch.linalg.solve_triangular(self._root, rows, upper=False)
        cross = torch.linalg.solve_triangular(_root(nearby), images.T, upper=False).T
        self._basis, sines, _ = torch.linalg.svd(cross, full_matrices=False)
        self._cosines = (1 - sines.square()).clamp(min=least).sqrt()

    def base(self, arguments: Tensor) -> Tensor:
        """The shortest ``v`` such that ``H v`` are the given arguments, ``(p,)``."""
        return self._unit.T @ self._solved(arguments)

    def scaled(self, block: Tensor) -> Tensor:
        """``S`` times a block or a vector."""
        return self._stretched(block, 1 / self._cosines)

    def unscaled(self, block: Tensor) -> Tensor:
        """``S⁻¹`` times a block or a vector."""
        return self._stretched(block, self._cosines)

    def pull(self, arguments: Tensor, image: Tensor) -> Tensor:
        """The ``μ`` with ``H (image + Hᵀμ)`` equal to the given arguments, ``(k,)``."""
        rest = (self._solved(arguments) - self._unit @ image).unsqueeze(1)
        return torch.linalg.solve_triangular(self._root.T, rest, upper=True)[:, 0]

    def _solved(self, arguments: Tensor) -> Tensor:
        return torch.linalg.solve_triangular(self._root, arguments.unsqueeze(1), upper=False)[:, 0]

    def _stretched(self, block: Tensor, by: Tensor) -> Tensor:
        along = self._basis.T @ block
        return block + self._basis @ ((by - 1).reshape(-1, *[1] * (block.ndim - 1)) * along)

    def _free(self, block: Tensor) -> Tensor:
        return block - self._unit.T @ (self._unit @ block)

    def _apply(self, block: Tensor) -> Tensor:
        return self.scaled(self._inner @ self._free(block))

    def _apply_transposed(self, block: Tensor) -> Tensor:
        return self._free(self._inner.T @ self.scaled(block))


def _root(rows: Tensor) -> Tensor:
    """``L`` with ``LLᵀ = HHᵀ``, also where two rows of ``H`` are equal."""
    square = rows @ rows.T
    least = torch.finfo(rows.dtype).eps ** 0.75
    return torch.linalg.cholesky(square + least * torch.diag(square.diagonal()))


class Images:
    """Products of orthonormal rows ``A`` with the gradients of held activations, kept from place to place.

    The products only scale an iteration, and gradients change little between places, so a product with a
    gradient nearby is good enough.

    Args:
        rows: Orthonormal rows ``A``, ``(s, p)``.
        max_change: Largest relative change of a gradient up to which its earlier image is used again.
    """

    def __init__(self, rows: LinearOperator, *, max_change: float = 1e-2) -> None:
        self._rows, self.max_change = rows, max_change
        self._pairs: dict[int, tuple[Tensor, Tensor]] = {}

    def near(self, held: tuple[int, ...], gradients: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients near those of the held activations, ``(k, p)``, and their images, ``(s, k)``."""
        if not held:
            return gradients, gradients.new_zeros(self._rows.shape[0], 0)
        new = [place for place, switch in enumerate(held) if not self._serves(switch, gradients[place])]
        if new:
            images = (self._rows @ gradients[new].T.contiguous()).T
            for place, image in zip(new, images, strict=True):
                # Copies: a view would keep the whole block that it is part of.
                self._pairs[held[place]] = (gradients[place].clone(), image.clone())
        self._pairs = {switch: self._pairs[switch] for switch in held}
        pairs = list(self._pairs.values())
        return torch.stack([pair[0] for pair in pairs]), torch.stack([pair[1] for pair in pairs], dim=1)

    def _serves(self, switch: int, gradient: Tensor) -> bool:
        if switch not in self._pairs:
            return False
        return bool((self._pairs[switch][0] - gradient).norm() <= self.max_change * gradient.norm())
