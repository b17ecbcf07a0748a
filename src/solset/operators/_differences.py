"""Second derivatives as differences of the gradient in float64, where autograd has none or a wrong one."""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from solset.errors import ProcessError, SolsetWarning, bad_value
from solset.risk import EmpiricalRisk, in_float64, is_out_of_memory

STEP = 3e-4  # relative step: its fourth power and the rounding error divided by it are below 1e-11
TINY = 1e-7  # relative step where a kink lies inside the other
SMOOTH = 1e-5  # disagreement of two steps, of which a smooth function has the square of the step


def or_differences(
    risk: EmpiricalRisk, by_autograd: Callable[[], Tensor], by_differences: Callable[[], Tensor]
) -> Tensor:
    """A product by autograd, or by differences once autograd has failed for this model."""
    if risk.routes.second == "autograd":
        try:
            return by_autograd()
        except (RuntimeError, NotImplementedError) as error:
            if is_out_of_memory(error) or isinstance(error, ProcessError):
                raise
            take_differences(risk, f"PyTorch has none ({error})".splitlines()[0])
    _warn_once(risk)
    return by_differences()


def take_differences(risk: EmpiricalRisk, reason: str) -> None:
    """Lets second derivatives of a model be differences of its gradient from now on.

    Args:
        risk: Empirical risk whose routes are changed.
        reason: Clause that says why autograd's second derivatives are not taken.
    """
    risk.routes.second, risk.routes.reason = "differences", reason


def _warn_once(risk: EmpiricalRisk) -> None:
    if risk.routes.is_told:
        return
    risk.routes.is_told = True
    warnings.warn(
        f"second derivatives are central differences of the gradient in float64, with a relative error of "
        f"about 1e-9 and four gradients for each product, because {risk.routes.reason}",
        SolsetWarning,
        stacklevel=2,
    )


class GradientDifferences:
    """Differences of the gradients of a risk in weights and inputs, without weight decay.

    Cost: four gradients for each product, or six near a kink.
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
    """The derivative along a direction, by two central differences whose leading errors cancel.

    A kink inside these steps shows by their disagreement; then it is one difference over a tiny step.
    """
    length = float(direction.norm())
    if length == 0:
        return torch.zeros_like(gradient(0.0))

    def central(step: float) -> Tensor:
        step = step * max(float(here.norm()), 1.0) / length
        return (gradient(step) - gradient(-step)) / (2 * step)

    coarse, fine = central(STEP), central(STEP / 2)
    if float((coarse - fine).norm()) <= SMOOTH * float(fine.norm()):
        return (4 * fine - coarse) / 3  # Richardson (1911): the error of second order cancels
    return central(TINY)


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
