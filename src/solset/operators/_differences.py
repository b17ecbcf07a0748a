"""Second derivatives as differences of the gradient in float64, where autograd has none or a wrong one."""

import copy
import warnings
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from solset.errors import ProcessError, SolsetWarning, bad_value
from solset.risk import EmpiricalRisk, is_out_of_memory

STEP = 1e-5  # relative step: its square and the rounding error divided by it are both about 1e-10


def or_differences(
    risk: EmpiricalRisk, by_autograd: Callable[[], Tensor], by_differences: Callable[[], Tensor]
) -> Tensor:
    """A product by autograd, or by differences once autograd has failed for this model.

    Args:
        risk: Empirical risk whose routes remember the failure.
        by_autograd: Function that computes the product through a graph.
        by_differences: Function that computes it as a difference of gradients.
    """
    if risk.routes.second == "autograd":
        try:
            return by_autograd()
        except (RuntimeError, NotImplementedError) as error:
            if is_out_of_memory(error) or isinstance(error, ProcessError):
                raise
            take_differences(risk, f"PyTorch has none ({error})".splitlines()[0])
    return by_differences()


def take_differences(risk: EmpiricalRisk, reason: str) -> None:
    """Lets second derivatives of a model be differences of its gradient from now on, with a warning.

    Args:
        risk: Empirical risk whose routes are changed.
        reason: Clause that says why autograd's second derivatives are not taken.
    """
    risk.routes.second = "differences"
    warnings.warn(
        f"second derivatives are central differences of the gradient in float64, with a relative error of "
        f"about 1e-9 and two gradients for each product, because {reason}",
        SolsetWarning,
        stacklevel=2,
    )


class GradientDifferences:
    """Differences of the gradients of a risk in weights and inputs, without weight decay.

    Args:
        risk: Empirical risk at the point of linearisation.

    Cost: two gradients for each product.
    """

    def __init__(self, risk: EmpiricalRisk) -> None:
        self._dtype = risk.weights.dtype
        self._risk = in_float64(risk.without_regularisation())
        if self._dtype != torch.float64:
            _require_float64(self._risk)

    def of_weights(self, v: Tensor) -> Tensor:
        """``H v``, ``(p,)``: the change of the gradient in the weights along ``v``."""
        return self._along_weights(v, lambda risk: risk.gradient())

    def of_inputs(self, v: Tensor) -> Tensor:
        """``Bᵀ v``, ``(n·d,)``: the change of the gradient in the inputs along ``v``."""
        scale = self._risk.batch_scale(1)
        return self._along_weights(v, lambda risk: scale * risk.input_gradients().reshape(-1))

    def _along_weights(self, v: Tensor, gradient: Callable[[EmpiricalRisk], Tensor]) -> Tensor:
        risk, v = self._risk, v.to(torch.float64)
        return _difference(lambda step: gradient(risk.at(risk.weights + step * v)), risk.weights, v).to(
            self._dtype
        )

    def along_inputs(self, u: Tensor) -> Tensor:
        """``B u``, ``(p,)``: the change of the weight gradient along ``u``, ``(n·d,)``, in the inputs."""
        risk, places = self._risk, range(len(self._risk.points))
        features = risk.points.features(places)
        u = u.to(torch.float64).reshape(features.shape)
        return _difference(lambda step: risk.move(places, step * u).gradient(), features, u).to(self._dtype)


def _difference(gradient: Callable[[float], Tensor], here: Tensor, direction: Tensor) -> Tensor:
    """The central difference along a direction, with a step relative to the size of what moves."""
    length = float(direction.norm())
    if length == 0:
        return torch.zeros_like(gradient(0.0))
    step = STEP * max(float(here.norm()), 1.0) / length
    return (gradient(step) - gradient(-step)) / (2 * step)


def in_float64(risk: EmpiricalRisk) -> EmpiricalRisk:
    """The same risk with weights, held values, inputs and targets in float64.

    Args:
        risk: Empirical risk; in float64 already, it comes back as it is.
    """
    if risk.weights.dtype == torch.float64:
        return risk

    def precise(value: Tensor) -> Tensor:
        return value.to(torch.float64) if value.is_floating_point() else value

    state = {**dict(risk.model.named_parameters()), **dict(risk.model.named_buffers()), **risk.fixed}
    loss = copy.deepcopy(risk.loss).double() if isinstance(risk.loss, nn.Module) else risk.loss
    return replace(
        risk,
        weights=precise(risk.weights),
        fixed={
            name: precise(value.detach()) for name, value in state.items() if name not in risk.layout.shapes
        },
        points=risk.points.in_float64(),
        loss=loss,
    )


def _require_float64(risk: EmpiricalRisk) -> None:
    try:
        risk.select([0]).gradient()
    except (RuntimeError, TypeError) as error:
        raise bad_value(
            "model",
            expected="one that computes in float64 where autograd has no second derivative of it",
            got=f"{error}",
            cure="Register its constants as buffers, and build the problem with model.double().",
        ) from error
