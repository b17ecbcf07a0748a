"""Matrix-free solvers: SciPy iterates, and the residual decides on the status."""

from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse.linalg as scipy_linalg
import torch
from torch import Tensor

from solset.checks import checked
from solset.errors import Status, bad_value
from solset.linalg import LinearOperator, NormalOperator, as_scipy, from_numpy, shifted, to_numpy
from solset.solvers._base import Prepared, Solver, aim, attainable, judge, relative_residual
from solset.solvers._columnwise import ColumnwisePrepared, require_symmetric
from solset.solvers._needs import Needs
from solset.solvers._solution import Solution


@checked
@dataclass(frozen=True)
class LSMR(Solver):
    """The minimum-norm least-squares solution by LSMR (Fong & Saunders 2011), for any operator.

    On a Hessian it squares an already squared condition number; on rows ``J`` it does not.

    Attributes:
        tol: Relative residual at which to stop.
        max_steps: Largest number of iterations, each one product with ``A`` and one with ``Aᵀ``.
        damping: Number ``δ`` in ``min ‖Av - b‖² + δ²‖v‖²`` (0: none). The residual reported is that of the
            damped normal equations.
    """

    tol: float = 1e-8
    max_steps: int = 2000
    damping: float = 0.0

    def plan(self, operator: LinearOperator) -> Needs:
        """Six vectors of weights and three of rows, in float64; two products in each step."""
        m, p = operator.shape
        return Needs(memory=8 * (6 * p + 3 * m), products=2, products_per_step=2, max_steps=self.max_steps)

    def prepare(self, operator: LinearOperator) -> Prepared:
        """The operator itself: nothing is computed in advance."""

        def column(rhs: Tensor) -> Solution:
            value, steps, is_done = self._iterate(operator, rhs, self.max_steps)
            if self.damping > 0:
                equations = NormalOperator(operator, self.damping**2)
                return judge(equations, value, operator.T @ rhs, self.tol, steps)
            solution = judge(operator, value, rhs, self.tol, steps)
            short = solution.residual > aim(self.tol, operator)
            if short and is_done and solution.status is not Status.INCONSISTENT:
                # SciPy's test adds a multiple of ‖A‖‖v‖, which is not small in float32: restart on the rest.
                more, extra, is_done = self._iterate(operator, rhs - operator @ value, self.max_steps - steps)
                again = judge(operator, value + more, rhs, self.tol, steps + extra)
                solution = again if again.residual < solution.residual else solution
            if solution.status is Status.INCONSISTENT and not is_done:
                return replace(solution, status=Status.MAX_STEPS)
            return solution

        def damped(damping: float) -> Prepared:
            if operator.is_symmetric:
                return self.prepare(shifted(operator, damping))
            return replace(self, damping=damping**0.5).prepare(operator)

        return ColumnwisePrepared(operator, column, damped, self)

    def _iterate(self, operator: LinearOperator, rhs: Tensor, max_steps: int) -> tuple[Tensor, int, bool]:
        out = scipy_linalg.lsmr(
            as_scipy(operator),
            to_numpy(rhs),
            damp=self.damping,
            atol=attainable(0.0, operator),
            btol=aim(self.tol, operator),
            conlim=0.0,
            maxiter=max_steps,
        )
        return from_numpy(out[0], operator), int(out[2]), out[1] != 7


