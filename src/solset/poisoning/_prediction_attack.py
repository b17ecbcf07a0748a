"""A prediction under attack: the gap to a rival output, before and after the data moves."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from solset.errors import Status
from solset.goals import Goal, held_out
from solset.poisoning._adjoint import AdjointGradient
from solset.poisoning._budget import Budget
from solset.poisoning._followers import outcome
from solset.poisoning._poisoning import Design
from solset.problem import Problem
from solset.retraining import Method
from solset.risk import EmpiricalRisk, digest


@dataclass(frozen=True, eq=False, repr=False)
class PredictionGap(Goal):
    """The gap ``f_label - f_rival`` between two outputs of a test input, which is to be lowered."""

    inputs: Tensor  # Test input, ``(1, *input)``
    label: int  # Index of the output that is largest now
    rival: int  # Index of the output that is to overtake it
    is_raised = False

    def describe(self) -> str:
        """The two outputs, in the network's output units."""
        return f"output {self.label} above output {self.rival}"

    def quantity(self, risk: EmpiricalRisk, weights: Tensor) -> Tensor:
        """``f_label - f_rival``."""
        outputs = outputs_at(risk, weights, self.inputs)
        return outputs[self.label] - outputs[self.rival]

    def check(self, risk: EmpiricalRisk) -> None:
        """Refuses inputs that do not fit the problem."""
        if risk.points.tree is None:  # else they are rows, which prediction_margin made
            held_out(risk, self.inputs)

    def identity(self) -> dict[str, Any]:
        """The digest of the input, and the two outputs."""
        return {
            "kind": "PredictionGap",
            "inputs": digest([self.inputs]),
            "label": self.label,
            "rival": self.rival,
        }


@dataclass(frozen=True)
class Trial:
    """One radius tried by really solving on the moved data."""

    radius: float  # Radius of the budget
    gap: float  # Old label's output minus the largest other output on the moved data; negative if it flipped
    linear_gap: float  # Gap to the rival that the linear model at the trained point predicts
    # Outcome of the solve on the moved data; ``inconsistent`` if a method that looks for a solution ended off
    # the set, even if it reported another status
    status: Status

    @property
    def is_solved(self) -> bool:
        """Whether the gap is that of a solution, or of a training that ended at finite outputs."""
        return self.status in {Status.CONVERGED, Status.MAX_STEPS}

    @property
    def is_flipped(self) -> bool:
        """Whether the prediction changed; a trial that was not solved never counts as flipped."""
        return self.is_solved and self.gap < 0


@dataclass(frozen=True)
class Attack:
    """The perturbation that is tried at a radius: the linear model's maximiser, or one that is designed."""

    # Search for perturbations that lower the gap to the rival; without an ascent the maximiser of the linear
    # model takes its place
    design: Design
    goal: PredictionGap  # Gap to the rival
    budget: Budget  # Norm, points and valid features
    adjoint: AdjointGradient  # Adjoint gradient of the gap at the trained point
    clean_gap: float  # Gap to the rival after solving on the clean data
    method: Method  # Method that solves on the moved data

    def at(self, radius: float) -> tuple[Trial, Tensor]:
        """The trial at a radius, and its perturbation."""
        problem, goal, budget = self.design.problem, self.goal, replace(self.budget, radius=radius)
        if self.design.ascent is None:
            dx = budget.at(problem).farthest(-self.adjoint.gradient)
        else:
            dx = self.design.run(budget).dx
        outputs, status = resolved(problem, self.method, self.adjoint.points, dx, goal.inputs)
        predicted = self.clean_gap + float((self.adjoint.gradient * dx).sum())
        return Trial(radius, float(gaps_of(outputs, goal.label).min()), predicted, status), dx


def resolved(
    problem: Problem, method: Method, points: Sequence[int], dx: Tensor, inputs: Tensor
) -> tuple[Tensor, Status]:
    """The outputs for one input after solving on the moved data, ``(c,)``, and the outcome of the solve."""
    risk = problem.risk()
    solved = method.run(risk.move(points, dx), risk.outputs)
    with torch.no_grad():
        outputs = outputs_at(risk, solved.weights, inputs)
    if not bool(torch.isfinite(outputs).all()):
        return outputs, Status.NONFINITE
    return outputs, outcome(solved)


def gaps_of(outputs: Tensor, label: int) -> Tensor:
    """The output with index ``label`` minus each other output, in order, ``(c - 1,)``."""
    return outputs[label] - torch.cat([outputs[:label], outputs[label + 1 :]])


def outputs_at(risk: EmpiricalRisk, weights: Tensor, inputs: Tensor) -> Tensor:
    """The network's flattened outputs for one input at given weights, ``(c,)``."""
    return risk.forward(risk.layout.split(weights), inputs).reshape(-1)
