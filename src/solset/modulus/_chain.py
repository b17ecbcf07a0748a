"""Theorem 3: the exact modulus of a data set beside the bounds that its single points give."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from solset.changes import Move
from solset.checks import checked
from solset.modulus._audit_batches import JointAudit
from solset.modulus._kinds import change_of
from solset.modulus._lipschitz import lipschitz_modulus, part_of
from solset.modulus._peers import point_slopes
from solset.problem import Problem
from solset.results import Result


@dataclass(frozen=True, eq=False, repr=False)
class ModulusChain(Result):
    """``max isolated ≤ max joint ≤ exact ≤ (Σ joint²)^{1/2} ≤ √n max joint``.

    Attributes:
        isolated: Modulus of each point with its own constraint alone, ``(|K|,)``.
        joint: Modulus of each point where the others' constraints hold too, ``(|K|,)``.
        exact: Modulus of all points of ``K`` moving together.
    """

    isolated: Tensor
    joint: Tensor
    exact: float

    @property
    def bounds(self) -> tuple[float, float, float, float, float]:
        """The five numbers of the chain, in its order."""
        most, total = float(self.joint.max()), float(self.joint.square().sum()) ** 0.5
        return float(self.isolated.max()), most, self.exact, total, len(self.joint) ** 0.5 * most

    @property
    def headline(self) -> str:
        """The exact modulus between its bounds, such as ``"1 ≤ 1.2 ≤ exact 1.5 ≤ 1.7 ≤ 2.4, 4 points"``."""
        isolated, joint, exact, total, bound = (f"{number:.4g}" for number in self.bounds)
        return f"{isolated} ≤ {joint} ≤ exact {exact} ≤ {total} ≤ {bound}, {len(self.joint)} points"


@checked
def modulus_chain(
    problem: Problem, *, points: Sequence[int] | None = None, layer: str | Sequence[str] | None = None
) -> ModulusChain:
    """The exact modulus of a data set beside the chaining bounds of Theorem 3 (interpolating map).

    Departs from the paper: it chains isolated moduli into an upper bound; those bound only from below, and
    the moduli that bound from above are the joint ones.

    Args:
        problem: Problem whose training set is fitted.
        points: Indices ``K`` of the points that move; all by default.
        layer: Name or name patterns of the weights that may move; all by default.

    Raises:
        ValueError: If the problem is not fitted, or its Gram matrix does not fit the memory budget.

    Cost: the Gram matrix of all rows, and ``c`` backward passes over ``K``.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> model = nn.Linear(2, 1, bias=False)
        >>> _ = model.weight.data.copy_(torch.tensor([[3.0, 4.0]]))
        >>> x, y = torch.eye(2), torch.tensor([[3.0], [4.0]])  # each point decides one weight
        >>> modulus_chain(Problem(model, nn.MSELoss(), x, y))
        ModulusChain(5 ≤ 5 ≤ exact 5 ≤ 7.071 ≤ 7.071, 2 points)
    """
    change = change_of(problem, Move, points)
    part, chosen = part_of(problem, change, layer)[0], change.chosen(problem.risk())
    exact = lipschitz_modulus(
        part, points=chosen, optimality="interpolating", probes=0, margin_candidates=0
    ).value
    single = JointAudit(part, Move(chosen), None, point_slopes(part.risk())).batch(chosen)
    return ModulusChain(single["isolated_modulus"], single["modulus"], exact)
