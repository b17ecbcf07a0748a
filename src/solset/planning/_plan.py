"""The costs of each route to a graphical derivative, counted before anything runs."""

from collections.abc import Sequence

from solset import comm
from solset.changes import Move
from solset.operators import InformativeRows
from solset.planning._others import OtherRoutes
from solset.planning._result import KeptGraphs, Plan, Route
from solset.planning._routes import Routes, RowsInUse
from solset.problem import Interpolating, Problem, map_unless_fitted
from solset.problem._informative import InformativeSelection
from solset.risk import Indices


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
        reason=_reason(taken, other.name, f"{refusal}{why}" if refusal else ""),
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
