"""An audit and a path, by the same count."""

from dataclasses import dataclass, replace

from solset.operators import Cost
from solset.operators._cost import FACTOR_ROW, FORWARD, INPUT_ROW, ROW
from solset.planning._result import Memory, Route, refused
from solset.planning._routes import Routes
from solset.planning._rows import whole_point_rows
from solset.problem import Interpolating, Problem, Stationary, keeps_outputs
from solset.problem._stationary import smaller_side

NEWTON_PRODUCTS = 10  # of the Hessian in a Newton step along a path: what CG takes for one digit
CORRECTIONS = 2  # of a step along kept outputs
# The slopes of the loss at every point take a forward pass and a reading of the targets. With a checkpoint,
# the identity of the audit reads the data once more.
SLOPES = Cost(2.0, FORWARD)


@dataclass(frozen=True)
class OtherRoutes:
    """Beside the graphical derivative of the points ``K``: their audit, and a path on which they move.

    Attributes:
        problem: The trained point.
        routes: Routes to the graphical derivative, whose operators are asked here too.
        taken: Route that ``"auto"`` takes.
    """

    problem: Problem
    routes: Routes
    taken: Route

    def all(self) -> tuple[Route, ...]:
        """Joint and isolated audit, and the path."""
        return self.joint_audit(), self.isolated_audit(), self.path()

    @property
    def _share(self) -> float:
        return len(self.routes.moved) / self.problem.point_count

    def joint_audit(self) -> Route:
        """All constraints hold: one Gram matrix, then ``c`` backward passes for each point."""
        known, n = self.problem.point, self.problem.point_count
        short = "" if known.gram_fits else "the Gram matrix of all rows does not fit the memory budget"
        route = Route(
            name="audit, joint",
            optimality="interpolating",
            solver="Dual",
            obstacle=Interpolating().refusal(known) or short,
            smallest_budget=known.gram_bytes,
            is_default=known.gram_fits and not Interpolating().refusal(known),
            rows=known.rows,
        )
        try:
            plan = known.gram_solver().plan(self.routes.jacobian)
        except ValueError:
            return refused(route, known.memory_budget)
        square = plan.gram_memory
        return replace(
            route,
            place=plan.place,
            disk=plan.disk,
            memory=Memory(plan.memory - square, 2 * square, vectors=4 * 8 * known.weights),
            prepare=whole_point_rows(plan, known.outputs, n) + SLOPES + Cost(1.0, FORWARD),  # and curvature
            direction=self._share * Cost(2.0, 2 * FORWARD + known.outputs * INPUT_ROW),
        )

    def isolated_audit(self) -> Route:
        """Every point by its own rows: no Gram matrix."""
        known = self.problem.point
        return Route(
            name="audit, isolated",
            optimality="interpolating",
            solver="none",
            obstacle=Interpolating().refusal(known),
            is_default=not known.gram_fits and not Interpolating().refusal(known),
            rows=len(self.routes.moved) * known.outputs,
            memory=Memory(vectors=4 * 8 * known.weights),
            prepare=SLOPES,
            direction=self._share * Cost(2.0, FORWARD + ROW * known.outputs),
            note="a batch of points takes up to a quarter of the memory budget",
        )

    def path(self) -> Route:
        """Large perturbations along the map that ``"auto"`` takes."""
        known, taken = self.problem.point, self.taken
        if keeps_outputs(taken.optimality):
            return self._kept_outputs()
        n, hessian = self.problem.point_count, self.routes.hessian.cost
        products = NEWTON_PRODUCTS * hessian.each + hessian.once
        return Route(
            name="path along an isolated solution",
            optimality="stationary",
            solver="CG",
            obstacle="" if known.risk.weight_decay > 0 else "no weight decay: no isolated solution",
            memory=replace(
                taken.memory, rows=8 * smaller_side(known) * known.weights, gram=24 * smaller_side(known) ** 2
            ),
            prepare=2 * Cost(1.0, FORWARD) + known.rows / n * Cost(1.0, FACTOR_ROW),
            direction=self.routes.data(Stationary()).each + products,
            step=Cost(1.0, 1.0) + products,
            note="a step is Newton's, of which a station takes a few; the preconditioner may use fewer rows",
        )

    def _kept_outputs(self) -> Route:
        """A factorisation and a few corrections for each station."""
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
