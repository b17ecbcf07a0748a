"""What a poisoner wants of the weights: functions to raise or lower, as values."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from solset.errors import bad_type, bad_value
from solset.linalg import Space
from solset.problem import Problem
from solset.risk import (
    Loss,
    WeighedLoss,
    digest,
    named_tensors,
    own_loss,
    probe_indices,
    reduction_of,
    without_addresses,
)


class Goal(ABC):
    """A smooth function ``φ`` of the weights and the direction in which it is to change."""

    @abstractmethod
    def describe(self) -> str:
        """What ``φ`` is, in a phrase."""

    @property
    @abstractmethod
    def sign(self) -> float:
        """1 if ``φ`` is to grow, -1 if it is to shrink."""

    @abstractmethod
    def quantity(self, problem: Problem, weights: Tensor) -> Tensor:
        """``φ(w)``, a scalar that autograd can differentiate.

        Args:
            problem: Trained point with the network and the names of its weights.
            weights: Weights ``w``, flat ``(p,)``.
        """

    @abstractmethod
    def check(self, problem: Problem) -> None:
        """Refuses a goal whose shapes do not fit the problem.

        Args:
            problem: Trained point whose shapes count.
        """

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What tells this goal from another, in the types of JSON."""

    def value(self, problem: Problem, weights: Tensor) -> float:
        """``φ(w)`` as a number. Cost: one forward pass over whatever the goal looks at."""
        with torch.no_grad():
            return float(self.quantity(problem, weights))

    def slope(self, problem: Problem, weights: Tensor) -> tuple[float, Tensor]:
        """``φ(w)`` and ``∇φ(w)``, ``(p,)``, by autograd.

        Args:
            problem: Trained point with the network and the names of its weights.
            weights: Weights ``w``, flat ``(p,)``.

        Raises:
            TypeError: If the goal returns anything but a tensor.
            ValueError: If it is not a scalar, or autograd finds no way from it to the weights.

        Cost: one backward pass over whatever the goal looks at.
        """
        leaf = weights.detach().clone().requires_grad_()
        with torch.enable_grad():
            value = self.quantity(problem, leaf)
        if not isinstance(value, Tensor):
            raise bad_type("goal", expected="a tensor as its value", got=type(value).__name__, cure=_CURE)
        if value.numel() != 1:
            raise bad_value("goal", expected="one number", got=f"shape {tuple(value.shape)}", cure=_CURE)
        return float(value.detach()), _differentiated(value.reshape(()), leaf)


_CURE = "Return a scalar tensor computed from the weights with torch operations."


def _differentiated(value: Tensor, leaf: Tensor) -> Tensor:
    got = "a value that does not depend on the weights through differentiable operations"
    gradient = None
    if value.requires_grad:
        try:
            (gradient,) = torch.autograd.grad(value, leaf, allow_unused=True)
        except RuntimeError as error:
            got = str(error).splitlines()[0]
    if gradient is None:
        raise bad_value("goal", expected="differentiable in the weights", got=got, cure=_CURE)
    return gradient


@dataclass(frozen=True, eq=False)
class TargetWeights(Goal):
    """Weights to reach: lowers ``‖w - w*‖`` (model-targeted poisoning, Suya et al. 2021).

    Attributes:
        weights: ``w*``: flat ``(p,)`` in ``named_parameters`` order, or by name.
    """

    weights: Tensor | Mapping[str, Tensor]

    def describe(self) -> str:
        """The distance, in weight units."""
        return "distance to the target weights"

    @property
    def sign(self) -> float:
        """-1: the distance is lowered."""
        return -1.0

    def quantity(self, problem: Problem, weights: Tensor) -> Tensor:
        """``‖w - w*‖``."""
        return torch.linalg.vector_norm(weights - self._flat(problem))

    def check(self, problem: Problem) -> None:
        """Refuses targets of another shape, dtype or device, and entries that are not finite."""
        self._flat(problem)

    def identity(self) -> dict[str, Any]:
        """A digest of the target."""
        parts = self.weights.values() if isinstance(self.weights, Mapping) else [self.weights]
        return {"kind": "TargetWeights", "weights": digest(parts)}

    def _flat(self, problem: Problem) -> Tensor:
        layout, trained = problem.risk().layout, problem.weights()
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


