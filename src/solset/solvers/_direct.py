"""The dense pseudo-inverse: the solver that writes the whole matrix out."""

from dataclasses import dataclass

import torch
from torch import Tensor

from solset.checks import checked
from solset.errors import bad_value
from solset.linalg import (
    Deflated,
    LeftSide,
    LinearOperator,
    NormalOperator,
    Spectrum,
    default_tolerance,
    spectrum,
)
from solset.solvers._base import Factor, Prepared, Solution, Solver, judge
from solset.solvers._needs import Needs
from solset.solvers.filters import Filter, MinimumNorm

SLACK = 10  # factor above the first-order angle of a kernel up to which a residual counts as explained by it
MOST_SLACK = 0.01  # largest relative residual that is ever explained so


@checked
@dataclass(frozen=True)
class Dense(Solver):
    """The pseudo-inverse of the matrix written out, with a stated rank cut.

    Attributes:
        rank_tolerance: Relative size below which an eigenvalue (singular value) counts as zero;
            ``None`` takes the larger side times the rounding unit, and cuts nothing of a damped ``AᵀA + λI``.
        tol: Relative residual up to which the system counts as consistent.
        memory_budget: Bytes that the matrix and its decomposition may take.

    Cost: ``min(m, p)`` products, then ``O(min(m, p)² max(m, p))`` operations and ``3·8·m·p`` bytes.
    """

    rank_tolerance: float | None = None
    tol: float = 1e-8
    memory_budget: int = 4 * 2**30

    def plan(self, operator: LinearOperator) -> Needs:
        """The bytes of the matrix with its decomposition, and the products that write it out."""
        m, p = operator.shape
        return Needs(
            memory=3 * 8 * m * p, preparation=min(m, p), products=1, note=f"a dense {m} x {p} matrix"
        )

    def prepare(self, operator: LinearOperator) -> Prepared:
        """The eigen-decomposition of a symmetric operator, or that of the smaller Gram side.

        Raises:
            ValueError: If the matrix does not fit the memory budget.
        """
        need = self.plan(operator)
        if need.memory > self.memory_budget:
            raise bad_value(
                "memory_budget",
                expected=f"at least {need.memory} bytes for {need.note}",
                got=self.memory_budget,
                cure="Raise it, or take Dual, LSMR or MINRES.",
            )
        tolerance = self.rank_tolerance
        if tolerance is None:
            tolerance = default_tolerance(operator.shape, operator.dtype)
        matrix = operator.to_dense().to(torch.float64)
        if operator.is_symmetric:
            return SymmetricPrepared(
                operator, self._spectrum(operator, (matrix + matrix.T) / 2, tolerance), self.tol
            )
        return _SingularPrepared(operator, matrix, tolerance, self.tol)

    def _spectrum(self, operator: LinearOperator, matrix: Tensor, tolerance: float) -> Spectrum:
        """The spectrum, in which no eigenvalue is below the damping: none of those is zero by rounding."""
        decomposition = spectrum(matrix, tolerance)
        floor = operator.floor if isinstance(operator, NormalOperator) else 0.0
        if self.rank_tolerance is not None or floor <= 0:
            return decomposition
        return Spectrum(decomposition.values.clamp_min(floor), decomposition.vectors, 0.0)


