"""Theorem 3: the exact modulus of a data set beside the bounds that its single points give."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from solset.checks import checked
from solset.modulus._audit_interpolating import isolated_moduli, joint_moduli
from solset.modulus._lipschitz import lipschitz_modulus
from solset.problem import Problem


@dataclass(frozen=True)
class ModulusChain:
    """``max isolated ≤ max joint ≤ exact ≤ (Σ joint²)^{1/2} ≤ √n max joint``.

    Attributes:
        isolated: Modulus of each point with its own constraint alone, ``(|K|,)``.
        joint: Modulus of each point where the others' constraints hold too, ``(|K|,)``.
        exact: Of all points of ``K`` moving together.
    """

    isolated: Tensor
    joint: Tensor
    exact: float

    @property
    def bounds(self) -> tuple[float, float, float, float, float]:
        """The five numbers of the chain, in its order."""
        most, total = float(self.joint.max()), float(self.joint.square().sum()) ** 0.5
        return float(self.isolated.max()), most, self.exact, total, len(self.joint) ** 0.5 * most


@checked
def modulus_chain(
    problem: Problem, *, points: Sequence[int] | None = None, layer: str | Sequence[str] | None = None
) -> ModulusChain:
    """The exact modulus of a data set beside the chaining bounds of Theorem 3 (interpolating map).

    Departs from the paper: it chains isolated moduli into an upper bound; those bound only from below, and
    what bounds from above are the joint ones.

    Args:
        problem: The trained point, fitted.
        points: ``K``; all by default.
        layer: Weights that may move; all by default.

    Raises:
        ValueError: If the problem is not fitted, or its Gram matrix does not fit the memory budget.

    Cost: the Gram matrix of all rows, and ``c`` backward passes over ``K``.
    """
    chosen = problem.check_points(points)
    patterns = [layer] if isinstance(layer, str) else layer
    part = problem if patterns is None else problem.restrict(parameters=patterns)
    exact = lipschitz_modulus(
        part, points=chosen, optimality="interpolating", probes=0, margin_candidates=0
    ).value
    isolated, joint = isolated_moduli(part, chosen), joint_moduli(part, chosen)
    return ModulusChain(isolated.to(torch.float64), joint.to(torch.float64), exact)
