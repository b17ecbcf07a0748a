"""Goals that are functions of the weights, or of the model that has them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from solset.errors import bad_type, bad_value
from solset.goals._goal import Goal, as_scalar
from solset.linalg import Space
from solset.risk import EmpiricalRisk, called, digest, network_of


@dataclass(frozen=True, eq=False, repr=False)
class TargetWeights(Goal):
    """Weights to reach: lowers ``‖w - w*‖`` (model-targeted poisoning, Suya et al. 2021).

    Attributes:
        weights: ``w*``: flat ``(p,)`` in ``named_parameters`` order, or by name.
    """

    weights: Tensor | Mapping[str, Tensor]
    is_raised = False

    def describe(self) -> str:
        """The distance, in weight units."""
        return "distance to the target weights"

    def quantity(self, risk: EmpiricalRisk, weights: Tensor) -> Tensor:
        """``‖w - w*‖``."""
        return torch.linalg.vector_norm(weights - self._flat(risk))

    def check(self, risk: EmpiricalRisk) -> None:
        """Refuses targets of another shape, dtype or device, and entries that are not finite."""
        self._flat(risk)

    def identity(self) -> dict[str, Any]:
        """A digest of the target."""
        parts = self.weights.values() if isinstance(self.weights, Mapping) else [self.weights]
        return {"kind": "TargetWeights", "weights": digest(parts)}

    def _flat(self, risk: EmpiricalRisk) -> Tensor:
        layout, trained = risk.layout, risk.weights
        target = self.weights
        if isinstance(target, Mapping):
            shapes = {name: tuple(value.shape) for name, value in target.items()}
            wanted = {name: tuple(shape) for name, shape in layout.shapes.items()}
            if shapes != wanted:
                raise bad_value(
                    "weights", expected=f"{wanted}", got=shapes, cure="Name every weight that may move."
                )
            target = layout.join([target[name].detach() for name in layout.shapes])
        return Space("weights", (len(trained),), trained.dtype, trained.device).flatten(target)


@dataclass(frozen=True, eq=False, repr=False)
class WeightFunction(Goal):
    """Any smooth function of the weights.

    Attributes:
        function: Function from the weights to a scalar tensor, or to a vector of several values, which
            autograd differentiates.
        takes: Form of the weights: ``"flat"`` for ``(p,)`` in ``named_parameters`` order, ``"named"`` for a
            mapping of names to tensors.
        is_raised: Whether the value is to grow.
        name: Name of the function in reports and messages.

    Example:
        >>> WeightFunction(lambda w: w.square().sum(), name="squared length of the weights").sign
        1.0
    """

    function: Callable[[Any], Tensor]
    takes: Literal["flat", "named"] = "flat"
    is_raised: bool = True
    name: str = "function of the weights"

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise bad_type(
                "function", expected="a callable", got=type(self.function).__name__, cure="Pass one."
            )
        if self.takes not in {"flat", "named"}:
            raise bad_value("takes", expected="'flat' or 'named'", got=repr(self.takes), cure="Choose one.")

    def describe(self) -> str:
        """The name given."""
        return self.name

    def quantity(self, risk: EmpiricalRisk, weights: Tensor) -> Tensor:
        """The function's value."""
        if self.takes == "flat":
            return as_scalar(self.function(weights))
        layout = risk.layout
        return as_scalar(self.function(dict(zip(layout.shapes, layout.split(weights), strict=True))))

    def check(self, risk: EmpiricalRisk) -> None:
        """Nothing can be known before it is called."""

    def identity(self) -> dict[str, Any]:
        """The function's name; code that changed under it shows in the value at the trained weights."""
        called = getattr(self.function, "__qualname__", type(self.function).__qualname__)
        return {
            "kind": "WeightFunction",
            "function": called,
            "takes": self.takes,
            "raised": self.is_raised,
            "name": self.name,
        }


@dataclass(frozen=True, eq=False, repr=False)
class ModelFunction(Goal):
    """Any smooth function of the model, such as a gap between the losses of two groups.

    ``Problem.attribute`` and ``Run.attribute`` make one of every bare function that they are given.

    Attributes:
        function: Function from the module, in evaluation mode and with the weights in question, to a scalar
            tensor, or to a vector of several values.
        is_raised: Whether the value is to grow.
        name: Name of the function in reports and messages.

    Example:
        >>> ModelFunction(lambda model: model(torch.ones(1, 3)), name="prediction at one").describe()
        'prediction at one'
    """

    function: Callable[[nn.Module], Tensor]
    is_raised: bool = True
    name: str = "function of the model"

    def __post_init__(self) -> None:
        if not callable(self.function):
            got = type(self.function).__name__
            raise bad_type("function", expected="a callable", got=got, cure="Pass one.")

    def describe(self) -> str:
        """The name given."""
        return self.name

    def quantity(self, risk: EmpiricalRisk, weights: Tensor) -> Tensor:
        """The function's value."""
        named = dict(zip(risk.layout.shapes, risk.layout.split(weights), strict=True))
        fixed = {name: value.clone() for name, value in risk.fixed.items()}  # a forward pass may change them
        network, state = network_of(risk.model, {**fixed, **named})
        risk.require_settings()
        named = {f"model.{name}": value for name, value in state.items()}
        try:
            value = called(_Measured(network, self.function), named, (), {})
        except (TypeError, AttributeError, RuntimeError, LookupError) as error:
            raise bad_type(
                "goal",
                expected="a function of the module that returns a tensor",
                got=f"{type(error).__name__}: {str(error).partition(chr(10))[0]}",
                cure="Take the model as the only argument: lambda model: loss(model(x), y).",
            ) from error
        return as_scalar(value)

    def check(self, risk: EmpiricalRisk) -> None:
        """Nothing can be known before it is called."""

    def identity(self) -> dict[str, Any]:
        """The function's name; code that changed under it shows in the value at the trained weights."""
        called = getattr(self.function, "__qualname__", type(self.function).__qualname__)
        return {"kind": "ModelFunction", "function": called, "raised": self.is_raised, "name": self.name}


class _Measured(nn.Module):
    """A model with a function of it, so that the function can be asked at other weights."""

    def __init__(self, model: nn.Module, function: Callable[[nn.Module], Tensor]) -> None:
        super().__init__()
        self.model, self._function = model, function

    def forward(self) -> Any:
        return self._function(self.model)
