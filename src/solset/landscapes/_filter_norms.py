"""Filters of a network's weights, and directions normalised by filters (Li et al. 2018, section 4)."""

from typing import Any

import torch
from torch import Tensor

from solset.checks import checked, require, shaped
from solset.errors import bad_value
from solset.problem import Problem
from solset.risk import EmpiricalRisk


@checked
def filter_normalised(
    problem: Problem | EmpiricalRisk, direction: Tensor, *, has_biases: bool = False
) -> Tensor:
    """The direction rescaled so that each filter has the norm of the same filter of the weights, ``(p,)``.

    ``d_f ← d_f ‖w_f‖ / ‖d_f‖`` (Li et al. 2018, "Visualizing the Loss Landscape of Neural Nets", section 4).
    A filter is one index of the first dimension of a parameter of two dimensions or more: an output channel,
    or a neuron. As in the paper's code, parameters of one dimension (biases, normalisation) are left out.
    Departs from that code in two ways: there is no 1e-10 in the denominator, so that norms are equal up to
    rounding; and ``has_biases`` rescales such a parameter as one filter, where the code copies the parameter.

    Args:
        problem: Trained problem, or a risk at the weights to compare with.
        direction: Direction ``d``, ``(p,)``, in the order of ``problem.weights()``.
        has_biases: Whether parameters of one dimension keep their part, which is else 0.

    Returns:
        The rescaled direction; a filter that is zero in the weights or in ``direction`` is zero.

    Raises:
        ValueError: If the shape does not fit, entries are not finite, or nothing is left of the direction.

    Example:
        >>> from torch import nn
        >>> model = nn.Linear(2, 1, bias=False)
        >>> _ = nn.init.constant_(model.weight, 2.0)
        >>> problem = Problem(model, nn.MSELoss(), torch.ones(1, 2), torch.full((1, 1), 4.0))
        >>> filter_normalised(problem, torch.tensor([0.0, 0.1]))  # one filter of norm √8
        tensor([0.0000, 2.8284])
    """
    risk = problem.risk() if isinstance(problem, Problem) else problem
    parts = []
    for weight, part in _pairs(risk, check_vector("direction", direction, risk.weights)):
        wanted, sizes = _filter_norms(weight), _filter_norms(part)
        scale = torch.where(sizes > 0, wanted / sizes, torch.zeros_like(sizes))
        is_left_out = weight.ndim < 2 and not has_biases
        parts.append(torch.zeros_like(part) if is_left_out else _filters(part) * scale.unsqueeze(1))
    return not_zero("direction", risk.layout.join(parts))


def filter_length(risk: EmpiricalRisk, flat: Tensor, *, has_biases: bool) -> float:
    """``(Σ_f (‖d_f‖/‖w_f‖)²)^½`` over the filters that are not zero in the weights; refused if it is 0."""
    total = 0.0
    for weight, part in _pairs(risk, flat):
        if weight.ndim >= 2 or has_biases:
            sizes, wanted = _filter_norms(part).double(), _filter_norms(weight).double()
            total += float((sizes[wanted > 0] / wanted[wanted > 0]).square().sum())
    if total == 0:
        raise bad_value(
            "directions",
            expected="to move filters that are not zero",
            got="one that moves none, whose length relative to them is 0",
            cure='Use has_biases=True if it moves biases only, or normalise="none".',
        )
    return total**0.5


def check_vector(name: str, value: Any, like: Tensor) -> Tensor:
    """The vector, refused unless it is finite and has the shape, dtype and device of the weights ``like``."""
    require(name, value, Tensor, cure="Use torch.as_tensor.")
    shaped(name, value, like.shape, cure="Pass a flat vector in the order of `problem.weights()`.")
    if value.dtype != like.dtype or value.device != like.device:
        raise bad_value(
            name,
            expected=f"{like.dtype} on {like.device}",
            got=f"{value.dtype} on {value.device}",
            cure="Use `.to(problem.weights())`.",
        )
    if not bool(torch.isfinite(value).all()):
        raise bad_value(
            name, expected="finite", got="NaN or infinite entries", cure="Find where they come from."
        )
    return value.detach()


def check_rows(name: str, value: Any, like: Tensor) -> Tensor:
    """One or more vectors of weights as rows, ``(k, p)``, each checked by :func:`check_vector`."""
    if isinstance(value, Tensor) and value.ndim == 2 and len(value):
        return torch.stack([check_vector(name, row, like) for row in value])
    return check_vector(name, value, like).unsqueeze(0)


def not_zero(name: str, flat: Tensor) -> Tensor:
    """The direction, refused if it is zero."""
    if not bool((flat != 0).any()):
        raise bad_value(
            name,
            expected="not zero",
            got="a zero vector, or zero on every filter that counts",
            cure="Choose another direction, or has_biases=True if it moves biases only.",
        )
    return flat


def _pairs(risk: EmpiricalRisk, flat: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Each parameter with its part of a flat vector."""
    return list(zip(risk.layout.split(risk.weights), risk.layout.split(flat), strict=True))


def _filters(part: Tensor) -> Tensor:
    """A parameter as a matrix with a row for each filter."""
    return part.reshape(len(part), -1) if part.ndim >= 2 else part.reshape(1, -1)


def _filter_norms(part: Tensor) -> Tensor:
    return torch.linalg.vector_norm(_filters(part), dim=1)
