"""The sensitivities of single points where the loss is not fitted: ``‖H⁺B_k‖``."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from solset.analysis.audit.blocks import Sensitivity
from solset.derivatives import Linearisation
from solset.operators import Mixed
from solset.risk import EmpiricalRisk


def stationary_sensitivities(
    risk: EmpiricalRisk, line: Linearisation, chosen: Sequence[int]
) -> Iterator[tuple[int, Sensitivity, Tensor]]:
    """Point after point: its index, its sensitivity, and the change of the weights at its worst direction.

    Args:
        risk: At the trained point.
        line: Whose constraint is solved.
        chosen: ``K``.

    Cost: for each point ``d`` (or ``p``, if fewer) second-order sweeps over it and as many solves;
    ``p·d`` numbers at a time.
    """
    for point in chosen:
        data = Mixed(risk, [point], memory_budget=0).to_dense()
        answers = -line.system.solve(data).value.to(torch.float64)
        values, vectors = torch.linalg.eigh(answers.T @ answers)
        modulus, direction = values[-1:].clamp_min(0).sqrt(), vectors[:, -1]
        found = Sensitivity(modulus, direction.unsqueeze(0), answers.norm(dim=0, keepdim=True))
        yield point, found, answers @ direction
