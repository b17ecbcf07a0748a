"""What each route to a graphical derivative will need, said before anything runs."""

from collections.abc import Sequence
from dataclasses import replace

from solset import comm
from solset.changes import Move
from solset.operators import InformativeRows
from solset.planning._others import OtherRoutes
from solset.planning._result import Kept, Plan, Route
from solset.planning._routes import Routes
from solset.problem import MAPS, Interpolating, Problem, Stationary
from solset.problem._informative import InformativeSelection
from solset.risk import Indices
from solset.solvers import Dual, Solver

SHOWN = {"FirstToConverge": "preconditioned CG"}


def plan(problem: Problem, *, points: Indices | None = None, rows: InformativeRows | None = None) -> Plan:
    """What each route to the graphical derivative needs: passes over the data, bytes, expected gradients.

    Nothing is solved. Which route is taken is decided by the code that :meth:`Problem.graphical_derivative`
    decides by; the one thing it cannot foresee is whether the rows of ``J`` prove independent. Gradients are
    by count (1 is a forward and a backward pass over all points) and rough; rows, places and bytes are those
    of the solvers' own plans, and passes are how often points will be read.

    Args:
        problem: The trained point.
        points: ``K``, the points that would move; all by default.
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
        >>> found = plan(Problem(model, nn.MSELoss(), x, model(x).detach()))
        >>> found.automatic.name, found.automatic.rows, found.automatic.place
        ('interpolating on all rows by Dual', 1, 'memory')
        >>> found.automatic.memory.gram  # the matrix, its eigenvectors and room to find them: 3 · 8 m²
        24

    Notes:
        Iterative solvers take as many steps as the conditioning asks for, which nobody knows before; their
        cost is stated for one step and for their limit. Where memory runs out, batches are halved, and where
        products have to be repeated (an inconsistent system, a restart), there are more of them.
    """
    chosen = problem.check_points(points)
    known = problem.point
    asked = Routes(known, chosen, _selection(problem, chosen, rows))
    refusal = Interpolating(rows).doubt(known, Move, chosen)
    routes = _marked(
        asked.all(), _defaults(problem, chosen, rows), (Stationary if refusal else Interpolating).name
    )
    taken = next(route for route in routes if route.is_automatic)
    return Plan(
        points=problem.point_count,
        moved=len(chosen),
        outputs=known.outputs,
        weights=known.weights,
        fit=known.fit,
        batch_size=known.risk.batch_size,
        memory_budget=known.memory_budget,
        processes=comm.size(),
        reason=_reason(taken, refusal),
        routes=routes,
        kept=_kept(asked),
        others=OtherRoutes(problem, asked, taken).all(),
    )


def _kept(routes: Routes) -> tuple[Kept, ...]:
    """Whether graphs are kept between products, of the two operators of all points."""
    pairs = (("Jacobian", routes.jacobian.graphs), ("Hessian", routes.hessian.graphs))
    return tuple(Kept(name, each.batch_bytes, each.all_bytes, each.are_kept) for name, each in pairs)


def _selection(
    problem: Problem, chosen: Sequence[int], rows: InformativeRows | None
) -> InformativeSelection | None:
    """The rows that carry the constraint, as a call would choose them, where they can be chosen."""
    known, asked = problem.point, Interpolating(rows)
    if asked.refusal(known) or not known.curvature_fits:
        return None
    if not asked.chooses_rows(known):
        asked = Interpolating(InformativeRows())
    return asked.selection(known, Move, chosen)


def _defaults(problem: Problem, chosen: Sequence[int], rows: InformativeRows | None) -> dict[str, str]:
    """The name of the route that each map takes unasked."""
    point, asked = problem.point, Interpolating(rows)
    names = {}
    for name, each in MAPS.items():
        solver = _name(each.default_solver(point))
        rows_by = "on all rows by " if each.keeps_outputs else "by "
        names[name] = f"{name} {rows_by}{SHOWN.get(solver, solver)}"
    if not asked.refusal(point):
        try:
            use = asked.in_use(point, Move, chosen)
        except ValueError:  # no plan fits: these rows are asked for, and refused
            use = "chosen"
        if use != "all":
            rows_by = {"chosen": "informative rows by Dual", "weighted": "all rows by LSMR"}[use]
            names[asked.name] = f"{asked.name} on {rows_by}"
    return names


def _name(solver: Solver) -> str:
    return "Dual" if isinstance(solver, Dual) else type(solver).__name__  # with a folder or without


def _marked(routes: Sequence[Route], defaults: dict[str, str], automatic: str) -> tuple[Route, ...]:
    """The routes, told which are taken unasked."""
    found = []
    for route in routes:
        is_default = defaults[route.optimality] == route.name
        is_automatic = is_default and route.optimality == automatic
        found.append(replace(route, is_default=is_default, is_automatic=is_automatic))
    return tuple(found)


def _reason(taken: Route, refusal: str) -> str:
    """As the derivative itself will say, or what it will still have to verify."""
    if refusal:
        return f"stationary because {refusal}"
    return f"{taken.name} if the {taken.rows} rows of J prove independent, else stationary"
