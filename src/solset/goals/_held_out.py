"""Goals on points that are not trained on: their inputs, and their mean loss."""

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from solset.errors import bad_type, bad_value
from solset.goals._goal import Goal
from solset.linalg import Space
from solset.risk import (
    EmpiricalRisk,
    Loss,
    WeighedLoss,
    as_tensors,
    digest,
    named_tensors,
    own_loss,
    probe_indices,
    reduction_of,
    without_addresses,
)


@dataclass(frozen=True, eq=False, repr=False)
class HeldOutLoss(Goal):
    """The mean loss on points that are not trained on.

    Raised on a validation set it is indiscriminate poisoning (Mei & Zhu 2015); raised or, with a wrong
    label, lowered on chosen test points it is targeted (Koh & Liang 2017, section 5.2).

    Attributes:
        inputs: Inputs of the held-out points, ``(k, *input)``: a tensor, an array, or a tree of them
            like that of the training inputs.
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

    def quantity(self, risk: EmpiricalRisk, weights: Tensor) -> Tensor:
        """The loss at these weights."""
        outputs = risk.forward(risk.layout.split(weights), held_out(risk, self.inputs))
        return own_loss(risk, self.loss)(outputs, risk.points.target_rows(self.targets, weights))

    def check(self, risk: EmpiricalRisk) -> None:
        """Refuses inputs that are not shaped like the problem's, and targets that the loss does not take.

        Targets that broadcast against the outputs give another number, silently: the loss would no longer be
        a mean, or a sum, over points. Cost: one forward pass over the points.
        """
        inputs = held_out(risk, self.inputs)
        targets = risk.points.target_rows(self.targets, risk.weights)
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
        self._check_loss(risk, inputs, targets)

    def _check_loss(self, risk: EmpiricalRisk, inputs: Tensor, targets: Tensor) -> None:
        if targets.is_floating_point() and not bool(torch.isfinite(targets).all()):
            cure = "Leave out or mend these points."
            raise bad_value("targets", expected="finite", got="NaN or infinite entries", cure=cure)
        few = probe_indices(len(inputs))
        loss = own_loss(risk, self.loss)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.filterwarnings("error", message="Using a target size")
            outputs = risk.forward(risk.layout.split(risk.weights), inputs)
            try:
                loss(outputs, targets)
                reduction_of(loss, outputs[few], targets[few], strict=not isinstance(loss, WeighedLoss))
            except (RuntimeError, IndexError, ValueError, AttributeError, UserWarning) as error:
                raise bad_value(
                    "targets",
                    expected="such as the loss takes, as a mean or a sum over points",
                    got=f"shape {tuple(targets.shape)} of {targets.dtype} beside outputs "
                    f"{tuple(outputs.shape)}: {str(error).splitlines()[0]}",
                    cure="Shape them like in training, or pass a `loss=` that is a mean over points.",
                ) from error

    def identity(self) -> dict[str, Any]:
        """Digests of the points, and the loss by name."""
        loss = (
            None
            if self.loss is None
            else getattr(self.loss, "__qualname__", without_addresses(str(self.loss)))
        )
        points = digest_of(self.inputs, self.targets)
        return {"kind": "HeldOutLoss", "points": points, "raised": self.is_raised, "loss": loss}


def digest_of(*trees: Any) -> str:
    """A digest of the tensors and arrays of some points."""
    whole = as_tensors("inputs", trees, torch.empty(0, dtype=torch.float64))
    return digest(value for _, value in named_tensors(whole))


def point_count(inputs: Any) -> int:
    """The number of points in inputs, by their first tensor; 0 if there is none."""
    tensors = named_tensors(as_tensors("inputs", inputs, torch.empty(0)))
    return next((len(value) for _, value in tensors if value.ndim), 0)


def held_out(risk: EmpiricalRisk, inputs: Any) -> Tensor:
    """Inputs of other points as the problem's network takes them inside.

    Args:
        risk: Empirical risk whose shapes count.
        inputs: Inputs ``(k, *input)`` of one point or more, or a tree like that of the training inputs.

    Raises:
        TypeError: If they are neither.
        ValueError: If there are none, or shape, dtype, device or entries do not fit.
    """
    points, weights = risk.points, risk.weights
    inputs = as_tensors("inputs", inputs, weights)
    if points.tree is not None:
        return points.rows(inputs, weights)
    if not isinstance(inputs, Tensor):
        raise bad_type(
            "inputs", expected="a tensor or an array", got=type(inputs).__name__, cure="Stack the points."
        )
    count = len(inputs) if inputs.ndim else 0
    if not count:
        raise bad_value("inputs", expected="one point or more", got="none", cure="Pass some.")
    Space("inputs", (count, *points.feature_shape), weights.dtype, weights.device).flatten(inputs)
    return inputs
