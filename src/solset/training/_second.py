"""The second derivatives that a step is differentiated by, against differences of its gradient."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from solset.operators import Comparison, Probe, Verdict, on_leaves
from solset.risk import is_out_of_memory
from solset.training._calculus import pushed

STEP = 1e-6  # part of each entry by which it moves in differences of a rule
OFF = 0.01  # relative error from which a derivative of a rule is wrong
WRONG = (
    "the derivative of a step is wrong: second derivatives by autograd are {error:.0%} off from differences "
    "of the gradient, as where a backward pass detaches what it multiplies; write it with operations that "
    "autograd sees"
)


WRONG_RULE = (
    "the derivative of the optimizer's rule is wrong: by autograd it is {error:.0%} off from "
    "differences of a step, as where step() changes weights or gradients through .data or under no_grad; "
    "write it so that autograd sees it"
)


def wrong_rule(rule: Callable[[Sequence[Tensor]], Sequence[Tensor]], starts: Sequence[Tensor]) -> str:
    """The sentence that the derivative of an optimizer's rule is wrong, or nothing where it is not.

    The rule is tried in float64 along one direction that changes each entry by a part of itself, so that
    zeros stay zeros and squares positive.

    Args:
        rule: Function of weights, gradients and slots that returns weights and slots after the step.
        starts: Weights, gradients and slots of a step.

    Cost: three steps of the optimizer without a gradient.
    """
    try:
        error = _error_of_rule(rule, [start.detach().double().requires_grad_() for start in starts])
    except Exception as error:  # noqa: BLE001 - the user's code may fail in float64
        if is_out_of_memory(error):
            raise
        return f"the derivative of the optimizer's rule was not verified, since in float64 it fails ({error})"
    return WRONG_RULE.format(error=error) if error > OFF else ""


def _error_of_rule(rule: Callable[[Sequence[Tensor]], Sequence[Tensor]], leaves: Sequence[Tensor]) -> float:
    """The relative error of the derivative of a rule against differences along one direction."""
    generator = torch.Generator().manual_seed(0)
    parts = [torch.rand(leaf.shape, generator=generator, dtype=torch.float64) for leaf in leaves]
    directions = [leaf.detach() * part.to(leaf.device) for leaf, part in zip(leaves, parts, strict=True)]
    with torch.enable_grad():
        by_autograd = pushed(rule(leaves), leaves, directions)
        near = [
            [a.detach() + sign * STEP * b for a, b in zip(leaves, directions, strict=True)]
            for sign in (1, -1)
        ]
        ahead, behind = ([end.detach() for end in rule(values)] for values in near)
    gaps, sizes = [], []
    for slope, a, b in zip(by_autograd, ahead, behind, strict=True):
        real = (a - b) / (2 * STEP)
        is_finite = torch.isfinite(slope) & torch.isfinite(real)  # kinks are named elsewhere
        gaps.append(float((slope - real)[is_finite].norm()))
        sizes.append(float(real[is_finite].norm()))
    return math.hypot(*gaps) / max(math.hypot(*sizes), 1e-300)


def wrong_second(loss: Callable[[Sequence[Tensor]], Tensor], values: Sequence[Tensor], weights: int) -> str:
    """The sentence that second derivatives of a step's loss are wrong, or nothing where none is seen to be.

    In float64 where model and loss take it, the gradient is compared along one direction in weights and
    features. The steps are so small that a kink inside is not taken for a fault.

    Args:
        loss: Function of weights and features that computes the loss of a batch, differentiably.
        values: Weights, and after them the features, if they are real numbers.
        weights: Number of tensors that are weights.

    Cost: about four gradients of the batch.
    """
    for precise in ([value.double() for value in values], values):
        try:
            return _compared(loss, precise, weights)
        except Exception as error:  # noqa: BLE001 - the user's code may fail in float64
            if is_out_of_memory(error):
                raise
    return ""


def _compared(loss: Callable[[Sequence[Tensor]], Tensor], values: Sequence[Tensor], weights: int) -> str:
    def graph(leaves: Sequence[Tensor]) -> Tensor:
        value = loss(leaves)
        if leaves[0].dtype == torch.float64 != value.dtype:
            raise TypeError("a loss that rounds to float32 cannot be compared at steps of float64")
        return value.reshape(1)

    probe = Probe(values, graph, on_leaves(graph), weights)
    direction = probe.direction(0)
    if Comparison(probe, direction).second is not Verdict.WRONG:
        return ""
    step = 1e-6 if values[0].dtype == torch.float64 else 4e-3
    ahead, behind = (probe.at(direction, sign * step)[1][:weights] for sign in (1, -1))
    by_differences = torch.cat([(a - b).reshape(-1) / (2 * step) for a, b in zip(ahead, behind, strict=True)])
    by_autograd = torch.cat([part.reshape(-1) for part in probe.second(direction)[:weights]])
    error = float((by_autograd - by_differences).norm() / by_differences.norm())
    # A training that diverged says so itself.
    return WRONG.format(error=error) if math.isfinite(error) else ""
