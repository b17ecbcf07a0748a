"""The coderivative of a solution map (Theorem 1)."""

import torch
from torch import Tensor

from solset.derivatives._linearisation import Linearisation
from solset.linalg import LinearOperator
from solset.sets import AffineSet, affine_image


class Coderivative:
    """The coderivative ``D*S(x̄|w̄)``: from a weight direction to the set of data directions.

    ``D*S(x̄|w̄)(q) = {Cᵀ y : Aᵀ y = -q}`` (Theorem 1; Definition 4), empty for ``q`` outside ``range Aᵀ``.

    Args:
        linearisation: The pair ``(A, C)`` and its solver.
    """

    def __init__(self, linearisation: Linearisation) -> None:
        self.linearisation = linearisation

    def __repr__(self) -> str:
        """The map, the rows, the solver and the sizes in one line."""
        return f"Coderivative({self.linearisation.headline})"

    def __call__(self, q: Tensor) -> AffineSet:
        """The affine set of data directions dual to ``q``; a single point if ``A`` has full row rank.

        Args:
            q: A weight direction, ``(p,)``.

        Cost: one solve with ``Aᵀ`` and one product with ``Cᵀ``; a projection onto a set of several
        points needs an inner solve in each step.
        """
        line = self.linearisation
        solution = line.system.solve_transposed(-line.weight_space.flatten(q))
        return affine_image(line.pull(solution.value), _spread(line), defect=solution.residual)


def _spread(line: Linearisation) -> "_KernelImage | None":
    """``Cᵀ`` on ``ker Aᵀ``, or ``None`` if it is zero up to rounding: then the coderivative is one point.

    The image of three random vectors from a fixed seed is compared with that of ``Cᵀ`` itself.
    """
    if line.rank == line.rows:
        return None
    image = _KernelImage(line)
    generator = torch.Generator().manual_seed(0)
    probes = torch.randn(image.shape[1], 3, generator=generator, dtype=torch.float64)
    probes = probes.to(image.device, image.dtype)
    size = torch.linalg.vector_norm(line.data.T @ probes)
    rounding = torch.finfo(image.dtype).eps ** 0.5
    return image if bool(torch.linalg.vector_norm(image @ probes) > rounding * size) else None


class _KernelImage(LinearOperator):
    """``z ↦ Cᵀ P z`` with ``P`` the projector on ``ker Aᵀ``."""

    def __init__(self, line: Linearisation) -> None:
        m, q = line.constraint.operator.shape[0], line.data.shape[1]
        super().__init__((q, m), line.data.dtype, line.data.device)
        self._line = line

    def _kernel_part(self, block: Tensor) -> Tensor:
        system = self._line.system
        columns = [
            z - system.solve_transposed(system.operator.T @ z.contiguous()).value for z in block.unbind(1)
        ]
        return torch.stack(columns, dim=1)

    def _apply(self, block: Tensor) -> Tensor:
        return self._line.data.T @ self._kernel_part(block)

    def _apply_transposed(self, block: Tensor) -> Tensor:
        return self._kernel_part(self._line.data @ block)
