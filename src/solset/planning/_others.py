"""The routes of an audit and of a path, with costs counted as for a graphical derivative."""

from dataclasses import dataclass, replace

from solset.operators import Cost
from solset.operators._cost import FACTOR_ROW, FORWARD, INPUT_ROW, ROW
from solset.planning._result import Memory, Route, refused
from solset.planning._routes import KINKS, Routes
from solset.planning._rows import whole_point_rows
from solset.problem import Interpolating, Problem, Stationary, keeps_outputs
from solset.problem._stationary import smaller_side

NEWTON_PRODUCTS = 10  # products with the Hessian in one Newton step: CG takes about as many for one digit
CORRECTIONS = 2  # corrections in one step of a path that keeps the outputs
# The slope of the loss at every point takes a forward pass and one reading of the targets. With a checkpoint,
# the identity of the audit reads the data once more.
SLOPES = Cost(2.0, FORWARD)


@dataclass(frozen=True)
class OtherRoutes:
    """The routes to an audit of the points ``K``, and to a path along which they move.

    Attributes:
        problem: Problem whose routes are counted.
        routes: Routes to the graphical derivative; they hold the operators that audits and paths use too.
        taken: Route to the graphical derivative that ``"auto"`` takes.
    """

    problem: Problem
    routes: Routes
    taken: Route

    def all(self) -> tuple[Route, ...]:
        """The joint audit, the isolated audit and the path."""
        return self.joint_audit(), self.isolated_audit(), self.path()

    @property
    def _share(self) -> float:
        return len(self.routes.moved) / self.problem.point_count

    def joint_audit(self) -> Route:
        """The audit under all constraints: one Gram matrix, then ``c`` backward passes for each point."""
        point, n = self.problem.point, self.problem.point_count
        too_large = "" if point.gram_fits else "the Gram matrix of all rows does not fit the memory budget"
        route = Route(
            name="audit, joint",
            optimality="interpolating",
            solver="Dual",
            obstacle=Interpolating().refusal(point) or too_large,
            smallest_budget=point.gram_bytes,
            is_default=point.gram_fits and not Interpolating().refusal(point),
            rows=point.rows,
        )
        try:
            plan = point.gram_solver().plan(self.routes.jacobian)
        except ValueError:
            return refused(route, point.memory_budget)
        square = plan.gram_memory
        return replace(
            route,
            place=plan.place,
            disk=plan.disk,
            memory=Memory(plan.memory - square, 2 * square, vectors=4 * 8 * point.weights),
            prepare=KINKS
            + whole_point_rows(plan, point.outputs, n)
            + SLOPES
            + Cost(1.0, FORWARD),  # the last pass is for the curvature
            direction=self._share * Cost(2.0, 2 * FORWARD + point.outputs * INPUT_ROW),
        )

    def isolated_audit(self) -> Route:
        """The audit of every point under its own rows alone, which needs no Gram matrix."""
        point = self.problem.point
        return Route(
            name="audit, isolated",
            optimality="interpolating",
            solver="none",
            obstacle=Interpolating().refusal(point),
            is_default=not point.gram_fits and not Interpolating().refusal(point),
            rows=len(self.routes.moved) * point.outputs,
            memory=Memory(vectors=4 * 8 * point.weights),
            prepare=KINKS + SLOPES,
            direction=self._share * Cost(2.0, FORWARD + ROW * point.outputs),
            note="a batch of points takes up to a quarter of the memory budget",
        )

    def path(self) -> Route:
        """The path of a large perturbation, along the map that ``"auto"`` takes."""
        point, taken = self.problem.point, self.taken
        if keeps_outputs(taken.optimality):
            return self._kept_outputs()
        n, hessian = self.problem.point_count, self.routes.hessian.cost
        products = NEWTON_PRODUCTS * hessian.each + hessian.once
        return Route(
            name="path along an isolated solution",
            optimality="stationary",
            solver="CG",
            obstacle="" if point.risk.has_decay else "no weight decay: no isolated solution",
            memory=replace(
                taken.memory, rows=8 * smaller_side(point) * point.weights, gram=24 * smaller_side(point) ** 2
            ),
            prepare=2 * Cost(1.0, FORWARD) + point.rows / n * Cost(1.0, FACTOR_ROW),
            direction=self.routes.data(Stationary()).each + products,
            step=Cost(1.0, 1.0) + products,
            note="a step is one Newton step, a station takes a few; the preconditioner may use fewer rows",
        )

    def _kept_outputs(self) -> Route:
        """The path that keeps the outputs: a factorisation and a few corrections for each station."""
        taken, by_inputs = self.taken, self.routes.data(Interpolating())
        forward = Cost(1.0, FORWARD)
        return replace(
            taken,
            name="path along kept outputs",
            is_default=True,
            is_automatic=False,
            prepare=taken.prepare + 2 * forward,
            direction=by_inputs.each,
            step=taken.prepare + by_inputs.each + (1 + CORRECTIONS) * forward,
            max_steps=0,
            note=f"a step is a station with {CORRECTIONS} corrections, if the rows in use stay as many",
        )
