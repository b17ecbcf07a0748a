"""The sensitivities of single points where the loss is not fitted: ``‖H⁺B_k‖``."""

from dataclasses import dataclass

import torch
from torch import Tensor

from solset.derivatives import Linearisation
from solset.errors import Status
from solset.modulus._blocks import Sensitivity
from solset.operators import Mixed
from solset.risk import EmpiricalRisk


@dataclass(frozen=True)
class Answered:
    """One point where a Hessian answers.

    Attributes:
        sensitivity: A batch of one; the modulus is infinite where the system has no solution, not a number
            where the solver did not reach it.
        change: Of the weights, at the worst direction, ``(p,)``.
        is_solved: Whether the solve converged.
    """

    sensitivity: Sensitivity
    change: Tensor
    is_solved: bool


def stationary_sensitivity(risk: EmpiricalRisk, line: Linearisation, point: int) -> Answered:
    """The sensitivity of one point.

    Args:
        risk: At the trained point.
        line: Whose constraint is solved.
        point: ``k``.

    Cost: ``d`` (or ``p``, if fewer) second-order sweeps over the point and as many solves; ``p·d`` numbers.
    """
    data = Mixed(risk, [point], memory_budget=0).to_dense()
    solution = line.system.solve(data)
    answers = -solution.value.to(torch.float64)
    values, vectors = torch.linalg.eigh(answers.T @ answers)
    modulus, direction = values[-1:].clamp_min(0).sqrt(), vectors[:, -1]
    if solution.status is not Status.CONVERGED:
        is_empty = solution.status is Status.INCONSISTENT
        modulus = torch.full_like(modulus, float("inf") if is_empty else float("nan"))
    maps = answers.norm(dim=0, keepdim=True)
    found = Sensitivity(modulus, direction.unsqueeze(0), maps)
    return Answered(found, answers @ direction, solution.status is Status.CONVERGED)