class SymmetricPrepared(Prepared):
    """``A = U diag(s) Uᵀ`` of a symmetric operator.

    Args:
        operator: Symmetric matrix ``A``, ``(p, p)``.
        decomposition: Eigenvalues and eigenvectors of the matrix.
        tol: Relative residual up to which the system counts as consistent.
        blur: Angle by which the kernel may be off; residuals that it explains count as consistent.
        doubt: Sentence that says which eigenvalues may be zero; empty where the rank is known.
        is_blind: Whether the rank cut takes eigenvalues that count, so that the rank is not known at all.
    """

    def __init__(
        self,
        operator: LinearOperator,
        decomposition: Spectrum,
        tol: float,
        *,
        blur: float = 0.0,
        doubt: str = "",
        is_blind: bool = False,
    ) -> None:
        self.operator, self.spectrum, self.tol = operator, decomposition, tol
        self.blur, self.doubt, self.is_blind = blur, doubt, is_blind

    def symmetric_side(self) -> "SymmetricPrepared":
        """This object."""
        return self

    def doubted(self, doubt: str, *, is_blind: bool = False) -> "SymmetricPrepared":
        """The same matrix, whose rank is not known.

        Args:
            doubt: Sentence that says which eigenvalues may be zero.
            is_blind: Whether eigenvalues that count are among them for certain.
        """
        return SymmetricPrepared(self.operator, self.spectrum, self.tol, doubt=doubt, is_blind=is_blind)

    def deflated(self, basis: Tensor) -> "SymmetricPrepared":
        """The same matrix with a kernel that is known from elsewhere.

        Args:
            basis: Orthonormal columns that span the kernel, ``(p, k)``.
        """
        if basis.shape[1] == 0:
            return self
        s = self.spectrum.deflated(basis)
        image = self.spectrum.values.unsqueeze(1) * (self.spectrum.vectors.T @ basis.to(s.vectors))
        smallest = float(s.values.abs()[s.kept].min()) if s.rank else 1.0
        blur = min(MOST_SLACK, SLACK * float(torch.linalg.matrix_norm(image, 2)) / smallest)
        return SymmetricPrepared(Deflated(self.operator, basis), s, self.tol, blur=blur)

    def solve(self, rhs: Tensor) -> Solution:
        """``A⁺ b``."""
        return self.filtered(MinimumNorm(), rhs)

    def filtered(self, choice: Filter, rhs: Tensor) -> Solution:
        """``φ(A) b``."""
        block = rhs.reshape(rhs.shape[0], -1).to(torch.float64)
        value = self._function(choice, block).to(rhs.dtype).reshape(rhs.shape)
        return judge(self.operator, value, rhs, max(self.tol, self.blur), 0, chosen=choice)

    def _function(self, choice: Filter, block: Tensor) -> Tensor:
        s = self.spectrum
        phi = choice(s.values, s.kept)
        return ((phi * (block.T @ s.vectors)) @ s.vectors.T).T  # rows are faster than few columns

    def factor(self) -> Factor:
        """Functions of the matrix by its eigenvectors."""
        values = self.spectrum.values
        smallest = float(values[self.spectrum.kept].min()) if self.spectrum.rank else 0.0
        largest = float(values.abs().max())
        return Factor(self._function, self.spectrum.rank, smallest, largest, max(self.tol, self.blur))

    def curvature(self) -> Prepared:
        """The system itself, which is symmetric."""
        return self

    @property
    def rank(self) -> int | None:
        """The number of eigenvalues above the tolerance; ``None`` where that takes some that count."""
        return None if self.is_blind else self.spectrum.rank

    @property
    def clearance(self) -> float:
        """The smallest eigenvalue that counts, relative to the largest."""
        sizes = self.spectrum.values.abs()
        return float(sizes[self.spectrum.kept].min() / sizes.max()) if self.spectrum.rank else 1.0

    @property
    def lowest(self) -> float:
        """The smallest eigenvalue outside the kernel, with its sign, relative to the largest in size."""
        values = self.spectrum.values
        return float(values[self.spectrum.kept].min() / values.abs().max()) if self.spectrum.rank else 0.0

    @property
    def amplification(self) -> float:
        """The root mean square of the inverse eigenvalues, those of the kernel counted as zero."""
        sizes = self.spectrum.values[self.spectrum.kept]
        return float((sizes.reciprocal().square().sum() / max(len(self.spectrum.values), 1)).sqrt())

    def left_side(self) -> LeftSide:
        """The decomposition of a symmetric matrix by its spectrum."""
        return LeftSide.of_symmetric(self.spectrum, self.blur)


class _SingularPrepared(Prepared):
    """``A = U diag(σ) Vᵀ``; filters act on ``σ²``."""

    def __init__(self, operator: LinearOperator, matrix: Tensor, tolerance: float, tol: float) -> None:
        self.operator = operator
        self.left, self.singular, self.right = torch.linalg.svd(matrix, full_matrices=False)
        self.kept = self.singular > tolerance * self.singular.max()
        self.matrix, self.tolerance, self.tol = matrix, tolerance, tol

    def solve(self, rhs: Tensor) -> Solution:
        inverse = MinimumNorm()(self.singular, self.kept)
        return self._finish(MinimumNorm(), inverse, rhs)

    def filtered(self, choice: Filter, rhs: Tensor) -> Solution:
        return self._finish(choice, self.singular * choice(self.singular**2, self.kept), rhs)

    def _finish(self, choice: Filter, factors: Tensor, rhs: Tensor) -> Solution:
        block = rhs.reshape(rhs.shape[0], -1).to(torch.float64)
        value = self.right.T @ (factors.unsqueeze(1) * (self.left.T @ block))
        value = value.to(rhs.dtype).reshape(-1, *rhs.shape[1:])
        return judge(self.operator, value, rhs, self.tol, 0, chosen=choice)

    def solve_transposed(self, rhs: Tensor) -> Solution:
        inverse = MinimumNorm()(self.singular, self.kept)
        block = rhs.reshape(rhs.shape[0], -1).to(torch.float64)
        value = self.left @ (inverse.unsqueeze(1) * (self.right @ block))
        return judge(self.operator.T, value.to(rhs.dtype).reshape(-1, *rhs.shape[1:]), rhs, self.tol, 0)

    def curvature(self) -> Prepared:
        square = spectrum(self.matrix.T @ self.matrix, self.tolerance)
        return SymmetricPrepared(NormalOperator(self.operator), square, self.tol)

    @property
    def rank(self) -> int:
        return int(self.kept.sum())
