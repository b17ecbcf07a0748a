"""Matrix-free solvers: columns iterate together, and the residual of each decides on its status."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from solset.checks import checked
from solset.errors import Status, bad_value
from solset.linalg import LinearOperator, NormalOperator, shifted
from solset.solvers._base import Prepared, Solution, Solver, aim, attainable
from solset.solvers._columnwise import ColumnwisePrepared, columns_of, judge_columns, require_symmetric
from solset.solvers._iterations import Iterates, conjugate_gradients, lsmr, minres
from solset.solvers._needs import Needs

ANSWERS = {Status.CONVERGED, Status.INCONSISTENT}  # statuses after which no other solver is asked


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

        def damped(damping: float) -> Prepared:
            if operator.is_symmetric:
                return self.prepare(shifted(operator, damping))
            return replace(self, damping=damping**0.5).prepare(operator)

        return ColumnwisePrepared(operator, lambda rhs: self._block(operator, rhs), damped, self)

    def _block(self, operator: LinearOperator, rhs: Tensor) -> list[Solution]:
        """Each column, with a second round on the rest where rounding left the first one short."""
        first = self._iterate(operator, rhs, _limits(self.max_steps, rhs))
        value = first.value.to(rhs.dtype)
        if self.damping > 0:
            equations = NormalOperator(operator, self.damping**2)
            return judge_columns(equations, value, operator.T @ rhs, self.tol, first.steps.tolist())
        verdicts = judge_columns(operator, value, rhs, self.tol, first.steps.tolist())
        verdicts = _reaching(verdicts, first.is_stopped)
        short = [
            j
            for j, verdict in enumerate(verdicts)
            if verdict.residual > aim(self.tol, operator)
            and bool(first.is_stopped[j])
            and verdict.status is not Status.INCONSISTENT
        ]
        if not short:
            return verdicts
        rest = rhs[:, short] - operator @ value[:, short]
        second = self._iterate(operator, rest, self.max_steps - first.steps[short])
        again = judge_columns(
            operator,
            value[:, short] + second.value.to(rhs.dtype),
            rhs[:, short],
            self.tol,
            (first.steps[short] + second.steps).tolist(),
        )
        for j, verdict in zip(short, _reaching(again, second.is_stopped), strict=True):
            if verdict.residual < verdicts[j].residual:
                verdicts[j] = verdict
        return verdicts

    def _iterate(self, operator: LinearOperator, rhs: Tensor, limits: Tensor) -> Iterates:
        tol, normal_tol = aim(self.tol, operator), attainable(0.0, operator)
        return lsmr(operator, rhs, tol, normal_tol, self.damping, limits)


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

        def block(rhs: Tensor) -> list[Solution]:
            value, steps = self._refine(operator, rhs)
            verdicts = judge_columns(operator, value, rhs, self.tol, steps.tolist())
            short = [
                j
                for j, verdict in enumerate(verdicts)
                if verdict.status is not Status.CONVERGED and verdict.steps < self.max_steps
            ]
            if short:
                part, more = self.range_part(operator, rhs[:, short])
                value, last = self._refine(operator, part)
                taken = (steps[short] + more + last).tolist()
                again = judge_columns(operator, value, rhs[:, short], self.tol, taken)
                verdicts = _with(verdicts, short, again)
            return verdicts

        return ColumnwisePrepared(operator, block, lambda damping: self.prepare(shifted(operator, damping)))

    def range_part(self, operator: LinearOperator, rhs: Tensor) -> tuple[Tensor, Tensor]:
        """The part of each ``b`` in the range of ``A``, ``(p, k)``, and the steps it took, ``(k,)``.

        It is the minimum-norm solution of ``A y = A b``, which is consistent whatever ``b`` is: MINRES on
        ``A v = b`` itself lets the kernel part of ``v`` grow without bound.

        Args:
            operator: A symmetric ``A``, ``(p, p)``.
            rhs: Right-hand sides ``b``, ``(p, k)``.
        """
        return self._refine(operator, operator @ rhs)

    def _refine(self, operator: LinearOperator, rhs: Tensor) -> tuple[Tensor, Tensor]:
        """Restarts on the residual until it is small or stops falling, since rounding ends a recurrence."""
        value, steps = torch.zeros_like(rhs), _limits(0, rhs)
        residual, size = rhs, torch.linalg.vector_norm(rhs, dim=0)
        target = aim(self.tol, operator) * size
        tol = attainable(min(self.tol, 1e-10), operator)
        columns = (size > target).nonzero().flatten()
        while len(columns):
            round_ = minres(operator, residual[:, columns], tol, self.max_steps - steps[columns])
            candidate = value[:, columns] + round_.value.to(rhs.dtype)
            steps[columns] += round_.steps.clamp_min(1)
            rest = rhs[:, columns] - operator @ candidate
            previous, reached = size[columns], torch.linalg.vector_norm(rest, dim=0)
            better = reached < previous
            value[:, columns[better]] = candidate[:, better]
            residual = residual.index_copy(1, columns, rest)
            size = size.index_copy(0, columns, reached)
            goes_on = (reached < 0.5 * previous) & (reached > target[columns])
            columns = columns[goes_on & (steps[columns] < self.max_steps)]
        return value, steps


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

        return ColumnwisePrepared(
            damped_operator,
            lambda rhs: self._block(damped_operator, rhs),
            lambda damping: replace(self, damping=self.damping + damping).prepare(operator),
        )

    def _block(self, operator: LinearOperator, rhs: Tensor) -> list[Solution]:
        first = self._iterate(operator, rhs)
        verdicts = judge_columns(operator, first.value.to(rhs.dtype), rhs, self.tol, first.steps.tolist())
        for j in first.is_indefinite.nonzero().flatten().tolist():
            verdicts[j] = replace(verdicts[j], status=Status.INDEFINITE)
        short = [
            j
            for j, verdict in enumerate(verdicts)
            if verdict.status not in {Status.CONVERGED, Status.INDEFINITE}
        ]
        if not short:
            return verdicts
        part, more = MINRES(self.tol, self.max_steps).range_part(operator, rhs[:, short])
        last = self._iterate(operator, part)
        taken = (first.steps[short] + more + last.steps).tolist()
        again = judge_columns(operator, last.value.to(rhs.dtype), rhs[:, short], self.tol, taken)
        return _with(verdicts, short, again)

    def _iterate(self, operator: LinearOperator, rhs: Tensor) -> Iterates:
        limits, tol = _limits(self.max_steps, rhs), aim(self.tol, operator)
        return conjugate_gradients(operator, rhs, tol, limits, self.preconditioner)


def _limits(steps: int, rhs: Tensor) -> Tensor:
    """The same number of steps for each column of a block."""
    return torch.full((rhs.shape[1],), steps, device=rhs.device)


def _with(verdicts: list[Solution], columns: list[int], others: list[Solution]) -> list[Solution]:
    """The verdicts with those of some columns replaced."""
    replaced = dict(zip(columns, others, strict=True))
    return [replaced.get(j, verdict) for j, verdict in enumerate(verdicts)]


def _reaching(verdicts: list[Solution], is_stopped: Tensor) -> list[Solution]:
    """The verdicts, in which a least-squares solution that met the limit of steps is not called one."""
    return [
        replace(verdict, status=Status.MAX_STEPS)
        if verdict.status is Status.INCONSISTENT and not is_over
        else verdict
        for verdict, is_over in zip(verdicts, is_stopped.tolist(), strict=True)
    ]


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

        def block(rhs: Tensor) -> list[Solution]:
            verdicts = columns_of(self.solvers[0].prepare(operator), rhs)
            for solver in self.solvers[1:]:
                failed = [j for j, verdict in enumerate(verdicts) if verdict.status not in ANSWERS]
                if not failed:
                    break
                again = columns_of(solver.prepare(operator), rhs[:, failed])
                counted = [
                    replace(verdict, steps=verdict.steps + verdicts[j].steps)
                    for j, verdict in zip(failed, again, strict=True)
                ]
                verdicts = _with(verdicts, failed, counted)
            return verdicts

        def damped(damping: float) -> Prepared:
            if operator.is_symmetric:
                return self.prepare(shifted(operator, damping))
            equations = self.prepare(NormalOperator(operator, damping))
            return ColumnwisePrepared(
                operator, lambda rhs: columns_of(equations, operator.T @ rhs), damped, self
            )

        return ColumnwisePrepared(operator, block, damped, self)
