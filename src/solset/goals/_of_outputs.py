"""Goals that are functions of the outputs at points that are not trained on."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from solset.checks import positive, shaped
from solset.errors import bad_value
from solset.goals._goal import Goal, Slopes
from solset.goals._held_out import HeldOutLoss, digest_of, held_out
from solset.operators import PerSampleGradients
from solset.risk import EmpiricalRisk, Loss, digest, flat_rows, own_loss, require_logits


@dataclass(frozen=True, eq=False, repr=False)
class PointGoal(Goal):
    """A goal with one value for each of some points: a block, for which one factorisation serves all.

    Attributes:
        inputs: Inputs of the points, ``(k, *input)``, or a tree like that of the training inputs.
    """

    inputs: Any
    is_raised: bool = field(default=True, kw_only=True)

    @abstractmethod
    def of_outputs(self, risk: EmpiricalRisk, outputs: Tensor, first: int) -> Tensor:
        """The value of each point of a batch, ``(b,)``, as a differentiable function of its outputs.

        Args:
            risk: Empirical risk with the loss.
            outputs: Outputs of the batch, ``(b, *out)``.
            first: Place of the batch's first point among all.
        """

    def quantity(self, risk: EmpiricalRisk, weights: Tensor) -> Tensor:
        """The value of each point, ``(k,)``."""
        outputs = risk.forward(risk.layout.split(weights), held_out(risk, self.inputs))
        return self.of_outputs(risk, outputs, 0)

    def slopes(self, risk: EmpiricalRisk, weights: Tensor, held: Sequence[str] = ()) -> Slopes:
        """All values with their derivatives; arguments as for every goal.

        Cost: about one gradient of the points where per-sample gradients are computed by rules of layers.
        """
        if held:
            return super().slopes(risk, weights, held)
        inputs, there = held_out(risk, self.inputs), risk.at(weights)
        rows, parameters = PerSampleGradients(there), there.layout.split(weights)
        values, gradients = [], []
        for first in range(0, len(inputs), risk.batch_size):
            batch = inputs[first : first + risk.batch_size]
            with torch.no_grad():
                outputs = risk.forward(parameters, batch)
            with torch.enable_grad():
                leaf = outputs.detach().clone().requires_grad_()
                value = self.of_outputs(risk, leaf, first)
                (slope,) = torch.autograd.grad(value.sum(), leaf)
            values.append(value.detach())
            gradients.append(rows.rows(batch, flat_rows(slope)))
        return Slopes(torch.cat(values), torch.cat(gradients).T, is_block=True)

    def check(self, risk: EmpiricalRisk) -> None:
        """Refuses inputs that are not shaped like the problem's."""
        held_out(risk, self.inputs)

    def identity(self) -> dict[str, Any]:
        """The kind of the goal, and a digest of its points."""
        return {"kind": type(self).__name__, "points": digest_of(self.inputs), "raised": self.is_raised}


@dataclass(frozen=True, eq=False, repr=False)
class PointLosses(PointGoal):
    """The loss of each of some points by itself, as leave-one-out scores of a test set ask for it.

    Attributes:
        inputs: Inputs of the points, ``(k, *input)``, or a tree like that of the training inputs.
        targets: Targets of these points, ``(k, ...)``, as the loss takes them.
        loss: Function ``(outputs, targets) -> scalar``; the problem's by default.
    """

    targets: Any
    loss: Loss | None = None

    def describe(self) -> str:
        """The loss of each point."""
        return "loss of each held-out point"

    def of_outputs(self, risk: EmpiricalRisk, outputs: Tensor, first: int) -> Tensor:
        """The loss of each point of a batch; arguments as for every such goal."""
        targets = risk.points.target_rows(self.targets, risk.weights)[first : first + len(outputs)]
        loss = own_loss(risk, self.loss)
        parts = [loss(outputs[i : i + 1], targets[i : i + 1]).reshape(()) for i in range(len(outputs))]
        return torch.stack(parts)

    def check(self, risk: EmpiricalRisk) -> None:
        """Refuses inputs and targets as :class:`HeldOutLoss` does."""
        HeldOutLoss(self.inputs, self.targets, loss=self.loss).check(risk)

    def identity(self) -> dict[str, Any]:
        """What tells their mean from another, and the kind."""
        mean = HeldOutLoss(self.inputs, self.targets, self.is_raised, self.loss)
        return {**mean.identity(), "kind": "PointLosses"}


