"""One recorded step of a training, and its derivative both ways.

With ``s = (w, state of the optimizer, buffers)`` a step is ``s⁺ = Φ(s; θ)``. It consists of the gradient of
a batch, clipping, and the rule of the optimizer. Each part is differentiated by itself, so that a weight in
which the rule has no derivative cannot spoil the others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from solset.risk import plain_operations
from solset.training._calculus import derivatives, pushed
from solset.training._data import losses_of, weighted_loss
from solset.training._optimizers import OptimizerStep, differentiable_slots
from solset.training._recipe import clipped_gradients
from solset.training._setting import Setting
from solset.training._state import Settings, State, own_randomness, set_randomness
from solset.training._statistics import Statistics


@dataclass(frozen=True, eq=False)
class Record:
    """What was written down about one step while training.

    Attributes:
        batch: Indices of the points of the batch.
        settings: Numbers of the optimizer's groups.
        randomness: States of the random generators before the step.
        loss: Loss of the batch.
    """

    batch: list[int]
    settings: Settings
    randomness: tuple[Tensor, ...]
    loss: float


@dataclass(frozen=True, eq=False)
class Slope:
    """A change of the state (tangent), or the derivative of a goal in the state (cotangent).

    Attributes:
        parameters: One tensor for each block of trained parameters.
        slots: Tensors of the optimizer's state, by place of the block and name; a missing one is zero.
        buffers: Tensors of the running statistics, by name; a missing one is zero.
    """

    parameters: list[Tensor]
    slots: Mapping[tuple[int, str], Tensor]
    buffers: Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class BatchSlope:
    """A change of a batch, or the derivative of a goal in it; ``None`` where there is none.

    Attributes:
        features: Tensor like the inputs, ``(b, *input)``; only for inputs of floating numbers.
        targets: Tensor like the targets, ``(b, ...)``; only for targets of floating numbers.
        factors: Tensor with one number per point, ``(b,)``; only for a loss that is a mean over points.
    """

    features: Tensor | None
    targets: Tensor | None
    factors: Tensor | None

    @property
    def parts(self) -> tuple[Tensor | None, ...]:
        """Features, targets and factors, in this order."""
        return self.features, self.targets, self.factors


@dataclass(frozen=True, eq=False)
class _Graph:
    """The gradient of a batch with the graph that leads to it."""

    parameters: list[Tensor]
    statistics: dict[str, Tensor]
    batch: list[Tensor | None]
    loss: Tensor
    gradients: list[Tensor]
    clipped: list[Tensor]
    buffers: dict[str, Tensor]

    @property
    def leaves(self) -> list[Tensor]:
        return [*self.parameters, *(leaf for leaf in self.batch if leaf is not None)]


class StepDerivative:
    """The derivative of recorded steps."""

    def __init__(self, setting: Setting, model: nn.Module, rule: OptimizerStep, *, is_mean: bool) -> None:
        named = {name: value for name, value in model.named_parameters() if value.requires_grad}
        self._setting, self._model, self._data, self._rule = setting, model, setting.data, rule
        self._names = list(named)
        self._losses = losses_of(setting.loss) if is_mean else None
        self._statistics = Statistics(model)
        self._device = next(iter(named.values())).device
        values = [value.detach() for value in named.values()]
        self._kinks = [torch.zeros_like(block, dtype=torch.bool) for block in rule.joined(values)]

    def pull(self, before: State, record: Record, after: Sequence[Slope]) -> list[tuple[Slope, BatchSlope]]:
        """The adjoint of the step: derivatives of goals in the state before it and in its batch.

        Args:
            before: State before the step.
            record: Record of the step that was taken.
            after: Derivatives of one or more goals in the state after the step.

        Cost: one gradient of the batch, and one double backward pass over it per goal.
        """
        graph = self._graph(before, record)
        return [self._pull_one(before, record, graph, slope) for slope in after]

    def _pull_one(
        self, before: State, record: Record, graph: _Graph, slope: Slope
    ) -> tuple[Slope, BatchSlope]:
        direct, through, slots = self._pull_rule(before, record, graph.clipped, slope)
        weights = [*through, *(slope.buffers[name] for name in graph.buffers)]
        starts = [*graph.leaves, *graph.statistics.values()]
        parts = derivatives([*graph.clipped, *graph.buffers.values()], starts, weights, keep_graph=True)
        count, width = len(graph.parameters), len(graph.leaves)
        inside = iter(parts[count:width])
        batch = BatchSlope(*(None if leaf is None else next(inside) for leaf in graph.batch))
        buffers = {**slope.buffers, **dict(zip(graph.statistics, parts[width:], strict=True))}
        total = [a + b for a, b in zip(direct, parts[:count], strict=True)]
        return Slope(total, slots, buffers), batch

    def push(self, before: State, record: Record, slope: Slope, batch: BatchSlope) -> Slope:
        """The tangent of the step: the change of the state after it.

        Args:
            before: State before the step.
            record: Record of the step that was taken.
            slope: Change of the state before the step.
            batch: Change of the batch, complete: each part that the batch has.

        Cost: one gradient of the batch and two double backward passes over it.
        """
        graph = self._graph(before, record)
        changes = [change for change, leaf in zip(batch.parts, graph.batch, strict=True) if leaf is not None]
        tangents = [*slope.parameters, *(change for change in changes if change is not None)]
        slopes = derivatives([graph.loss], graph.leaves, keep_graph=True, create_graph=True)
        along = sum((a * b).sum() for a, b in zip(slopes, tangents, strict=True))
        gradients = derivatives([torch.as_tensor(along)], graph.parameters, keep_graph=True)
        clipping = [gradient.detach().requires_grad_() for gradient in graph.gradients]
        with torch.enable_grad():
            clipped = clipped_gradients(clipping, self._setting.clip_norm)
        gradients = pushed(clipped, clipping, gradients)
        parameters, slots = self._push_rule(before, record, graph.clipped, slope, gradients)
        starts = [*graph.leaves, *graph.statistics.values()]
        directions = [*tangents, *(slope.buffers[name] for name in graph.statistics)]
        moved = pushed(list(graph.buffers.values()), starts, directions) if graph.buffers else []
        return Slope(parameters, slots, {**slope.buffers, **dict(zip(graph.buffers, moved, strict=True))})

    @property
    def kinks(self) -> list[Tensor]:
        """The entries of each trained parameter in which the optimizer's rule had no derivative at some step.

        Their share is left out.
        """
        return self._rule.split(self._kinks)

    def joined(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Tensors for each trained parameter as those for each block.

        Args:
            tensors: Tensor for each parameter, in the order of ``named_parameters``.
        """
        return self._rule.joined(tensors)

    def flat(self, blocks: Sequence[Tensor]) -> Tensor:
        """Tensors for each block as one flat vector, ``(p,)``, in the order of ``named_parameters``.

        Args:
            blocks: Tensor for each block.
        """
        return torch.cat([part.reshape(-1) for part in self._rule.split(blocks)])

    def zero_buffers(self, state: State) -> dict[str, Tensor]:
        """Zeros for each running statistic that training moves.

        Args:
            state: Any state of the training.
        """
        return {name: torch.zeros_like(state.buffers[name]) for name in self._statistics.names}

    def batch_leaves(self, record: Record) -> list[Tensor | None]:
        """Inputs, targets and factors of a batch as fresh leaves; ``None`` for what has no derivative.

        Args:
            record: Record of the step that was taken.
        """
        inputs, targets, factors = self._data.batch(record.batch)
        inputs = self._data.features_in(inputs)
        if factors is None:
            factors = torch.ones(len(record.batch))
        factors = factors.to(self._device, next(self._model.parameters()).dtype)
        return [_leaf(part) for part in (inputs, targets, factors if self._losses is not None else None)]

    def _graph(self, before: State, record: Record) -> _Graph:
        inputs, targets, _ = self._data.batch(record.batch)
        leaves = self.batch_leaves(record)
        inputs = inputs if leaves[0] is None else self._data.with_features(inputs, leaves[0])
        targets = targets if leaves[1] is None else leaves[1]
        parameters = self._blocks(before)
        statistics = {name: before.buffers[name].clone().requires_grad_() for name in self._statistics.names}
        with own_randomness(self._device), torch.enable_grad(), plain_operations(self._device):
            set_randomness(record.randomness, self._device)
            seen = inputs if self._setting.augment is None else self._setting.augment(inputs)
            with self._statistics.following(statistics) as buffers:
                state = self._state(before, self._rule.split(parameters))
                outputs = self._setting.call.at(self._model, state, seen)
            if self._losses is None or leaves[2] is None:
                loss = self._setting.loss(outputs, targets)
            else:
                loss = weighted_loss(self._losses(outputs, targets), leaves[2])
            gradients = derivatives([loss], parameters, keep_graph=True, create_graph=True)
            clipped = clipped_gradients(gradients, self._setting.clip_norm)
        return _Graph(parameters, statistics, leaves, loss, gradients, clipped, buffers)

    def _state(self, before: State, parameters: Sequence[Tensor]) -> dict[str, Tensor]:
        held = {k: v.detach() for k, v in self._model.named_parameters()}
        buffers = {name: value.clone() for name, value in before.buffers.items()}
        return {**held, **buffers, **dict(zip(self._names, parameters, strict=True))}

    def _blocks(self, before: State) -> list[Tensor]:
        values = [before.parameters[name].detach() for name in self._names]
        return [block.clone().requires_grad_() for block in self._rule.joined(values)]

    @torch.enable_grad()
    def _rule_graph(
        self, before: State, record: Record, clipped: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[Tensor], list[tuple[int, str]], list[tuple[int, str]]]:
        """Leaves and ends of the optimizer's rule, with the places of its slots before and after."""
        parameters = self._blocks(before)
        gradients = [gradient.detach().clone().requires_grad_() for gradient in clipped]
        slots = self._rule.joined_slots(before.slots)
        places = differentiable_slots(slots, parameters)
        for place, name in places:
            slots[place][name].requires_grad_()
        moved, after = self._rule(parameters, gradients, slots, record.settings)
        after_places = differentiable_slots(after, parameters)
        starts = [*parameters, *gradients, *(slots[place][name] for place, name in places)]
        ends = [*moved, *(after[place][name] for place, name in after_places)]
        return starts, ends, places, after_places

    def _pull_rule(
        self, before: State, record: Record, clipped: Sequence[Tensor], slope: Slope
    ) -> tuple[list[Tensor], list[Tensor], dict[tuple[int, str], Tensor]]:
        starts, ends, places, after_places = self._rule_graph(before, record, clipped)
        count = len(self._rule.blocks)
        weights = [*slope.parameters]
        weights += [
            slope.slots.get(place, torch.zeros_like(end))
            for place, end in zip(after_places, ends[count:], strict=True)
        ]
        parts = self._without_kinks(derivatives(ends, starts, weights), places)
        slots = dict(zip(places, parts[2 * count :], strict=True))
        return parts[:count], parts[count : 2 * count], slots

    def _push_rule(
        self,
        before: State,
        record: Record,
        clipped: Sequence[Tensor],
        slope: Slope,
        gradients: Sequence[Tensor],
    ) -> tuple[list[Tensor], dict[tuple[int, str], Tensor]]:
        starts, ends, places, after_places = self._rule_graph(before, record, clipped)
        count = len(self._rule.blocks)
        slots = [
            slope.slots.get(place, torch.zeros_like(start))
            for place, start in zip(places, starts[2 * count :], strict=True)
        ]
        parts = pushed(ends, starts, [*slope.parameters, *gradients, *slots])
        parts = self._without_kinks(parts, [(i, "") for i in range(count)] + after_places)
        return parts[:count], dict(zip(after_places, parts[count:], strict=True))

    def _without_kinks(self, parts: Sequence[Tensor], places: Sequence[tuple[int, str]]) -> list[Tensor]:
        """The parts with zeros where they are not finite; those entries are noted as kinks."""
        count = len(self._rule.blocks)
        of_parameter = [i % count for i in range(len(parts) - len(places))] + [place for place, _ in places]
        cleaned = []
        for part, place in zip(parts, of_parameter, strict=True):
            if not torch.isfinite(part.sum()):  # cheaper than to look at every entry
                is_kink = ~torch.isfinite(part)
                self._kinks[place] |= is_kink
                part = torch.where(is_kink, 0.0, part)  # noqa: PLW2901
            cleaned.append(part)
        return cleaned


def _leaf(part: Any) -> Tensor | None:
    if not isinstance(part, Tensor) or not part.is_floating_point():
        return None
    return part.detach().clone().requires_grad_()