@dataclass(frozen=True, eq=False)
class HeldOutLoss(Goal):
    """The mean loss on points that are not trained on.

    Raised on a validation set it is indiscriminate poisoning (Mei & Zhu 2015); raised or, with a wrong
    label, lowered on chosen test points it is targeted (Koh & Liang 2017, section 5.2).

    Attributes:
        inputs: Inputs of the held-out points, ``(k, *input)``, or a tree like that of the training inputs.
        targets: Targets of these points, ``(k, ...)``, as the loss takes them.
        is_raised: Whether the loss is to grow.
        loss: Function ``(outputs, targets) -> scalar``, a mean over points; the problem's by default.
    """

    inputs: Any
    targets: Any
    is_raised: bool = True
    loss: Loss | None = None

    def describe(self) -> str:
        """The loss, per example where it is a mean."""
        count = point_count(self.inputs)
        return f"loss on {count} held-out point{'s' if count > 1 else ''}"

    @property
    def sign(self) -> float:
        """1 if the value is raised, -1 if it is lowered."""
        return 1.0 if self.is_raised else -1.0

    def quantity(self, problem: Problem, weights: Tensor) -> Tensor:
        """The loss at these weights."""
        risk = problem.risk()
        outputs = risk.forward(risk.layout.split(weights), held_out(problem, self.inputs))
        return own_loss(risk, self.loss)(outputs, risk.points.target_rows(self.targets, weights))

    def check(self, problem: Problem) -> None:
        """Refuses inputs that are not shaped like the problem's, and targets that the loss does not take.

        Targets that broadcast against the outputs give another number, silently: the loss would no longer be
        a mean, or a sum, over points. Cost: one forward pass over the points.
        """
        inputs = held_out(problem, self.inputs)
        targets = problem.risk().points.target_rows(self.targets, problem.weights())
        if not isinstance(targets, Tensor):
            raise bad_type(
                "targets", expected="a tensor", got=type(targets).__name__, cure="Stack the targets."
            )
        count = len(targets) if targets.ndim else "none"
        if count != len(inputs):
            raise bad_value(
                "targets",
                expected=f"one per input ({len(inputs)})",
                got=count,
                cure="Pass matching tensors.",
            )
        self._check_loss(problem, inputs, targets)

    def _check_loss(self, problem: Problem, inputs: Tensor, targets: Tensor) -> None:
        if targets.is_floating_point() and not bool(torch.isfinite(targets).all()):
            cure = "Leave out or mend these points."
            raise bad_value("targets", expected="finite", got="NaN or infinite entries", cure=cure)
        risk, few = problem.risk(), probe_indices(len(inputs))
        loss = own_loss(risk, self.loss)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.filterwarnings("error", message="Using a target size")
            outputs = risk.forward(risk.layout.split(problem.weights()), inputs)
            try:
                loss(outputs, targets)
                reduction_of(loss, outputs[few], targets[few], strict=not isinstance(loss, WeighedLoss))
            except (RuntimeError, IndexError, ValueError, AttributeError, UserWarning) as error:
                raise bad_value(
                    "targets",
                    expected="such as the loss takes, as a mean or a sum over points",
                    got=f"shape {tuple(targets.shape)} of {targets.dtype} beside outputs "
                    f"{tuple(outputs.shape)}: {str(error).splitlines()[0]}",
                    cure="Shape them like those of training; a loss that is neither is a WeightFunction.",
                ) from error

    def identity(self) -> dict[str, Any]:
        """Digests of the points, and the loss by name."""
        loss = (
            None
            if self.loss is None
            else getattr(self.loss, "__qualname__", without_addresses(str(self.loss)))
        )
        points = digest(value for tree in (self.inputs, self.targets) for _, value in named_tensors(tree))
        return {"kind": "HeldOutLoss", "points": points, "raised": self.is_raised, "loss": loss}


@dataclass(frozen=True, eq=False)
class WeightFunction(Goal):
    """Any smooth function of the weights.

    Attributes:
        function: Function from the weights to a scalar tensor, which autograd differentiates.
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

    @property
    def sign(self) -> float:
        """1 if the value is raised, -1 if it is lowered."""
        return 1.0 if self.is_raised else -1.0

    def quantity(self, problem: Problem, weights: Tensor) -> Tensor:
        """The function's value."""
        if self.takes == "flat":
            return self.function(weights)
        layout = problem.risk().layout
        return self.function(dict(zip(layout.shapes, layout.split(weights), strict=True)))

    def check(self, problem: Problem) -> None:
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


def point_count(inputs: Any) -> int:
    """The number of points in inputs, by their first tensor; 0 if there is none.

    Args:
        inputs: Tensor or tree of tensors with a row per point.
    """
    return next((len(value) for _, value in named_tensors(inputs) if value.ndim), 0)


def held_out(problem: Problem, inputs: Any) -> Tensor:
    """Inputs of other points as the problem's network takes them inside.

    Args:
        problem: Trained point whose shapes count.
        inputs: Inputs ``(k, *input)`` of one point or more, or a tree like that of the training inputs.

    Raises:
        TypeError: If they are neither.
        ValueError: If there are none, or shape, dtype, device or entries do not fit.
    """
    points, weights = problem.risk().points, problem.weights()
    if points.tree is not None:
        return points.rows(inputs, weights)
    if not isinstance(inputs, Tensor):
        raise bad_type("inputs", expected="a tensor", got=type(inputs).__name__, cure="Stack the points.")
    count = len(inputs) if inputs.ndim else 0
    if not count:
        raise bad_value("inputs", expected="one point or more", got="none", cure="Pass some.")
    Space("inputs", (count, *problem.input_shape), weights.dtype, weights.device).flatten(inputs)
    return inputs
