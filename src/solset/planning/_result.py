"""The result of a plan: routes, with the work and the memory that each would take."""

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from solset.operators import Cost
from solset.problem import Proximal, Stationary, keeps_outputs
from solset.results import Result, TableResult, computed
from solset.solvers import size_text

Place = Literal["memory", "disk", "recomputed"]


@dataclass(frozen=True)
class Memory:
    """The bytes that a route takes at its peak in each process; model and data are not counted.

    Attributes:
        rows: Bytes of the rows of ``J`` in memory, or of a matrix that is written out.
        gram: Bytes of the Gram matrix, or of a matrix's factors, with the decomposition.
        graphs: Bytes of the autograd graphs of all batches where they are kept, else of one batch.
        vectors: Bytes of vectors that have one entry for each weight or each row.
    """

    rows: int = 0
    gram: int = 0
    graphs: int = 0
    vectors: int = 0

    @property
    def total(self) -> int:
        """The sum of the four parts, in bytes."""
        return self.rows + self.gram + self.graphs + self.vectors


@dataclass(frozen=True, repr=False)
class Route(Result):
    """One way to compute an answer, with the work and the memory that it would take.

    Attributes:
        name: Name of the route: map, rows and solver.
        optimality: Name of the optimality map; empty for none.
        solver: Name of the solver's class, or of several in the order in which they are tried.
        obstacle: Sentence that says why the route does not apply; empty where it does.
        smallest_budget: Smallest ``memory_budget`` in bytes that works; 0 where any does.
        is_default: Whether the map takes this route unless told otherwise.
        is_automatic: Whether ``"auto"`` takes this route, if what is to be verified holds.
        rows: Number of rows of ``J`` in use; ``None`` for a route without rows.
        place: Place of the rows: memory, disk, or recomputed at every use.
        memory: Bytes of memory at the peak.
        disk: Bytes on the disk, in all processes together.
        prepare: Work that is done once, for all directions.
        direction: Work for each direction; of an iterative solver, without its steps.
        step: Work of a step of an iterative solver; ``None`` for a direct one.
        max_steps: Largest number of steps; 0 for a direct solver.
        note: Sentence that says what the numbers leave out; empty where there is nothing to say.
    """

    name: str
    optimality: str
    solver: str
    obstacle: str = ""
    smallest_budget: int = 0
    is_default: bool = False
    is_automatic: bool = False
    rows: int | None = None
    place: Place | None = None
    memory: Memory = Memory()
    disk: int = 0
    prepare: Cost = Cost()
    direction: Cost = Cost()
    step: Cost | None = None
    max_steps: int = 0
    note: str = ""

    @property
    def headline(self) -> str:
        """The name of the route, and its cost to the first answer or the obstacle."""
        if self.obstacle:
            return f"{self.name}: does not apply, {self.obstacle}"
        steps = "" if self.step is None else ", and steps"
        return f"{self.name}: {self.first.gradients:.3g} gradients{steps}, {size_text(self.memory.total)}"

    @computed
    def message(self) -> str:
        """The obstacle, or else the note on what the numbers leave out."""
        return self.obstacle or self.note

    @property
    def applies(self) -> bool:
        """Whether there is no obstacle."""
        return not self.obstacle

    @property
    def first(self) -> Cost:
        """The work until the first answer; the steps of an iterative solver are not counted."""
        return self.prepare + self.direction

    @property
    def limit(self) -> Cost:
        """The work until the first answer, if an iterative solver takes all its steps."""
        return self.first if self.step is None else self.first + self.max_steps * self.step


def too_small(memory_budget: int, need: int) -> str:
    """The obstacle of a memory budget that is smaller than the one that works, both in bytes."""
    return f"memory_budget of {size_text(memory_budget)} is too small: {need} bytes work"


def refused(route: Route, memory_budget: int) -> Route:
    """The route, with the obstacle that the memory budget is too small unless it has another."""
    return replace(route, obstacle=route.obstacle or too_small(memory_budget, route.smallest_budget))


@dataclass(frozen=True)
class KeptGraphs:
    """Whether the graphs of an operator are kept between its products.

    Attributes:
        operator: Name of the operator's class.
        batch_bytes: Bytes of the graph of one batch, measured on the first.
        all_bytes: Bytes of the graphs of all batches of a process, by that measure.
        are_kept: Whether all graphs fit the memory budget.
    """

    operator: str
    batch_bytes: int
    all_bytes: int
    are_kept: bool


@dataclass(frozen=True, eq=False, repr=False)
class Plan(TableResult):
    """The work and the memory of each route to a graphical derivative, for a choice of moved points.

    Attributes:
        points: Number of training points ``n``.
        moved: Number of points that would move.
        outputs: Number of outputs ``c`` of each point.
        weights: Number of weights ``p`` that may move.
        fit: Mean norm of the loss gradient in the outputs.
        batch_size: Number of points in each batch.
        memory_budget: Bytes that graphs, and again rows and Gram matrix, may take.
        processes: Number of processes that share passes and gradients; each needs the memory stated.
        reason: Sentence that says what ``"auto"`` takes, and why.
        routes: Routes to the graphical derivative, those that do not apply included.
        graphs: Graphs of the operators of all points, and whether they are kept.
        others: Routes of an audit and of a path, with costs counted in the same way.
    """

    points: int
    moved: int
    outputs: int
    weights: int
    fit: float
    batch_size: int
    memory_budget: int
    processes: int
    reason: str
    routes: tuple[Route, ...]
    graphs: tuple[KeptGraphs, ...]
    others: tuple[Route, ...]

    @property
    def automatic(self) -> Route:
        """The route that ``"auto"`` takes, if what is to be verified holds."""
        return next(route for route in self.routes if route.is_automatic)

    @property
    def otherwise(self) -> Route | None:
        """The route that ``"auto"`` takes if rows prove dependent; ``None`` where nothing is open."""
        if not keeps_outputs(self.automatic.optimality):
            return None
        is_damped = any(route.optimality == Proximal.name for route in self.routes)  # where not stationary
        return self.default((Proximal if is_damped else Stationary).name)

    def default(self, optimality: str) -> Route:
        """The route that a map takes unless told otherwise.

        Args:
            optimality: Name of the map: ``"interpolating"``, ``"gauss_newton"`` or ``"stationary"``.
        """
        return next(route for route in self.routes if route.is_default and route.optimality == optimality)

    @property
    def headline(self) -> str:
        """The sizes and the route that ``"auto"`` takes, with its cost to the first answer."""
        taken = self.automatic
        return (
            f"{self.moved} of {self.points} points move, {self.weights} weights; auto takes {taken.name}: "
            f"{taken.first.gradients:.3g} gradients to the first answer, {size_text(taken.memory.total)}"
        )

    def rows(self) -> list[dict[str, Any]]:
        """One row for each route, with sums of memory and work beside their parts."""
        return [_row(route) for route in (*self.routes, *self.others)]

    def to_dict(self) -> dict[str, Any]:
        """Every field in the types of JSON; each route with its sums."""
        plain = super().to_dict()
        return {**plain, **{name: list(map(_row, getattr(self, name))) for name in ("routes", "others")}}


def _row(route: Route) -> dict[str, Any]:
    plain = asdict(route)
    plain["memory"]["total"] = route.memory.total
    return {**plain, "first": asdict(route.first), "limit": asdict(route.limit)}
