"""The answer of a plan: routes with what each would need."""

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from solset.operators import Cost
from solset.problem import Stationary, keeps_outputs
from solset.solvers import size_text

Place = Literal["memory", "disk", "recomputed"]


@dataclass(frozen=True)
class Memory:
    """Bytes at the peak, in each process, beside the model and the data.

    Attributes:
        rows: Rows of ``J`` that are at hand, or a matrix written out.
        gram: Gram matrix, or a matrix's factors, with the decomposition.
        graphs: Autograd graphs: of all batches where they are kept, else of one.
        vectors: As long as the weights or as all rows.
    """

    rows: int = 0
    gram: int = 0
    graphs: int = 0
    vectors: int = 0

    @property
    def total(self) -> int:
        """All together."""
        return self.rows + self.gram + self.graphs + self.vectors


@dataclass(frozen=True)
class Route:
    """One way to an answer, and what it would need.

    Attributes:
        name: What is done, by what.
        optimality: The map.
        solver: Its class, or classes in the order in which they are tried.
        obstacle: Why it does not apply; empty where it does.
        smallest_budget: The ``memory_budget`` from which it works; 0 where any does.
        is_default: Whether its map takes it unasked.
        is_automatic: Whether ``"auto"`` takes it, if what is to be verified holds.
        rows: Of ``J``, in use; ``None`` for a map that has none.
        place: Where they are.
        memory: At the peak.
        disk: Bytes on the disk.
        prepare: What is done once, whatever the direction.
        direction: What each direction takes; of an iterative solver, without its steps.
        step: Of an iterative solver; ``None`` for a direct one.
        most_steps: Its limit.
        note: What the numbers leave out.
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
    most_steps: int = 0
    note: str = ""

    @property
    def applies(self) -> bool:
        """Whether there is no obstacle."""
        return not self.obstacle

    @property
    def first(self) -> Cost:
        """To the first answer; of an iterative solver, without its steps."""
        return self.prepare + self.direction

    @property
    def limit(self) -> Cost:
        """To the first answer, if an iterative solver goes to its limit."""
        return self.first if self.step is None else self.first + self.most_steps * self.step


def too_small(memory_budget: int, need: int) -> str:
    """The obstacle of a budget.

    Args:
        memory_budget: What there is.
        need: What works.
    """
    return f"memory_budget of {size_text(memory_budget)} is too small: {need} bytes work"


def refused(route: Route, memory_budget: int) -> Route:
    """The route, with that obstacle unless there is another.

    Args:
        route: Names the smallest budget.
        memory_budget: What there is.
    """
    return replace(route, obstacle=route.obstacle or too_small(memory_budget, route.smallest_budget))


@dataclass(frozen=True)
class Kept:
    """Whether the graphs of an operator are kept between its products.

    Attributes:
        operator: Which.
        batch_bytes: Measured on the first batch.
        all_bytes: Of all batches of a process, by that measure.
        are_kept: Whether those fit the memory budget.
    """

    operator: str
    batch_bytes: int
    all_bytes: int
    are_kept: bool


@dataclass(frozen=True)
class Plan:
    """What each route to a graphical derivative would need, for a choice of moved points.

    Attributes:
        points: ``n``.
        moved: ``|K|``.
        outputs: ``c``.
        weights: ``p``.
        fit: Mean norm of the loss gradient in the outputs.
        batch_size: Points per sweep.
        memory_budget: Bytes that graphs, and again rows and Gram matrix, may take.
        processes: Among which passes and gradients are shared; memory is that of each.
        reason: What ``"auto"`` takes, and why.
        routes: Every one, whether it applies or not.
        kept: Whether graphs are, by operator.
        others: Audit and path, by the same count.
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
    kept: tuple[Kept, ...]
    others: tuple[Route, ...]

    @property
    def automatic(self) -> Route:
        """What ``"auto"`` takes, if what is to be verified holds."""
        return next(route for route in self.routes if route.is_automatic)

    @property
    def otherwise(self) -> Route | None:
        """What ``"auto"`` takes if the rows of ``J`` prove dependent; ``None`` where nothing is open."""
        return self.default(Stationary.name) if keeps_outputs(self.automatic.optimality) else None

    def default(self, optimality: str) -> Route:
        """What a map takes unasked.

        Args:
            optimality: ``"interpolating"``, ``"gauss_newton"`` or ``"stationary"``.
        """
        return next(route for route in self.routes if route.is_default and route.optimality == optimality)

    def as_dict(self) -> dict[str, Any]:
        """Everything in the types of JSON, with the sums that are properties here."""
        found = asdict(self)
        for name in ("routes", "others"):
            for plain, route in zip(found[name], getattr(self, name), strict=True):
                plain["memory"]["total"] = route.memory.total
                plain |= {"first": asdict(route.first), "limit": asdict(route.limit)}
            found[name] = list(found[name])
        found["kept"] = list(found["kept"])
        return found