@checked
@dataclass(frozen=True)
class MINRES(Solver):
    """The minimum-norm solution by MINRES (Paige & Saunders 1975), for symmetric, also indefinite, ``A``.

    An inconsistent system is reduced to its part in the range of ``A``, so that the least-squares element
    returned has minimum norm too.

    Attributes:
        tol: Relative residual at which to stop.
        max_steps: Largest number of products in total.
    """

    tol: float = 1e-8
    max_steps: int = 2000

    def takes(self, operator: LinearOperator) -> bool:
        """Whether the operator is symmetric."""
        return operator.is_symmetric

    def plan(self, operator: LinearOperator) -> Needs:
        """Nine vectors in float64; one product in each step, two for the verdict."""
        return Needs(
            memory=9 * 8 * operator.shape[1], products=2, products_per_step=1, max_steps=self.max_steps
        )

    def prepare(self, operator: LinearOperator) -> Prepared:
        """The operator itself, checked to be symmetric."""
        require_symmetric(operator, "MINRES")

        def column(rhs: Tensor) -> Solution:
            value, steps = self._refine(operator, rhs)
            solution = judge(operator, value, rhs, self.tol, steps)
            if solution.status is Status.CONVERGED or steps >= self.max_steps:
                return solution
            part, more = self.range_part(operator, rhs)
            value, last = self._refine(operator, part)
            return judge(operator, value, rhs, self.tol, steps + more + last)

        return ColumnwisePrepared(operator, column, lambda damping: self.prepare(shifted(operator, damping)))

    def range_part(self, operator: LinearOperator, rhs: Tensor) -> tuple[Tensor, int]:
        """The part of ``b`` in the range of ``A``, and the steps it took.

        It is the minimum-norm solution of ``A y = A b``, which is consistent whatever ``b`` is: MINRES on
        ``A v = b`` itself lets the kernel part of ``v`` grow without bound.

        Args:
            operator: A symmetric ``A``, ``(p, p)``.
            rhs: Right-hand side ``b``, ``(p,)``.
        """
        return self._refine(operator, operator @ rhs)

    def _refine(self, operator: LinearOperator, rhs: Tensor) -> tuple[Tensor, int]:
        """Restart on the residual until it is small or stops falling: SciPy's own test is on ‖A‖‖x‖."""
        value, steps = torch.zeros_like(rhs), 0
        target = aim(self.tol, operator) * float(torch.linalg.vector_norm(rhs))
        residual, size = rhs, float(torch.linalg.vector_norm(rhs))
        while size > target and steps < self.max_steps:
            counter = _Counter()
            out, _ = scipy_linalg.minres(
                as_scipy(operator),
                to_numpy(residual),
                rtol=attainable(min(self.tol, 1e-10), operator),
                maxiter=self.max_steps - steps,
                callback=counter,
            )
            candidate = value + from_numpy(out, operator)
            steps += max(counter.count, 1)
            residual = rhs - operator @ candidate
            previous, size = size, float(torch.linalg.vector_norm(residual))
            if size < previous:
                value = candidate
            if not size < 0.5 * previous:
                break
        return value, steps


class _Counter:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self, _: np.ndarray) -> None:
        self.count += 1


class _CurvatureError(Exception):
    """Raised inside CG at a direction with ``dᵀAd ≤ 0``, where no further step is defined."""

    def __init__(self, *, is_negative: bool) -> None:
        super().__init__()
        self.is_negative = is_negative


class _Guarded(scipy_linalg.LinearOperator):
    """An operator that stops CG where the curvature is not positive."""

    def __init__(self, operator: LinearOperator) -> None:
        super().__init__(np.dtype(np.float64), operator.shape)
        self._inner, self._rounding, self._largest = as_scipy(operator), torch.finfo(operator.dtype).eps, 0.0

    def _matvec(self, x: np.ndarray) -> np.ndarray:
        image = self._inner.matvec(x)
        size = float(x @ x)
        curvature = float(x @ image) / size
        # Rounding is relative to the norm of A, not to A x, which vanishes towards the kernel.
        self._largest = max(self._largest, float(np.linalg.norm(image)) / size**0.5)
        if curvature < -100 * self._rounding * self._largest:
            raise _CurvatureError(is_negative=True)
        if curvature <= self._rounding * self._largest:
            raise _CurvatureError(is_negative=False)
        return image


