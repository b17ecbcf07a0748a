"""Matrix-free solvers; the iterations are SciPy's, the verdict is ours."""

from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse.linalg as scipy_linalg
import torch
from torch import Tensor

from solset.errors import Status
from solset.linalg import LinearOperator, NormalOperator, shifted
from solset.linalg.scipy_bridge import as_scipy, from_numpy, to_numpy
from solset.solvers.base import Prepared, Solver, judge, relative_residual
from solset.solvers.columnwise import ColumnwisePrepared, require_symmetric
from solset.solvers.solution import Solution


@dataclass(frozen=True)
class LSMR(Solver):
    """The minimum-norm least-squares solution by LSMR (Fong & Saunders 2011), for any operator.

    On a Hessian it squares an already squared condition number; on rows ``J`` it does not.

    Attributes:
        tol: Relative residual at which to stop.
        max_steps: Iterations, each one product with ``A`` and one with ``Aᵀ``.
    """

    tol: float = 1e-8
    max_steps: int = 2000
    damping: float = 0.0

    def prepare(self, operator: LinearOperator) -> Prepared:
        """The operator itself: nothing is computed in advance.

        Args:
            operator: The matrix ``A``.
        """

        def column(rhs: Tensor) -> Solution:
            exact = 100 * torch.finfo(operator.dtype).eps
            out = scipy_linalg.lsmr(
                as_scipy(operator),
                to_numpy(rhs),
                damp=self.damping,
                atol=min(exact, self.tol),
                btol=self.tol,
                conlim=0.0,
                maxiter=self.max_steps,
            )
            solution = judge(operator, from_numpy(out[0], operator), rhs, self.tol, int(out[2]))
            if solution.status is Status.INCONSISTENT and out[1] == 7:
                return replace(solution, status=Status.MAX_STEPS)
            return solution

        def damped(damping: float) -> Prepared:
            if operator.is_symmetric:
                return self.prepare(shifted(operator, damping))
            return replace(self, damping=damping**0.5).prepare(operator)

        return ColumnwisePrepared(operator, column, damped, self)


@dataclass(frozen=True)
class MINRES(Solver):
    """The minimum-norm solution by MINRES (Paige & Saunders 1975), for symmetric, also indefinite, ``A``.

    An inconsistent system is first reduced to its part in the range of ``A``, so that the least-squares
    element returned has minimum norm too.

    Attributes:
        tol: Relative residual at which to stop.
        max_steps: Products in total.
    """

    tol: float = 1e-8
    max_steps: int = 2000

    def prepare(self, operator: LinearOperator) -> Prepared:
        """The operator itself, once it is known to be symmetric.

        Args:
            operator: A symmetric ``A``.
        """
        require_symmetric(operator, "MINRES")

        def column(rhs: Tensor) -> Solution:
            value, steps = self._refine(operator, rhs)
            solution = judge(operator, value, rhs, self.tol, steps)
            if solution.status is not Status.INCONSISTENT:
                return solution
            value, more = self._refine(operator, operator @ value)
            return judge(operator, value, rhs, self.tol, steps + more)

        return ColumnwisePrepared(operator, column, lambda damping: self.prepare(shifted(operator, damping)))

    def _refine(self, operator: LinearOperator, rhs: Tensor) -> tuple[Tensor, int]:
        """Restart on the residual until it is small or stops falling: SciPy's own test is on ‖A‖‖x‖."""
        value, steps = torch.zeros_like(rhs), 0
        target = self.tol * float(torch.linalg.vector_norm(rhs))
        residual, size = rhs, float(torch.linalg.vector_norm(rhs))
        while size > target and steps < self.max_steps:
            counter = _Counter()
            out, _ = scipy_linalg.minres(
                as_scipy(operator),
                to_numpy(residual),
                rtol=min(self.tol, 1e-10),
                maxiter=self.max_steps - steps,
                callback=counter,
            )
            value = value + from_numpy(out, operator)
            steps += max(counter.count, 1)
            residual = rhs - operator @ value
            previous, size = size, float(torch.linalg.vector_norm(residual))
            if not size < 0.5 * previous:
                break
        return value, steps


class _Counter:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self, _: np.ndarray) -> None:
        self.count += 1


