"""The paper's toy example (section 5.1): every number, from the library's own calls."""

from dataclasses import dataclass

import torch
from torch import Tensor

from solset._stability import training_stability
from solset.changes import Move
from solset.modulus import lipschitz_modulus
from solset.problem import Problem
from solset.reports import Settings, option, seed_option
from solset.zoo import HalfSquaredError, ProductModel

MOVED_PRODUCT = 2.5  # the moved points (0.8, 2), (1.6, 4) are fitted by w₁w₂ = 2.5


@dataclass(frozen=True)
class ToySettings(Settings):
    """Settings of ``solset toy``; each field says what it is in its help text."""

    seed: int = seed_option("the samples")
    samples: int = option(5, help="Number of elements drawn from the estimated set, five in the paper.")
    radius: float = option(0.5, help="Radius of the ball around the trained weights that samples start from.")


@dataclass(frozen=True)
class ToyResult:
    """Every number of the toy example."""

    perturbation: float  # Norm of the perturbation ``‖Δx‖``
    risk_clean: float  # Risk at the trained weights ``w̄`` on the data
    risk_moved: float  # Risk at the trained weights on the moved data
    modulus: float  # Lipschitz modulus of the solution map, ``‖H⁺B‖₂`` at constant rank
    radius: float  # Modulus times the norm of the perturbation
    change: Tensor  # Change of the weights of minimum norm, ``Δw``, ``(2,)``
    distance: float  # Norm of the change of the weights, ``‖Δw‖``
    risk_estimated: float  # Risk at ``w̄ + Δw`` on the moved data
    true_distance: float  # Distance from the trained weights to the moved solution set
    samples: Tensor  # Sampled elements of the estimated set, ``(k, 2)``
    sample_risks: list[float]  # Risks of the sampled elements on the moved data
    sampled_distance: float  # Smallest distance over the samples, the figure that the paper prints
    set_residual: float  # Largest relative violation of the set equation over the samples
    dimension: int  # Dimension of the estimated set
    optimality: str  # Name of the map that ``"auto"`` took
    reason: str  # Sentence that says why this map was taken


def toy_problem() -> tuple[Problem, Tensor]:
    """The trained point of the toy example and its perturbation ``0.2·(-1, -2)``."""
    inputs = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    targets = torch.tensor([[2.0], [4.0]], dtype=torch.float64)
    problem = Problem(ProductModel((1.0, 2.0)).eval(), HalfSquaredError(), inputs, targets)
    return problem, 0.2 * torch.tensor([[-1.0], [-2.0]], dtype=torch.float64)


def run_toy(settings: ToySettings) -> ToyResult:
    """Computes the toy example."""
    problem, dx = toy_problem()
    generator = torch.Generator().manual_seed(settings.seed)
    stability = training_stability(
        problem, Move(None, dx), samples=settings.samples, radius=settings.radius, generator=generator
    )
    derivative = problem.derivative()
    moved = problem.risk().move([0, 1], dx)
    samples = torch.stack([sample.value for sample in stability.samples])
    change = stability.solution.value - problem.weights()
    modulus = lipschitz_modulus(problem, optimality="stationary").value
    return ToyResult(
        perturbation=stability.perturbation,
        risk_clean=problem.risk().value(),
        risk_moved=moved.value(),
        modulus=modulus,
        radius=modulus * stability.perturbation,
        change=change,
        distance=stability.distance,
        risk_estimated=moved.at(stability.solution.value).value(),
        true_distance=distance_to_hyperbola(problem.weights(), MOVED_PRODUCT),
        samples=samples,
        sample_risks=[moved.at(sample).value() for sample in samples],
        sampled_distance=stability.sampled_distance or 0.0,
        set_residual=max(sample.residual for sample in stability.samples),
        dimension=derivative(dx).dimension,
        optimality=derivative.optimality,
        reason=derivative.reason,
    )


def distance_to_hyperbola(point: Tensor, product: float) -> float:
    """The distance from a point with positive entries to the branch ``w₁w₂ = product``, ``w > 0``.

    Newton's method on the Lagrange conditions ``w₁ - p₁ + μ w₂ = 0``, ``w₂ - p₂ + μ w₁ = 0``,
    ``w₁w₂ = product``, from the point scaled onto the branch.
    """
    start = point * (product / float(point[0] * point[1])) ** 0.5
    unknown = torch.cat([start, torch.zeros(1, dtype=point.dtype)])

    def conditions(u: Tensor) -> Tensor:
        return torch.stack(
            [u[0] - point[0] + u[2] * u[1], u[1] - point[1] + u[2] * u[0], u[0] * u[1] - product]
        )

    for _ in range(50):
        value = conditions(unknown)
        slope = torch.autograd.functional.jacobian(conditions, unknown)
        unknown = unknown - torch.linalg.solve(slope, value)  # type: ignore[arg-type]
    return float(torch.linalg.vector_norm(unknown[:2] - point))
