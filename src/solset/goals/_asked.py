"""The goals that an analysis was asked for, as one block of values with their derivatives."""

from collections.abc import Callable, Sequence
from math import isfinite

import torch
from torch import Tensor, nn

from solset.errors import bad_type, bad_value
from solset.goals._goal import Goal, Slopes
from solset.goals._of_weights import ModelFunction
from solset.risk import EmpiricalRisk

Goals = Goal | Callable[[nn.Module], Tensor] | Sequence[Goal | Callable[[nn.Module], Tensor]]


def as_goals(goals: Goals) -> list[Goal]:
    """The goals as a list; a function of the model becomes a :class:`ModelFunction`.

    Args:
        goals: One goal, or several as a block.

    Raises:
        TypeError: If a goal is neither a goal nor a function of the model.
        ValueError: If there is none.
    """
    several = list(goals) if isinstance(goals, Sequence) else [goals]
    if not several:
        raise bad_value("goal", expected="at least one", got="none", cure="Name what is to be explained.")
    for goal in several:
        if not isinstance(goal, Goal) and (not callable(goal) or isinstance(goal, nn.Module | type)):
            cure = "Pass one of solset.goals, or a function of the model that returns a scalar tensor."
            raise bad_type("goal", expected="a goal or a function", got=type(goal).__name__, cure=cure)
    return [goal if isinstance(goal, Goal) else ModelFunction(goal) for goal in several]


def slopes_of(goals: Goals, risk: EmpiricalRisk, held: Sequence[str] = ()) -> Slopes:
    """The values of goals at the weights of a risk, with their derivatives there.

    Args:
        goals: One goal, or several as a block.
        risk: Empirical risk with the network, the data and the weights.
        held: Names of held tensors, such as running statistics, in which derivatives are computed too.

    Raises:
        TypeError: If a goal is neither a goal nor a function of the model, or does not return a tensor.
        ValueError: If a goal does not fit, is not differentiable or not finite.

    Cost: one backward pass for each value of the goals.
    """
    parts = []
    for goal in as_goals(goals):
        goal.check(risk)
        parts.append(goal.slopes(risk, risk.weights, held))
    joined = Slopes.joined(parts) if isinstance(goals, Sequence) else parts[0]
    require_finite(float(joined.values.abs().max()), float(torch.linalg.vector_norm(joined.gradients)))
    return joined


def require_finite(value: float, gradient: float) -> None:
    """Refuses a goal without a finite value and gradient at the trained weights.

    Args:
        value: Value of the goal, or the largest of several in size.
        gradient: Norm of its gradient in the weights.

    Raises:
        ValueError: If one of these is not finite.
    """
    if isfinite(value) and isfinite(gradient):
        return
    raise bad_value(
        "goal",
        expected="finite, with a finite gradient, at the trained weights",
        got=f"value {value}, gradient norm {gradient}",
        cure="Evaluate it there: it overflows, or is not smooth.",
    )
