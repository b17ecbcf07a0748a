"""Training stability: how far the estimated solution set is from the trained weights (Algorithm 1)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from solset.changes import Change, Move
from solset.checks import checked, within
from solset.errors import Status, bad_value
from solset.operators import InformativeRows
from solset.problem import Optimality, Order, Problem
from solset.results import WeightsResult, computed
from solset.solvers import Solution, Solver


@dataclass(frozen=True, eq=False, repr=False)
class Stability(WeightsResult):
    """The distance from ``w̄`` to the estimated solution set, and what the number rests on.

    Attributes:
        distance: Distance ``d(w̄, w̄ + DS(x̄|w̄)(Δx))``, the norm of the minimum-norm element, in weight units.
            It is exact for the linear system solved, and a lower bound on a selection of rows. For an empty
            set it is the distance to the least-squares element.
        sampled_distance: Smallest distance over the samples, as the paper reports it; never below
            ``distance`` up to the solver's tolerance; ``None`` without samples.
        perturbation: Length ``‖Δx‖`` of the change, in input units for a move, else
            in those of its coordinates.
        ratio: Quotient ``distance / perturbation``, in weight units per unit of the change; 0 if
            nothing moved.
        solution: Minimum-norm element of the estimate, as weights.
        samples: Sampled elements of the estimate, as weights.
        optimality: Name of the optimality map that was used.
        is_empty: Whether the linear system has no solution at tolerance 1e-6, or the solver's own if larger.
        unit: Name of the unit in which the length of the change is measured.
    """

    distance: float
    sampled_distance: float | None
    perturbation: float
    ratio: float
    solution: Solution
    samples: tuple[Solution, ...]
    optimality: str
    is_empty: bool
    unit: str = "input unit"

    @property
    def headline(self) -> str:
        """The distance, its ratio to the perturbation, and how the solve ended."""
        empty = ", empty set" if self.is_empty else ""
        return f"distance {self.distance:.4g}, {self.ratio:.3g} per {self.unit}, {self.status}{empty}"

    def _named_weights(self) -> tuple[Tensor, Mapping[str, torch.Size] | None]:
        return self.solution._named_weights()

    @computed
    def status(self) -> Status:
        """How the solve for the minimum-norm element ended."""
        return self.solution.status

    @computed
    def message(self) -> str:
        """What speaks against the minimum-norm element."""
        return self.solution.message


@checked
def training_stability(
    problem: Problem,
    change: Change,
    *,
    samples: int = 0,
    radius: float | None = None,
    generator: torch.Generator | None = None,
    optimality: Optimality = "auto",
    solver: Solver | None = None,
    rows: InformativeRows | None = None,
    order: Order | None = None,
) -> Stability:
    """The distance from the trained weights to the estimated new solution set (Algorithm 1).

    ``d(w̄, w̄ + DS(x̄|w̄)(Δx)) = min {‖v‖ : A v + C Δx = 0}``. Departs from the paper: the distance is computed
    exactly, as the norm of the minimum-norm element, besides the minimum over samples that the paper takes.

    Args:
        problem: Trained point whose set is estimated.
        change: Change of the training data, such as :class:`solset.Move`.
        samples: Number of elements to sample as well; none by default.
        radius: Radius of the ball around ``w̄`` that samples are projected from, in weight units; by default
            the distance itself, or 1 if the distance is 0.
        generator: Source of randomness, which samples need.
        optimality: As for :meth:`Problem.derivative`.
        solver: As for :meth:`Problem.derivative`.
        rows: As for :meth:`Problem.derivative`.
        order: Kind of estimate, as for :meth:`Problem.estimate`.

    Raises:
        ValueError: If samples are asked for without a generator, or fewer than none.

    Cost: that of :meth:`Problem.estimate` with its minimum-norm element, and a projection for each sample.

    Example:
        >>> from torch import nn
        >>> from solset import Move
        >>> model = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.constant_(model.weight, 2.0)
        >>> problem = Problem(model, nn.MSELoss(), torch.tensor([[1.0]]), torch.tensor([[2.0]]))
        >>> round(training_stability(problem, Move(None, torch.tensor([[0.1]]))).distance, 6)
        0.2
    """
    within("samples", samples, 0, cure="Use 0 for none.")
    if samples and generator is None:
        expected, cure = (
            "a torch.Generator when samples are asked for",
            "Pass torch.Generator().manual_seed(0).",
        )
        raise bad_value("generator", expected=expected, got=None, cure=cure)
    direction = change.direction(problem.risk())
    options = {"optimality": optimality, "solver": solver, "rows": rows}
    answers = problem.estimate(change, **options, order=order)
    smallest = answers.min_norm()
    distance = float(torch.linalg.vector_norm(smallest.change))
    drawn: tuple[Solution, ...] = ()
    if generator is not None and samples:
        reach = (distance or 1.0) if radius is None else radius
        drawn = answers.sample(samples, radius=reach, generator=generator)
    moved = float(torch.linalg.vector_norm(direction))
    return Stability(
        distance=distance,
        sampled_distance=min((float(torch.linalg.vector_norm(s.change)) for s in drawn), default=None),
        perturbation=moved,
        ratio=distance / moved if moved > 0 else 0.0,
        solution=smallest,
        samples=drawn,
        unit="input unit" if isinstance(change, Move) else "unit of the change",
        optimality=problem.derivative(change, **options).optimality,
        is_empty=answers.is_empty(),
    )
