"""The costs of each route to a graphical derivative, counted before anything runs."""

from collections.abc import Sequence
from dataclasses import replace

from solset import comm
from solset.changes import Move
from solset.operators import InformativeRows
from solset.planning._others import OtherRoutes
from solset.planning._result import KeptGraphs, Plan, Route
from solset.planning._routes import Routes
from solset.problem import MAPS, Interpolating, Problem, Stationary
from solset.problem._informative import InformativeSelection
from solset.risk import Indices
from solset.solvers import Dual, Solver

SHOWN = {"FirstToConverge": "preconditioned CG"}


def plan(problem: Problem, *, points: Indices | None = None, rows: InformativeRows | None = None) -> Plan:
    """The passes over the data, bytes and expected gradients of each route to the graphical derivative.

    Nothing is solved. The same code chooses the route here and in :meth:`Problem.graphical_derivative`; only
    one thing is not known before: whether the rows of ``J`` prove independent. Gradients are counted roughly
    (1 is a forward and a backward pass over all points). Rows, places and bytes come from the plans of the
    solvers. Passes tell how often the points will be read.

    Args:
        problem: Problem whose graphical derivative is planned.
        points: Indices ``K`` of the points that would move; all by default.
        rows: As for :meth:`Problem.graphical_derivative`.

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
    asked = Routes(point, chosen, _selection(problem, chosen, rows))
    refusal = Interpolating(rows).doubt(point, Move(chosen))
    routes = _marked(
        asked.all(), _defaults(problem, chosen, rows), (Stationary if refusal else Interpolating).name
    )
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
        reason=_reason(taken, refusal),
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


def _defaults(problem: Problem, chosen: Sequence[int], rows: InformativeRows | None) -> dict[str, str]:
    """The name of the route that each map takes by default."""
    point, asked = problem.point, Interpolating(rows)
    names = {}
    for name, each in MAPS.items():
        solver = _name(each.default_solver(point))
        rows_by = "on all rows by " if each.keeps_outputs else "by "
        names[name] = f"{name} {rows_by}{SHOWN.get(solver, solver)}"
    if not asked.refusal(point):
        try:
            use = asked.in_use(point, Move(chosen))
        except ValueError:  # no plan fits: the caller asked for these rows, and is refused
            use = "chosen"
        if use != "all":
            rows_by = {"chosen": "informative rows by Dual", "weighted": "all rows by LSMR"}[use]
            names[asked.name] = f"{asked.name} on {rows_by}"
    return names


def _name(solver: Solver) -> str:
    return "Dual" if isinstance(solver, Dual) else type(solver).__name__  # with a folder or without


def _marked(routes: Sequence[Route], defaults: dict[str, str], automatic: str) -> tuple[Route, ...]:
    """The routes, each marked as a default, as automatic, or as neither."""
    marked = []
    for route in routes:
        is_default = defaults[route.optimality] == route.name
        is_automatic = is_default and route.optimality == automatic
        marked.append(replace(route, is_default=is_default, is_automatic=is_automatic))
    return tuple(marked)


def _reason(taken: Route, refusal: str) -> str:
    """The reason that the derivative will state, or the condition that it still has to verify."""
    if refusal:
        return f"stationary because {refusal}"
    return f"{taken.name} if the {taken.rows} rows of J prove independent, else stationary"