class _NegativeCurvatureError(Exception):
    """Raised inside CG at a direction with ``dᵀAd < 0``."""


@dataclass(frozen=True)
class CG(Solver):
    """The solution of ``(A + damping·I) v = b`` by conjugate gradients, for positive semi-definite ``A``.

    It watches the curvature of every direction it takes and ends with status ``indefinite`` at the first
    negative one, where plain CG would go on and return nonsense.

    Attributes:
        tol: Relative residual at which to stop.
        max_steps: Products.
        damping: Added to the diagonal (0: none). The residual reported is that of the damped system.
        preconditioner: An approximation of the inverse, positive definite; ``None`` for none. With a
            preconditioner the solution of a singular system is a solution, not the one of minimum norm.
    """

    tol: float = 1e-8
    max_steps: int = 5000
    damping: float = 0.0
    preconditioner: LinearOperator | None = None

    def prepare(self, operator: LinearOperator) -> Prepared:
        """The damped operator, once it is known to be symmetric.

        Args:
            operator: A symmetric ``A``.
        """
        require_symmetric(operator, "CG")
        if isinstance(operator, NormalOperator):
            damped_operator = NormalOperator(operator.factor, operator.damping + self.damping)
        else:
            damped_operator = shifted(operator, self.damping)

        def column(rhs: Tensor) -> Solution:
            value, steps, definite = self._iterate(damped_operator, rhs)
            if not definite:
                _, residual = relative_residual(damped_operator, value, rhs)
                return Solution(value, Status.INDEFINITE, residual, steps)
            solution = judge(damped_operator, value, rhs, self.tol, steps)
            if solution.status is Status.CONVERGED:
                return solution
            range_part = damped_operator @ MINRES(self.tol, self.max_steps).solve(damped_operator, rhs).value
            value, more, _ = self._iterate(damped_operator, range_part)
            return judge(damped_operator, value, rhs, self.tol, steps + more)

        return ColumnwisePrepared(
            damped_operator,
            column,
            lambda damping: replace(self, damping=self.damping + damping).prepare(operator),
        )

    def _iterate(self, operator: LinearOperator, rhs: Tensor) -> tuple[Tensor, int, bool]:
        inner = as_scipy(operator)
        best, counter = np.zeros(operator.shape[0]), _Counter()

        def product(direction: np.ndarray) -> np.ndarray:
            image = inner.matvec(direction)
            curvature, size = (
                float(direction @ image),
                float(np.linalg.norm(direction) * np.linalg.norm(image)),
            )
            if curvature < -100 * np.finfo(float).eps * size:
                raise _NegativeCurvatureError
            return image

        def keep(iterate: np.ndarray) -> None:
            counter(iterate)
            best[:] = iterate

        guarded = scipy_linalg.LinearOperator(shape=operator.shape, dtype=np.float64, matvec=product)
        inverse = None if self.preconditioner is None else as_scipy(self.preconditioner)
        try:
            scipy_linalg.cg(
                guarded, to_numpy(rhs), rtol=self.tol, maxiter=self.max_steps, M=inverse, callback=keep
            )
        except _NegativeCurvatureError:
            return from_numpy(best, operator), counter.count, False
        return from_numpy(best, operator), counter.count, True


@dataclass(frozen=True)
class FirstToConverge(Solver):
    """Tries solvers in order and returns the first solution that is not a failure.

    A failure is ``indefinite``, ``diverged``, ``nonfinite`` or ``max_steps``; an inconsistent system is an
    answer. Steps are summed over all that were tried.

    Attributes:
        solvers: At least one; the last one's solution is returned if none succeeds.
    """

    solvers: tuple[Solver, ...]

    def prepare(self, operator: LinearOperator) -> Prepared:
        """Each solver's preparation, made when its turn comes.

        Args:
            operator: The matrix ``A``.
        """

        def column(rhs: Tensor) -> Solution:
            steps = 0
            for solver in self.solvers:
                solution = solver.prepare(operator).solve(rhs)
                steps += solution.steps
                if solution.status in {Status.CONVERGED, Status.INCONSISTENT}:
                    break
            return replace(solution, steps=steps)

        return ColumnwisePrepared(operator, column, lambda damping: self.prepare(shifted(operator, damping)))