@dataclass(frozen=True, eq=False, repr=False)
class Prediction(PointGoal):
    """One output of the network at each of some points.

    Attributes:
        inputs: Inputs of the points, ``(k, *input)``, or a tree like that of the training inputs.
        output: Index of the output in the flattened outputs of a point, one for all points or one for each;
            ``None`` for the only output.
    """

    output: int | Sequence[int] | Tensor | None = None

    def describe(self) -> str:
        """The output that is meant."""
        return "the prediction" if self.output is None else f"output {self.output}"

    def of_outputs(self, risk: EmpiricalRisk, outputs: Tensor, first: int) -> Tensor:  # noqa: ARG002
        """The chosen output of each point of a batch; arguments as for every such goal."""
        rows = flat_rows(outputs)
        chosen = self._chosen(len(rows), first, rows.device)
        return rows.gather(1, chosen.unsqueeze(1)).squeeze(1)

    def check(self, risk: EmpiricalRisk) -> None:
        """Refuses inputs that do not fit, and outputs that the network does not have."""
        count, width = _sizes(risk, self.inputs)
        if self.output is None and width != 1:
            cure = f"Say which, as in {type(self).__name__}(..., output={width - 1})."
            raise bad_value("output", expected=f"one of the {width} outputs", got=None, cure=cure)
        chosen = torch.as_tensor(0 if self.output is None else self.output)
        if chosen.dtype != torch.int64 or tuple(chosen.shape) not in {(), (count,)}:
            cure = "Pass one index, or one for each point."
            raise bad_value("output", expected=f"an index, or {count} of them", got=self.output, cure=cure)
        if not bool(((chosen >= 0) & (chosen < width)).all()):
            cure = "Count outputs from 0."
            raise bad_value("output", expected=f"in 0..{width - 1}", got=self.output, cure=cure)

    def identity(self) -> dict[str, Any]:
        """As for every such goal, and the output."""
        chosen = torch.as_tensor(0 if self.output is None else self.output)
        return {**super().identity(), "output": chosen.tolist()}

    def _chosen(self, count: int, first: int, device: torch.device) -> Tensor:
        chosen = torch.as_tensor(0 if self.output is None else self.output, device=device)
        return chosen.expand(count) if chosen.ndim == 0 else chosen[first : first + count]


