"""The costs of each route to a graphical derivative, an audit and a path, counted before anything runs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from solset import comm
from solset.changes import Move
from solset.checks import checked
from solset.operators import FACTOR_ROW, FORWARD, INPUT_ROW, ROW, Cost, InformativeRows
from solset.planning._result import KeptGraphs, Memory, Plan, Route, refused
from solset.planning._routes import KINKS, Routes, RowsInUse, whole_point_rows
from solset.problem import (
    InformativeSelection,
    Interpolating,
    Problem,
    Stationary,
    keeps_outputs,
    map_unless_fitted,
    smaller_side,
)
from solset.risk import Indices

NEWTON_PRODUCTS = 10  # products with the Hessian in one Newton step: CG takes about as many for one digit
CORRECTIONS = 2  # corrections in one step of a path that keeps the outputs
# The slope of the loss at every point takes a forward pass and one reading of the targets. With a checkpoint,
# the identity of the audit reads the data once more.
SLOPES = Cost(2.0, FORWARD)


@dataclass(frozen=True)
class OtherRoutes:
    """The routes to an audit of the points ``K``, and to a path along which they move."""

    problem: Problem  # Problem whose routes are counted
    # Routes to the graphical derivative; they hold the operators that audits and paths use too
    routes: Routes
    taken: Route  # Route to the graphical derivative that ``"auto"`` takes

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
        refusal = Interpolating().refusal(point)
        route = Route(
            name="audit, joint",
            optimality="interpolating",
            solver="Dual",
            obstacle=refusal or too_large,
            smallest_budget=point.gram_bytes,
            is_default=point.gram_fits and not refusal,
            rows=point.rows,
        )
        try:
            plan = point.gram_solver().plan(self.routes.jacobian)
        except ValueError:
            return refused(route, point.memory_budget)
        square, curvature = plan.gram_memory, Cost(1.0, FORWARD)
        return replace(
            route,
            place=plan.place,
            disk=plan.disk,
            memory=Memory(plan.memory - square, 2 * square, vectors=4 * 8 * point.weights),
            prepare=KINKS + whole_point_rows(plan, point.outputs, n) + SLOPES + curvature,
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
        products, side = NEWTON_PRODUCTS * hessian.each + hessian.once, smaller_side(point)
        return Route(
            name="path along an isolated solution",
            optimality="stationary",
            solver="CG",
            obstacle="" if point.risk.has_decay else "no weight decay: no isolated solution",
            memory=replace(taken.memory, rows=8 * side * point.weights, gram=24 * side**2),
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


@checked
def plan(problem: Problem, *, points: Indices | None = None, rows: InformativeRows | None = None) -> Plan:
    """The passes over the data, bytes and expected gradients of each route to the graphical derivative.

    Nothing is solved. The same code chooses the route here and in :meth:`Problem.derivative`; only
    one thing is not known before: whether the rows of ``J`` prove independent. Gradients are counted roughly
    (1 is a forward and a backward pass over all points). Rows, places and bytes come from the plans of the
    solvers. Passes tell how often the points will be read.

    Args:
        problem: Problem whose graphical derivative is planned.
        points: Indices ``K`` of the points that would move; all by default.
        rows: As for :meth:`Problem.derivative`.

    Raises:
        TypeError: If the points are not integers.
        ValueError: If they are empty, repeated or out of range.

    Cost: the graph of one batch for each of four operators; no pass over the data. On a fitted problem ``c``
    sweeps through the loss alone, whose ``2·n·c²`` numbers stay with the problem if they fit its budget.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> model = nn.Linear(2, 1, bias=False)
        >>> x = torch.tensor([[1.0, 2.0]])
        >>> costs = plan(Problem(model, nn.MSELoss(), x, model(x).detach()))
        >>> costs.automatic.name, costs.automatic.rows, costs.automatic.place
        ('interpolating on all rows by Dual', 1, 'memory')
        >>> costs.automatic.memory.gram  # the matrix, its eigenvectors and room to find them: 3 · 8 m²
        24

    Notes:
        The number of steps of an iterative solver depends on the conditioning, which is not known before;
        its cost is stated for one step and for the largest number of steps. The true cost is higher where
        memory runs out, because batches are halved, and where products are repeated (an inconsistent
        system, a restart).
    """
    chosen = problem.check_points(points)
    point = problem.point
    in_use = _rows_in_use(problem, chosen, Interpolating(rows))
    asked = Routes(point, chosen, _selection(problem, chosen, rows), in_use)
    refusal = Interpolating(rows).doubt(point, Move(chosen))
    other, why = map_unless_fitted(point)
    routes = asked.all(other if refusal else Interpolating())
    taken = next(route for route in routes if route.is_automatic)
    return Plan(
        points=problem.point_count,
        moved=len(chosen),
        outputs=point.outputs,
        weights=point.weights,
        fit=point.fit,
        batch_size=point.risk.batch_size,
        memory_budget=point.memory_budget,
        processes=comm.size(),
        reason=_reason(taken, other.name, f"{refusal}{why}{point.held()}" if refusal else ""),
        routes=routes,
        graphs=_graphs(asked),
        others=OtherRoutes(problem, asked, taken).all(),
    )


def _graphs(routes: Routes) -> tuple[KeptGraphs, ...]:
    """Whether the Jacobian and the Hessian of all points keep their graphs between products."""
    pairs = (("Jacobian", routes.jacobian.graphs), ("Hessian", routes.hessian.graphs))
    return tuple(KeptGraphs(name, each.batch_bytes, each.all_bytes, each.are_kept) for name, each in pairs)


def _selection(
    problem: Problem, chosen: Sequence[int], rows: InformativeRows | None
) -> InformativeSelection | None:
    """The rows that a call would choose; ``None`` where the map does not apply or rows cannot be chosen."""
    point, asked = problem.point, Interpolating(rows)
    if asked.refusal(point) or not point.curvature_fits:
        return None
    if not asked.chooses_rows(point):
        asked = Interpolating(InformativeRows())
    return asked.selection(point, Move(chosen))


def _rows_in_use(problem: Problem, chosen: Sequence[int], asked: Interpolating) -> RowsInUse:
    """The rows on which the interpolating map works by default."""
    if asked.refusal(problem.point):
        return "all"
    try:
        return asked.in_use(problem.point, Move(chosen))
    except ValueError:  # no plan fits: the caller asked for these rows, and is refused
        return "chosen"


def _reason(taken: Route, other: str, refusal: str) -> str:
    """The reason that the derivative will state, or the condition that it still has to verify."""
    if refusal:
        return f"{other} because {refusal}"
    return f"{taken.name} if the {taken.rows} rows of J prove independent, else {other}"
