"""Second derivatives of a loss of all outputs at once, which couples the points through its curvature."""

from collections.abc import Sequence
from functools import cached_property

from torch import Tensor

from solset.linalg import LinearOperator
from solset.operators._curvature import curved
from solset.operators._first import InputJacobian, Jacobian
from solset.operators._graphs import FORWARD, Cost, ProductCost
from solset.risk import EmpiricalRisk, slopes_at


def separable(risk: EmpiricalRisk) -> EmpiricalRisk:
    """The risk, or for a loss of all outputs the sum over points with the same gradient.

    Cost: nothing for a sum over points; else one forward pass.
    """
    if not risk.is_whole:
        return risk
    outputs, targets = risk.outputs_and_targets()
    return risk.of_outputs(slopes_at(risk, outputs, targets))


class LossHessian(LinearOperator):
    """The curvature ``Λ = ∇²_F L`` of a loss of all outputs at once, ``(n·c, n·c)``.

    Cost: one forward pass once; then a sweep through the loss for each product.
    """

    is_symmetric = True

    def __init__(self, risk: EmpiricalRisk) -> None:
        self._risk = risk
        outputs, _ = self._data
        super().__init__((outputs.numel(), outputs.numel()), risk.weights.dtype, risk.weights.device)

    @cached_property
    def _data(self) -> tuple[Tensor, Tensor]:
        return self._risk.outputs_and_targets()

    def _apply(self, block: Tensor) -> Tensor:
        outputs, targets = self._data
        pushed = block.T.reshape(block.shape[1], len(outputs), -1)
        return curved(self._risk, outputs, targets, pushed).reshape(block.shape[1], -1).T


class Coupling(LinearOperator):
    """The part ``Jᵀ Λ C`` of a second derivative that goes through the curvature of the loss.

    Args:
        jacobian: Derivative ``J`` of all outputs in the weights.
        curvature: Curvature ``Λ`` of the loss in all outputs.
        right: Derivative ``C`` of all outputs in the weights, or in the data.
    """

    def __init__(self, jacobian: Jacobian, curvature: LossHessian, right: Jacobian | InputJacobian) -> None:
        super().__init__((jacobian.shape[1], right.shape[1]), jacobian.dtype, jacobian.device)
        self._jacobian, self._curvature, self._right = jacobian, curvature, right

    @property
    def cost(self) -> ProductCost:
        """The cost of a product."""
        right = self._right.cost if isinstance(self._right, InputJacobian) else self._right.push_cost
        return self._jacobian.pull_cost + right + ProductCost(Cost(1.0, FORWARD))

    def _apply(self, block: Tensor) -> Tensor:
        return self._jacobian.T @ (self._curvature @ (self._right @ block))

    def _apply_transposed(self, block: Tensor) -> Tensor:
        return self._right.T @ (self._curvature @ (self._jacobian @ block))


def coupled_hessian(risk: EmpiricalRisk, memory_budget: int) -> Coupling | None:
    """``JᵀΛJ`` for a loss of all outputs; ``None`` for a sum over points."""
    if not risk.is_whole:
        return None
    jacobian = Jacobian(risk, memory_budget=memory_budget)
    return Coupling(jacobian, LossHessian(risk), jacobian)


def coupled_mixed(risk: EmpiricalRisk, points: Sequence[int], memory_budget: int) -> Coupling | None:
    """``JᵀΛJ_x`` for a loss of all outputs; ``None`` for a sum over points."""
    if not risk.is_whole:
        return None
    right = InputJacobian(risk, points, memory_budget=memory_budget)
    return Coupling(Jacobian(risk, memory_budget=memory_budget), LossHessian(risk), right)