@checked
@dataclass(frozen=True)
class CG(Solver):
    """The solution of ``(A + damping·I) v = b`` by conjugate gradients, for positive semi-definite ``A``.

    It watches the curvature of every direction it takes and ends with status ``indefinite`` at the first
    negative one, where plain CG would go on and return nonsense.

    Attributes:
        tol: Relative residual at which to stop.
        max_steps: Largest number of products, one a step.
        damping: Number that is added to the diagonal (0: none). The residual reported is that of the damped
            system.
        preconditioner: Approximation of the inverse, positive definite; ``None`` for none. With a
            preconditioner the solution of a singular system is a solution, not the one of minimum norm.
    """

    tol: float = 1e-8
    max_steps: int = 5000
    damping: float = 0.0
    preconditioner: LinearOperator | None = None

    def takes(self, operator: LinearOperator) -> bool:
        """Whether the operator is symmetric."""
        return operator.is_symmetric

    def plan(self, operator: LinearOperator) -> Needs:
        """Seven vectors in float64; one product in each step, one for the verdict."""
        return Needs(
            memory=7 * 8 * operator.shape[1], products=1, products_per_step=1, max_steps=self.max_steps
        )

    def prepare(self, operator: LinearOperator) -> Prepared:
        """The damped operator, checked to be symmetric."""
        require_symmetric(operator, "CG")
        if self.damping == 0:
            damped_operator = operator  # which may have a faster product than its factor's two
        elif isinstance(operator, NormalOperator):
            damped_operator = NormalOperator(operator.factor, operator.damping + self.damping, operator.rest)
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
            part, more = MINRES(self.tol, self.max_steps).range_part(damped_operator, rhs)
            value, last, _ = self._iterate(damped_operator, part)
            return judge(damped_operator, value, rhs, self.tol, steps + more + last)

        return ColumnwisePrepared(
            damped_operator,
            column,
            lambda damping: replace(self, damping=self.damping + damping).prepare(operator),
        )

    def _iterate(self, operator: LinearOperator, rhs: Tensor) -> tuple[Tensor, int, bool]:
        best, counter = np.zeros(operator.shape[0]), _Counter()

        def keep(iterate: np.ndarray) -> None:
            counter(iterate)
            best[:] = iterate

        inverse = None if self.preconditioner is None else as_scipy(self.preconditioner)
        try:
            scipy_linalg.cg(
                _Guarded(operator),
                to_numpy(rhs),
                rtol=aim(self.tol, operator),
                maxiter=self.max_steps,
                M=inverse,
                callback=keep,
            )
        except _CurvatureError as stop:
            return from_numpy(best, operator), counter.count, not stop.is_negative
        return from_numpy(best, operator), counter.count, True


@dataclass(frozen=True)
class FirstToConverge(Solver):
    """The first solution that is not a failure, of several solvers tried in order.

    A failure is ``indefinite``, ``diverged``, ``nonfinite`` or ``max_steps``; an inconsistent system is an
    answer. Steps are summed over all that were tried.

    Attributes:
        solvers: Solvers in the order in which they are tried, at least one; if none succeeds, the solution
            of the last one is returned.
    """

    solvers: tuple[Solver, ...]

    def __post_init__(self) -> None:
        if not self.solvers:
            raise bad_value("solvers", expected="at least one", got="none", cure="Name a solver to try.")

    def takes(self, operator: LinearOperator) -> bool:
        """Whether every solver can work on the operator."""
        return all(solver.takes(operator) for solver in self.solvers)

    def plan(self, operator: LinearOperator) -> Needs:
        """The largest need of any solver, and the sum of their steps."""
        each = [solver.plan(operator) for solver in self.solvers]
        return Needs(
            memory=max(needs.memory for needs in each),
            disk=max(needs.disk for needs in each),
            preparation=sum(needs.preparation for needs in each),
            sweeps=sum(needs.sweeps for needs in each),
            products=sum(needs.products for needs in each),
            products_per_step=max(needs.products_per_step for needs in each),
            max_steps=sum(needs.max_steps for needs in each),
            note="if every solver has to be tried",
        )

    def prepare(self, operator: LinearOperator) -> Prepared:
        """The preparation of each solver, made when its turn comes."""
        *others, last = self.solvers

        def column(rhs: Tensor) -> Solution:
            steps = 0
            for solver in others:
                solution = solver.prepare(operator).solve(rhs)
                steps += solution.steps
                if solution.status in {Status.CONVERGED, Status.INCONSISTENT}:
                    return replace(solution, steps=steps)
            solution = last.prepare(operator).solve(rhs)
            return replace(solution, steps=steps + solution.steps)

        def damped(damping: float) -> Prepared:
            if operator.is_symmetric:
                return self.prepare(shifted(operator, damping))
            equations = self.prepare(NormalOperator(operator, damping))
            return ColumnwisePrepared(operator, lambda rhs: equations.solve(operator.T @ rhs), damped, self)

        return ColumnwisePrepared(operator, column, damped, self)
