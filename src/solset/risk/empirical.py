"""The empirical risk ``E(x, w)`` of a network on data, as a function of both."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from solset.errors import bad_type
from solset.risk.layout import Layout, matching
from solset.risk.points import Indices, Points

Loss = Callable[[Tensor, Tensor], Tensor]
Reduction = Literal["mean", "sum"]


@dataclass(frozen=True)
class EmpiricalRisk:
    """``E(x, w) = α Σ L(f(x_i, w), y_i) + (λ/2)‖w‖²`` with ``α = 1/n`` for a mean and 1 for a sum.

    A value: moving the data or the weights gives another risk. The user's module is only ever called
    functionally, with copies of its buffers, so nothing in it changes.

    Attributes:
        model: The network ``f``.
        loss: ``(outputs, targets) -> scalar``.
        reduction: Whether the loss is a mean or a sum over the points of a batch.
        points: The data.
        layout: Which parameters are the weights.
        weights: ``w``, ``(p,)``.
        weight_decay: ``λ``.
        batch_size: Points per batch; results do not depend on it beyond rounding.
        total: ``n`` in ``α``; kept when only some of the points are looked at.
        fixed: Values of parameters that are held, by name; others outside the layout are the model's.
    """

    model: nn.Module
    loss: Loss
    reduction: Reduction
    points: Points
    layout: Layout
    weights: Tensor
    weight_decay: float
    batch_size: int
    total: int
    fixed: Mapping[str, Tensor] = field(default_factory=dict)

    def at(self, weights: Tensor) -> "EmpiricalRisk":
        """The same risk at other weights ``(p,)``."""
        return replace(self, weights=weights.detach())

    def move(self, points: Indices, dx: Tensor) -> "EmpiricalRisk":
        """The same risk on data whose ``points`` have moved by ``dx``, ``(|K|, *input)``."""
        return replace(self, points=self.points.move(points, dx))

    def select(self, points: Indices) -> "EmpiricalRisk":
        """The part of the risk that these points carry: same ``α``, no weight decay."""
        return replace(self, points=self.points.select(points), weight_decay=0.0)

    def restrict(self, patterns: Sequence[str]) -> "EmpiricalRisk":
        """The same risk as a function of some of its weights; the others are held where they are.

        Args:
            patterns: Shell-style patterns of parameter names; at least one weight must match each.

        Raises:
            TypeError: If the patterns are one string.
            ValueError: If a pattern matches no weight.
        """
        chosen = matching(self.layout.shapes, patterns)
        parts = dict(zip(self.layout.shapes, self.layout.split(self.weights), strict=True))
        layout = Layout({name: self.layout.shapes[name] for name in chosen})
        held = {name: part for name, part in parts.items() if name not in layout.shapes}
        weights = layout.join([parts[name] for name in chosen])
        return replace(self, layout=layout, weights=weights, fixed={**self.fixed, **held})

    def batches(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Start index, inputs and targets of each batch, in order."""
        for start in range(0, len(self.points), self.batch_size):
            stop = min(start + self.batch_size, len(self.points))
            inputs, targets = self.points[range(start, stop)]
            yield start, inputs, targets

    def leaves(self) -> list[Tensor]:
        """The weights as fresh parameter-shaped tensors that require grad."""
        return [part.detach().clone().requires_grad_() for part in self.layout.split(self.weights)]

    def forward(self, parameters: Sequence[Tensor], inputs: Tensor) -> Tensor:
        """Network outputs ``(b, *out)`` at parameter-shaped weights.

        Args:
            parameters: In the order of the layout.
            inputs: ``(b, *input)``.

        Raises:
            TypeError: If the model returns anything but one tensor with a row per point.
        """
        state = {name: value.detach() for name, value in self.model.named_parameters()}
        state |= {name: value.clone() for name, value in self.model.named_buffers()}
        state |= self.fixed
        state |= dict(zip(self.layout.shapes, parameters, strict=True))
        outputs = functional_call(self.model, state, (inputs,))
        if not isinstance(outputs, Tensor) or outputs.ndim == 0 or outputs.shape[0] != inputs.shape[0]:
            got = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
            raise bad_type(
                "model",
                expected="a module that returns one tensor with a row per point",
                got=got,
                cure="Wrap it so that it returns the logits.",
            )
        return outputs

    def batch_scale(self, count: int) -> float:
        """The factor that turns the loss of a batch of ``count`` points into its share of the risk."""
        return count / self.total if self.reduction == "mean" else 1.0

    def batch_value(self, parameters: Sequence[Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
        """A batch's share of the risk, without weight decay."""
        return self.batch_scale(len(inputs)) * self.loss(self.forward(parameters, inputs), targets)

    def value(self) -> float:
        """``E(x, w)``, with weight decay. Cost: one forward pass over the data."""
        parameters = self.layout.split(self.weights)
        with torch.no_grad():
            parts = [float(self.batch_value(parameters, x, y)) for _, x, y in self.batches()]
        return sum(parts) + 0.5 * self.weight_decay * float(self.weights @ self.weights)

    def gradient(self) -> Tensor:
        """``R(x, w) = ∇_w E``, ``(p,)``, with weight decay. Cost: one gradient."""
        return self.value_and_gradient()[1]

    def value_and_gradient(self) -> tuple[float, Tensor]:
        """``E(x, w)`` and ``∇_w E`` from the same passes, with weight decay. Cost: one gradient."""
        value, gradient, _ = self.sweep()
        return value, gradient

    def sweep(self) -> tuple[float, Tensor, Tensor]:
        """``E(x, w)``, ``∇_w E`` and the outputs ``(n, *out)`` from the same passes. Cost: one gradient."""
        value = 0.5 * self.weight_decay * float(self.weights @ self.weights)
        total, outputs = self.weight_decay * self.weights, []
        for _, inputs, targets in self.batches():
            leaves = self.leaves()
            with torch.enable_grad():
                found = self.forward(leaves, inputs)
                share = self.batch_scale(len(inputs)) * self.loss(found, targets)
            outputs.append(found.detach())
            parts = torch.autograd.grad(share, leaves, allow_unused=True, materialize_grads=True)
            value, total = value + float(share.detach()), total + self.layout.join(parts)
        return value, total, torch.cat(outputs)

    def outputs(self) -> Tensor:
        """Network outputs flattened per point, ``(n, c)``. Cost: one forward pass."""
        parameters = self.layout.split(self.weights)
        with torch.no_grad():
            return torch.cat([self.forward(parameters, x).flatten(1) for _, x, _ in self.batches()])

    def losses(self) -> Tensor:
        """Loss of each point by itself, ``(n,)``, without weight decay. Cost: one forward pass."""
        parameters = self.layout.split(self.weights)
        parts = []
        with torch.no_grad():
            for _, inputs, targets in self.batches():
                out = self.forward(parameters, inputs)
                parts += [self.loss(out[i : i + 1], targets[i : i + 1]) for i in range(len(inputs))]
        return torch.stack(parts).reshape(-1)

    def input_gradients(self) -> Tensor:
        """``∇_x L`` of each point by itself, ``(n, *input)``. Cost: one gradient."""
        parameters = self.layout.split(self.weights)
        parts = []
        for _, inputs, targets in self.batches():
            leaf = inputs.detach().clone().requires_grad_()
            with torch.enable_grad():
                value = self.loss(self.forward(parameters, leaf), targets)
            share = len(inputs) if self.reduction == "mean" else 1.0
            parts.append(share * torch.autograd.grad(value, leaf)[0])
        return torch.cat(parts)
