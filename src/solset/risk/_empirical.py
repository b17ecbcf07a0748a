"""The empirical risk ``E(x, w)`` of a network on data, as a function of both."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from solset import comm
from solset.risk._batching import Room, Routes, Sweep, in_batches
from solset.risk._door import Door
from solset.risk._layout import Layout, flat_rows, matching
from solset.risk._losses import WholeBatch, of_outputs, pointwise
from solset.risk._points import Indices, Points
from solset.risk._regularisation import Penalty, one_number
from solset.risk._settings import Settings

Loss = Callable[[Tensor, Tensor], Tensor]
Reduction = Literal["mean", "sum"]
Part = TypeVar("Part")


@dataclass(frozen=True)
class EmpiricalRisk:
    """``E(x, w) = α Σ L(f(x_i, w), y_i) + (λ/2)‖w‖²`` with ``α = 1/n`` for a mean and 1 for a sum.

    The risk is a value: moving the data or the weights gives another risk. The user's module is called
    functionally, with copies of its buffers, so nothing in it changes.

    If several processes share the work (see :mod:`solset.comm`), each takes its share of the points, and
    every process has every result.

    Attributes:
        model: Network ``f`` as a module.
        loss: Function ``(outputs, targets) -> scalar``; a :class:`WholeBatch` for one of all points at once.
        reduction: Kind of the loss: a ``"mean"`` or a ``"sum"`` over the points of a batch.
        points: Training points ``(x_i, y_i)``.
        layout: Names and shapes of the parameters that are the weights.
        weights: Weights ``w`` as a flat vector, ``(p,)``.
        weight_decay: Factor ``λ`` of the weight decay, 0 or more: one number for all weights, or a vector
            ``(p,)`` with the number of each.
        batch_size: Number of points per batch; results depend on it by rounding only. A batch that does not
            fit the memory is halved, with a warning.
        total: Number ``n`` in ``α``, or the sum of the factors of points that count unequally; unchanged if
            some of the points are selected.
        fixed: Values of held parameters and of buffers, by name; what is missing is read from the model.
        settings: Settings of the modules of model and loss at the time; empty where none are compared.
        room: Limit of the batch size since memory ran out.
        routes: Ways by which derivatives of the model come out right, as far as they were tried.
        door: Way in which a batch goes into the model, and its outputs come out.
        penalty: Function of all parameters by name that is added to the risk; ``None`` for none.
    """

    model: nn.Module
    loss: Loss
    reduction: Reduction
    points: Points
    layout: Layout
    weights: Tensor
    weight_decay: float | Tensor
    batch_size: int
    total: int | float
    fixed: Mapping[str, Tensor] = field(default_factory=dict)
    settings: Settings = field(default_factory=Settings, compare=False)
    room: Room = field(default_factory=Room, compare=False)
    routes: Routes = field(default_factory=Routes, compare=False)
    door: Door = field(default_factory=Door)
    penalty: Penalty | None = None

    def holding(self, model: nn.Module) -> "EmpiricalRisk":
        """The same risk of a model as it is now: training the model on does not change the risk.

        Parameters outside the layout and buffers are copied; other settings of a module are refused later.

        Args:
            model: The network, which is not changed.
        """
        state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        copies = {k: value.detach().clone() for k, value in state.items() if k not in self.layout.shapes}
        return replace(self, model=model, fixed=copies, settings=self.settings.of(model))

    def at(self, weights: Tensor) -> "EmpiricalRisk":
        """The same risk at other weights ``(p,)``."""
        return replace(self, weights=weights.detach())

    def move(self, points: Indices, dx: Tensor) -> "EmpiricalRisk":
        """The same risk with the inputs of ``points`` moved by ``dx``, ``(|K|, *input)``."""
        return replace(self, points=self.points.move(points, dx))

    @property
    def is_whole(self) -> bool:
        """Whether the loss is one of all outputs at once, which no point has by itself."""
        return isinstance(self.loss, WholeBatch)

    def of_outputs(self, slopes: Tensor) -> "EmpiricalRisk":
        """The risk ``Σ ⟨s_i, f(x_i, w)⟩`` of the outputs, without weight decay and penalty.

        With the slopes of a loss of all outputs it has the same gradient, and the part of the Hessian that
        comes from the curvature of the network.

        Args:
            slopes: Slope ``s_i`` in the outputs of each point, held, ``(n, c)``.
        """
        points = self.points

        def fetch(indices: Sequence[int]) -> tuple[Tensor, Tensor]:
            return points[indices][0], slopes[list(indices)]

        held = replace(points, fetch=fetch, moved={}, targets=None)
        return replace(
            self, points=held, loss=of_outputs, reduction="sum", total=len(points)
        ).without_regularisation()

    def select(self, points: Indices) -> "EmpiricalRisk":
        """The part of the risk that comes from these points: same ``α``, no weight decay."""
        return replace(self, points=self.points.select(points)).without_regularisation()

    def without_regularisation(self) -> "EmpiricalRisk":
        """The losses of the points alone: no weight decay, and no penalty."""
        return replace(self, weight_decay=0.0, penalty=None)

    def restrict(self, patterns: Sequence[str]) -> "EmpiricalRisk":
        """The same risk as a function of some of its weights; the others are held at their values.

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
        weights, decay = layout.join([parts[name] for name in chosen]), self.weight_decay
        if isinstance(decay, Tensor):
            decays = dict(zip(self.layout.shapes, self.layout.split(decay), strict=True))
            decay = one_number(layout.join([decays[name] for name in chosen]))
        fixed = {**self.fixed, **held}
        return replace(self, layout=layout, weights=weights, weight_decay=decay, fixed=fixed)

    @property
    def has_decay(self) -> bool:
        """Whether any weight decays."""
        return bool(torch.as_tensor(self.weight_decay > 0).any())

    @property
    def least_decay(self) -> float:
        """The smallest ``λ`` of any weight."""
        return float(torch.as_tensor(self.weight_decay).min())

    @property
    def share(self) -> range:
        """The places of this process's share of the points; of all points if there is one process."""
        return comm.share(len(self.points))

    def each(self, work: Callable[[int, Tensor, Tensor], Part]) -> Iterator[Part]:
        """The results of ``work`` on each batch of this process's share, in order.

        Args:
            work: Function of start index, inputs and targets of a batch; called again on half of the batch if
                memory runs out.
        """
        return in_batches(
            self.share, self.batch_size, self.room, lambda batch: work(batch.start, *self.points[batch])
        )

    def summed(self, zero: Tensor, work: Callable[[int, Tensor, Tensor], Tensor]) -> Tensor:
        """The sum of the results over all batches of all processes.

        Args:
            zero: Tensor of zeros with the shape, dtype and device of the result.
            work: As for :meth:`each`.
        """
        total = zero
        for part in self.each(work):
            total = total + part
        return comm.total(total)

    def joined(self, work: Callable[[int, Tensor, Tensor], Tensor]) -> Tensor:
        """The results for all points, ``(n, ...)``.

        Args:
            work: Function as for :meth:`each` whose result has a row per point.
        """
        parts = list(self.each(work))
        return comm.join(torch.cat(parts) if parts else None, device=self.weights.device)

    def leaves(self) -> list[Tensor]:
        """The weights as fresh parameter-shaped tensors that require grad."""
        return [part.detach().clone().requires_grad_() for part in self.layout.split(self.weights)]

    def forward(self, parameters: Sequence[Tensor], inputs: Tensor) -> Tensor:
        """Network outputs ``(b, *out)`` at parameter-shaped weights.

        Args:
            parameters: Parameter-shaped weights, in the order of the layout.
            inputs: Inputs of a batch, as :attr:`points` give them.

        Raises:
            TypeError: If the model returns anything but one tensor with a row per point.
            ValueError: If a module was set to something else since the risk was made.
        """
        outputs = self.door.tensor(self.returned(parameters, inputs), len(inputs))
        return outputs if torch.is_grad_enabled() else outputs.detach()

    def require_settings(self) -> None:
        """Refuses modules of model or loss that were set to something else since the risk was made.

        Raises:
            ValueError: If any was; says what to do.
        """
        self.settings.require_same()

    def returned(self, parameters: Sequence[Tensor], inputs: Tensor) -> Any:
        """What the model returns, after the choice among its outputs, as one tensor or a tree of them.

        Args:
            parameters: Parameter-shaped weights, in the order of the layout.
            inputs: Inputs of a batch, as :attr:`points` give them.

        Raises:
            ValueError: If a module was set to something else since the risk was made.
        """
        self.require_settings()
        state = {name: value.detach() for name, value in self.model.named_parameters()} | dict(self.fixed)
        buffers = {name: self.fixed.get(name, value) for name, value in self.model.named_buffers()}
        state |= {name: value.clone() for name, value in buffers.items()}  # a forward pass may change them
        state |= dict(zip(self.layout.shapes, parameters, strict=True))
        return self.door.call(self.model, state, self.points, inputs)

    def batch_scale(self, count: int) -> float:
        """The factor that turns the loss of a batch of ``count`` points into its share of the risk."""
        return count / self.total if self.reduction == "mean" else 1.0

    def batch_value(self, parameters: Sequence[Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
        """A batch's share of the risk, without weight decay."""
        return self.batch_scale(len(inputs)) * self.loss(self.forward(parameters, inputs), targets)

    def value(self) -> float:
        """``E(x, w)``, with weight decay. Cost: one forward pass over the data."""
        parameters = self.layout.split(self.weights)
        if self.is_whole:
            return float(self.loss(*self.outputs_and_targets())) + self._decay()

        def work(_: int, inputs: Tensor, targets: Tensor) -> Tensor:
            return self.batch_value(parameters, inputs, targets).reshape(1).to("cpu", torch.float64)

        with torch.no_grad():
            loss = self.summed(torch.zeros(1, dtype=torch.float64), work)
        return float(loss) + self._decay()

    def regularisation(self, parameters: Sequence[Tensor]) -> Tensor:
        """``½ Σ λ_j w_j²`` and the penalty, differentiable in parameter-shaped weights.

        Args:
            parameters: Parameter-shaped weights, in the order of the layout.
        """
        weights = self.layout.join(parameters)
        return 0.5 * ((self.weight_decay * weights) @ weights) + self.penalty_at(parameters)

    def penalty_at(self, parameters: Sequence[Tensor]) -> Tensor:
        """The penalty, differentiable in parameter-shaped weights; 0 without one.

        Args:
            parameters: Parameter-shaped weights, in the order of the layout.
        """
        if self.penalty is None:
            return self.weights.new_zeros(())
        named = {name: value.detach() for name, value in self.model.named_parameters()}
        held = {name: self.fixed.get(name, value) for name, value in named.items()}
        return self.penalty(held | dict(zip(self.layout.shapes, parameters, strict=True))).reshape(())

    def regularisation_gradient(self) -> Tensor:
        """The gradient of weight decay and penalty, ``(p,)``."""
        drift = self.weight_decay * self.weights
        if self.penalty is None:
            return drift
        leaves = self.leaves()
        with torch.enable_grad():
            value = self.penalty_at(leaves)
        parts = torch.autograd.grad(value, leaves, allow_unused=True, materialize_grads=True)
        return drift + self.layout.join(parts)

    @cached_property
    def loss_gradient(self) -> Tensor:
        """The gradient of the losses alone, ``(p,)``, computed at first use. Cost: one gradient."""
        return self.without_regularisation().gradient()

    def _decay(self) -> float:
        with torch.no_grad():
            return float(self.regularisation(self.layout.split(self.weights)))

    def gradient(self) -> Tensor:
        """``R(x, w) = ∇_w E``, ``(p,)``, with weight decay. Cost: one gradient."""
        return self.value_and_gradient()[1]

    def value_and_gradient(self) -> tuple[float, Tensor]:
        """``E(x, w)`` and ``∇_w E`` from the same passes, with weight decay. Cost: one gradient."""
        sweep = self.sweep()
        return sweep.value, sweep.gradient

    def sweep(self) -> Sweep:
        """Value, gradient, outputs and targets from the same passes. Cost: one gradient."""
        start = time.perf_counter()
        result = self._whole_sweep() if self.is_whole else self._sweep_by_batches()
        return replace(result, seconds=time.perf_counter() - start)

    def _sweep_by_batches(self) -> Sweep:
        value, gradient, outputs, targets = 0.0, torch.zeros_like(self.weights), [], []
        for part in self.each(self._batch_sweep):
            value, gradient = value + part.value, gradient + part.gradient
            outputs.append(part.outputs)
            targets.append(part.targets)
        value = float(comm.total(torch.tensor([value], dtype=torch.float64)))
        gradient = comm.total(gradient) + self.regularisation_gradient()
        device = self.weights.device
        outputs, targets = (
            comm.join(torch.cat(parts) if parts else None, device=device) for parts in (outputs, targets)
        )
        return Sweep(value + self._decay(), gradient, outputs, targets)

    def _whole_sweep(self) -> Sweep:
        """The sweep of a loss of all outputs: a forward pass gives its slopes, which are then pulled back."""
        outputs, targets = self.outputs_and_targets()
        leaf = outputs.requires_grad_()
        with torch.enable_grad():
            loss = self.loss(leaf, targets).reshape(())
        (slopes,) = torch.autograd.grad(loss, leaf, allow_unused=True, materialize_grads=True)
        gradient = self.of_outputs(flat_rows(slopes)).gradient() + self.regularisation_gradient()
        return Sweep(float(loss.detach()) + self._decay(), gradient, outputs.detach(), targets)

    def outputs_and_targets(self) -> tuple[Tensor, Tensor]:
        """Outputs ``(n, *out)`` and targets of all points, detached. Cost: one forward pass."""
        parameters = self.layout.split(self.weights)
        with torch.no_grad():
            parts = list(self.each(lambda _, x, y: (self.forward(parameters, x), y)))
        outputs, targets = (
            comm.join(torch.cat([part[i] for part in parts]) if parts else None, device=self.weights.device)
            for i in (0, 1)
        )
        return outputs.detach(), targets.detach()

    def _batch_sweep(self, _: int, inputs: Tensor, targets: Tensor) -> Sweep:
        """The share of one batch, without weight decay."""
        leaves = self.leaves()
        with torch.enable_grad():
            outputs = self.forward(leaves, inputs)
            share = self.batch_scale(len(inputs)) * self.loss(outputs, targets)
        parts = torch.autograd.grad(share, leaves, allow_unused=True, materialize_grads=True)
        return Sweep(float(share.detach()), self.layout.join(parts), outputs.detach(), targets.detach())

    def outputs(self) -> Tensor:
        """Network outputs flattened per point, ``(n, c)``. Cost: one forward pass."""
        parameters = self.layout.split(self.weights)
        with torch.no_grad():
            return self.joined(lambda _, inputs, __: flat_rows(self.forward(parameters, inputs)))

    def losses(self) -> Tensor:
        """Loss of each point by itself, ``(n,)``, without weight decay. Cost: one forward pass."""
        parameters = self.layout.split(self.weights)
        with torch.no_grad():
            return self.joined(lambda _, x, y: pointwise(self.loss, self.forward(parameters, x), y))

    def input_gradients(self) -> Tensor:
        """``∇_x L`` of each point by itself in its features, ``(n, *input)``. Cost: one gradient."""
        parameters = self.layout.split(self.weights)

        def work(_: int, inputs: Tensor, targets: Tensor) -> Tensor:
            leaf, batch = self.points.leaf(inputs)
            with torch.enable_grad():
                value = self.loss(self.forward(parameters, batch), targets)
            share = len(inputs) if self.reduction == "mean" else 1.0
            return share * torch.autograd.grad(value, leaf)[0]

        return self.joined(work)
