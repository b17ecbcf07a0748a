"""Real retraining on changed data, and the first-order difference between two trainings."""

import warnings
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from tqdm import trange

from solset.changes import Change
from solset.checks import checked, within
from solset.courses import Retrained
from solset.errors import SolsetWarning
from solset.operators import Hessian
from solset.problem import Problem
from solset.retraining._methods import Target
from solset.risk import EmpiricalRisk


@runtime_checkable
class Method(Protocol):
    """A way to retrain: :class:`GradientDescent`, :class:`LBFGS`, … or one of your own."""

    def run(self, start: EmpiricalRisk, target: Target) -> Retrained:
        """Where training on the changed data ends.

        Args:
            start: Changed risk at the trained weights ``w̄``.
            target: Function that returns the outputs that fit the changed data, ``(n, c)``; a method that
                looks for weights by their outputs, as :class:`LevenbergMarquardt` does, calls it.
        """
        ...


@checked
def retrain(problem: Problem, change: Change, *, method: Method) -> Retrained:
    """Where training from ``w̄`` on the changed data really ends: the truth that every estimate is judged by.

    Args:
        problem: The trained point, with its data.
        change: Change of the training data, such as :class:`solset.Move`.
        method: Way to train: :class:`GradientDescent` (a stated duration), :class:`LBFGS`,
            :class:`WithOptimizer` (any optimiser of PyTorch), :class:`Newton` (a certified minimum) or
            :class:`LevenbergMarquardt` (the nearest solution of a fitted problem).

    Returns:
        The weights at the end, with the outcome, the gradient that is left, and the cost.

    Warns:
        SolsetWarning: If the method ended short of its own target; says what is left.

    Cost: real training; the result counts its gradients.

    Example:
        >>> from torch import nn
        >>> from solset import Remove
        >>> from solset.retraining import Newton
        >>> model = nn.Linear(1, 1, bias=False).double()
        >>> _ = nn.init.constant_(model.weight, 2.0)
        >>> x, y = torch.ones(2, 1, dtype=torch.float64), torch.tensor([[1.0], [3.0]], dtype=torch.float64)
        >>> problem = Problem(model, nn.MSELoss(), x, y)  # the weight is the mean of the targets
        >>> retrain(problem, Remove([0]), method=Newton()).weights
        tensor([3.], dtype=torch.float64)
    """
    risk = problem.risk()
    retrained = method.run(change.applied_to(risk), lambda: change.outputs_after(risk))
    if retrained.message:
        warnings.warn(retrained.message, SolsetWarning, stacklevel=3)
    return retrained


@checked
def tangent_recursion(
    problem: Problem, change: Change, *, steps: int, learning_rate: float, progress: bool | None = None
) -> Tensor:
    """The first-order difference between training on for a while on changed and on clean data, ``(p,)``.

    ``δ ← δ - η(H(w_k) δ + B(w_k) Δx)`` along the clean run ``w_{k+1} = w_k - η∇E(w_k)``: valid where a
    leftover gradient makes the weights drift, where a filter at frozen weights is not.

    Args:
        problem: The trained point; it need not be stationary.
        change: Change of the training data, such as :class:`solset.Move`.
        steps: Number of gradient-descent steps.
        learning_rate: Learning rate ``η`` for the loss as reduced.
        progress: Whether to show a progress bar; by default only on a terminal.

    Raises:
        ValueError: If the number of steps is negative.

    Cost: one gradient, one Hessian product and one product with ``B`` a step.

    Example:
        >>> from torch import nn
        >>> from solset import Move
        >>> model = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.constant_(model.weight, 2.0)
        >>> problem = Problem(model, nn.MSELoss(), torch.tensor([[1.0]]), torch.tensor([[2.0]]))
        >>> change = Move(None, torch.tensor([[0.1]]))  # H = 2 and B = 4: in the end the change is -0.2
        >>> tangent_recursion(problem, change, steps=2, learning_rate=0.25, progress=False)
        tensor([-0.1500])
    """
    within("steps", steps, 0, cure="Count the steps taken.")
    risk = problem.risk()
    direction = change.direction(risk)
    tangent = torch.zeros_like(risk.weights)
    hidden = None if progress is None else not progress
    for _ in trange(steps, desc="tangent", disable=hidden, leave=False):
        pull = change.of_gradient(risk, 0) @ direction
        tangent = tangent - learning_rate * (Hessian(risk, memory_budget=0) @ tangent + pull)
        risk = risk.at(risk.weights - learning_rate * risk.gradient())
    return tangent
