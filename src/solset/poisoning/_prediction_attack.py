"""A prediction under attack: the gap to a rival output, and what re-solving makes of one budget."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypedDict

import torch
from torch import Tensor

from solset.errors import Status
from solset.goals import Goal, check_inputs
from solset.poisoning._adjoint import AdjointGradient
from solset.poisoning._ascent import Ascent
from solset.poisoning._budget import Budget
from solset.poisoning._poisoning import design_poisoning
from solset.problem import Optimality, Problem
from solset.retraining import LevenbergMarquardt, Method, Newton, Retrained
from solset.risk import EmpiricalRisk, digest
from solset.solvers import Solver
from solset.solvers.filters import Filter


class DesignOptions(TypedDict):
    """Options that a designed perturbation shares with the linear model."""

    element: Filter | None
    optimality: Optimality
    solver: Solver | None


@dataclass(frozen=True, eq=False)
class PredictionGap(Goal):
    """How far one output of a test input is above another: lowers ``f_label - f_rival``.

    Attributes:
        inputs: The test input, ``(1, *input)``.
        label: Index of the output that is largest now.
        rival: Index of the one that is to overtake it.
    """

    inputs: Tensor
    label: int
    rival: int

    def describe(self) -> str:
        """The two outputs, in the network's output units."""
        return f"output {self.label} above output {self.rival}"

    @property
    def sign(self) -> float:
        """-1: the gap is lowered."""
        return -1.0

    def quantity(self, problem: Problem, weights: Tensor) -> Tensor:
        """``f_label - f_rival``."""
        outputs = outputs_at(problem, weights, self.inputs)
        return outputs[self.label] - outputs[self.rival]

    def check(self, problem: Problem) -> None:
        """Refuses inputs that do not fit."""
        check_inputs(problem, self.inputs)

    def identity(self) -> dict[str, Any]:
        """The input's digest, and the outputs."""
        return {
            "kind": "PredictionGap",
            "inputs": digest([self.inputs]),
            "label": self.label,
            "rival": self.rival,
        }


@dataclass(frozen=True)
class Trial:
    """One budget tried by real re-solving.

    Attributes:
        radius: Of the budget.
        gap: The old label's output minus the largest other one, after re-solving; negative once flipped.
        linear_gap: The gap to the rival that the linear model promised, one solve at the trained point.
        status: How re-solving ended; ``inconsistent`` where a method that looks for a solution ended off the
            set, whatever it says of itself.
    """

    radius: float
    gap: float
    linear_gap: float
    status: Status

    @property
    def is_solved(self) -> bool:
        """Whether the gap is that of a solution, or of a training that ended at finite outputs."""
        return self.status in {Status.CONVERGED, Status.MAX_STEPS}

    @property
    def is_flipped(self) -> bool:
        """Whether the prediction changed; what was not solved never counts as that."""
        return self.is_solved and self.gap < 0


@dataclass(frozen=True)
class Attack:
    """What is tried at every radius: the linear model's maximiser, or a perturbation designed anew.

    Attributes:
        problem: The trained point.
        goal: The gap to the rival.
        budget: Its norm, points and valid features.
        adjoint: Of the gap, at the trained point.
        clean_gap: Of the rival, after re-solving on the data as they are.
        method: How to re-solve.
        ascent: How to design anew; ``None`` takes the maximiser.
        options: Of :func:`design_poisoning` besides.
    """

    problem: Problem
    goal: PredictionGap
    budget: Budget
    adjoint: AdjointGradient
    clean_gap: float
    method: Method
    ascent: Ascent | None
    options: "DesignOptions"

    def at(self, radius: float) -> tuple[Trial, Tensor]:
        """Perturbs within a radius and re-solves.

        Args:
            radius: Of the budget.
        """
        problem, goal = self.problem, self.goal
        budget = replace(self.budget, radius=radius)
        if self.ascent is None:
            dx = budget.at(problem).farthest(-self.adjoint.gradient)
        else:
            dx = design_poisoning(problem, goal, budget, ascent=self.ascent, **self.options).dx
        outputs, status = resolved(problem, self.method, self.adjoint.points, dx, goal.inputs)
        promised = self.clean_gap + float((self.adjoint.gradient * dx).sum())
        return Trial(radius, float(gaps_of(outputs, goal.label).min()), promised, status), dx


def resolved(
    problem: Problem, method: Method, points: Sequence[int], dx: Tensor, inputs: Tensor
) -> tuple[Tensor, Status]:
    """The outputs for one input after re-solving on moved data, ``(c,)``, and whether that is a solution.

    Args:
        problem: The trained point.
        method: How to re-solve.
        points: ``K``.
        dx: ``(|K|, *input)``.
        inputs: The test input, ``(1, *input)``.
    """
    moved, target = problem.risk().move(points, dx), problem.risk().outputs()
    solved = method.run(moved, target)
    with torch.no_grad():
        outputs = outputs_at(problem, solved.weights, inputs)
    if not bool(torch.isfinite(outputs).all()):
        return outputs, Status.NONFINITE
    if solved.status is Status.MAX_STEPS and not _is_solution(method, moved, solved, target):
        return outputs, Status.INCONSISTENT
    return outputs, solved.status


def _is_solution(method: Method, moved: EmpiricalRisk, solved: Retrained, target: Tensor) -> bool:
    """Whether a method that looks for a solution, and ran out of steps, ended on the set to rounding."""
    rounding = torch.finfo(target.dtype).eps ** 0.5
    if isinstance(method, LevenbergMarquardt):
        error = float((moved.at(solved.weights).outputs() - target).abs().max())
        return error <= max(method.output_tol, rounding * float(target.abs().max()))
    if isinstance(method, Newton):
        begun = float(torch.linalg.vector_norm(moved.gradient()))
        return solved.gradient_norm <= max(method.gradient_tol, rounding * begun)
    return True  # a training that ends where its steps end


def gaps_of(outputs: Tensor, label: int) -> Tensor:
    """One output minus each other one, in their order, ``(c - 1,)``.

    Args:
        outputs: ``(c,)``.
        label: Index of the one.
    """
    return outputs[label] - torch.cat([outputs[:label], outputs[label + 1 :]])


def outputs_at(problem: Problem, weights: Tensor, inputs: Tensor) -> Tensor:
    """The network's flattened outputs for one input, ``(c,)``.

    Args:
        problem: Gives the network.
        weights: ``(p,)``.
        inputs: ``(1, *input)``.
    """
    risk = problem.risk()
    return risk.forward(risk.layout.split(weights), inputs).reshape(-1)