@dataclass(frozen=True, eq=False, repr=False)
class Margin(PointGoal):
    """The margin ``f_y - log Σ_{j≠y} exp f_j`` of a class above all others, at each of some points.

    That is the log-odds of the class under softmax (Park et al. 2023, equation 6). For a network with one
    output, a logit of class 1, it is that output with the sign of the class.

    Attributes:
        inputs: Inputs of the points, ``(k, *input)``, or a tree like that of the training inputs.
        labels: Class of each point, ``(k,)``.
    """

    labels: Tensor

    def describe(self) -> str:
        """The margin of each point."""
        return "margin of each point's class"

    def of_outputs(self, risk: EmpiricalRisk, outputs: Tensor, first: int) -> Tensor:  # noqa: ARG002
        """The margin of each point of a batch; arguments as for every such goal."""
        rows = flat_rows(outputs)
        labels = self.labels[first : first + len(rows)].to(rows.device).reshape(-1, 1)
        if rows.shape[1] == 1:
            return ((2 * labels - 1) * rows).squeeze(1)
        is_label = torch.arange(rows.shape[1], device=rows.device) == labels
        others = rows.masked_fill(is_label, -torch.inf)
        return rows.gather(1, labels).squeeze(1) - torch.logsumexp(others, dim=1)

    def check(self, risk: EmpiricalRisk) -> None:
        """Refuses inputs that do not fit, and labels that the network does not have."""
        require_logits(risk)
        count, width = _sizes(risk, self.inputs)
        cure = "Pass the class of each point as an integer."
        shaped("labels", self.labels, (count,), cure=cure)
        if self.labels.dtype != torch.int64:
            raise bad_value("labels", expected="of torch.int64", got=str(self.labels.dtype), cure=cure)
        last = max(width, 2) - 1
        if not bool(((self.labels >= 0) & (self.labels <= last)).all()):
            got = " to ".join(dict.fromkeys([str(int(self.labels.min())), str(int(self.labels.max()))]))
            raise bad_value("labels", expected=f"in 0..{last}", got=got, cure="Count classes from 0.")

    def identity(self) -> dict[str, Any]:
        """As for every such goal, and the classes."""
        return {**super().identity(), "labels": digest([self.labels])}


@dataclass(frozen=True, eq=False, repr=False)
class SmoothedAUROC(Goal):
    """The smoothed share of pairs that a score orders rightly: the mean of ``σ((s_i - s_j) / τ)``.

    Here ``i`` runs over the positive points and ``j`` over the negative ones. The area under the ROC curve,
    its limit for ``τ → 0``, has no derivative.

    Attributes:
        inputs: Inputs of the points, ``(k, *input)``, or a tree like that of the training inputs.
        is_positive: Whether each point is positive, ``(k,)``, a boolean tensor.
        output: Index of the output that is the score; ``None`` for the only output.
        temperature: Difference ``τ`` of scores, in output units, over which a pair goes from wrong to right.
        is_raised: Whether the share is to grow.
    """

    inputs: Any
    is_positive: Tensor
    output: int | None = None
    temperature: float = 1.0
    is_raised: bool = True

    def describe(self) -> str:
        """The share and its temperature."""
        return f"AUROC smoothed over {self.temperature:g}"

    def quantity(self, risk: EmpiricalRisk, weights: Tensor) -> Tensor:
        """The smoothed share."""
        scores = Prediction(self.inputs, self.output).quantity(risk, weights)
        pairs = scores[self.is_positive].unsqueeze(1) - scores[~self.is_positive]
        return torch.sigmoid(pairs / self.temperature).mean()

    def check(self, risk: EmpiricalRisk) -> None:
        """Refuses inputs and outputs that do not fit, and points that are all of one kind."""
        Prediction(self.inputs, self.output).check(risk)
        positive("temperature", self.temperature)
        cure = "Pass a boolean tensor with both kinds of points."
        shaped("is_positive", self.is_positive, (len(held_out(risk, self.inputs)),), cure=cure)
        if self.is_positive.dtype != torch.bool:
            raise bad_value(
                "is_positive", expected="of torch.bool", got=str(self.is_positive.dtype), cure=cure
            )
        if bool(self.is_positive.all()) or not bool(self.is_positive.any()):
            raise bad_value("is_positive", expected="points of both kinds", got="one kind", cure=cure)

    def identity(self) -> dict[str, Any]:
        """Digests of the points and their kinds, the output and the temperature."""
        points = digest_of(self.inputs, self.is_positive)
        settings = {"output": self.output, "temperature": self.temperature, "raised": self.is_raised}
        return {"kind": "SmoothedAUROC", "points": points, **settings}


def _sizes(risk: EmpiricalRisk, inputs: Any) -> tuple[int, int]:
    """The number of points, and of the network's outputs for each of them."""
    rows = held_out(risk, inputs)
    with torch.no_grad():
        outputs = risk.forward(risk.layout.split(risk.weights), rows[:1])
    return len(rows), flat_rows(outputs).shape[1]
