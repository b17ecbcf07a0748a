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

from solset.risk import mapped, plain_operations
from solset.training._adjustment import Adjustment
from solset.training._calculus import derivatives, leaf_of, pushed, require_second
from solset.training._data import Batch
from solset.training._optimizers import OptimizerStep
from solset.training._recipe import clipped_gradients
from solset.training._repetition import Repetition, buffers_after, displaced
from solset.training._second import wrong_rule, wrong_second
from solset.training._setting import Setting
from solset.training._slopes import BatchSlope, Graph, RuleSlope, Slope
from solset.training._state import Settings, State, own_randomness, set_randomness
from solset.training._statistics import Statistics
from solset.training._told import told

_OF_RULE = told(
    "optimizer",
    "one whose step PyTorch can differentiate",
    "Its step may use the parameters of its param_groups only, and operations that autograd sees.",
)
_SAME = 1e-4  # relative difference of a recorded loss and that by its points that is rounding


@dataclass(frozen=True, eq=False)
class Record:
    """What was written down about one step while training."""

    batch: list[int]  # Indices of the points that the recipe drew
    step: int  # Number of the step, from 0
    settings: Settings  # Numbers of the optimizer's groups, before any change of them
    randomness: tuple[Tensor, ...]  # States of the random generators before the step
    loss: float  # Loss of the batch
    skipped: Sequence[str] = ()  # Names of the trained parameters that had no gradient


class StepDerivative:
    """The derivative of recorded steps.

    Attributes:
        has_factors: Whether the loss of every batch so far came from those of its points.
        takes_rate: Whether the derivative in the learning rate is known.
        takes_decay: Whether the derivative in the weight decay is known.
        fault: Sentence that second derivatives of the first step seen are wrong; empty where none is.
        repetition: Differences between what the replay computes and what training did.
        is_looked_at: Whether the first step was seen.
        kinks_of_blocks: Entries of each block in which the rule had no derivative so far.
    """

    def __init__(self, setting: Setting, model: nn.Module, rule: OptimizerStep) -> None:
        named = {name: value for name, value in model.named_parameters() if value.requires_grad}
        self._setting, self._model, self._data, self._rule = setting, model, setting.data, rule
        self._names = list(named)
        self._by_points = setting.by_points
        self.has_factors = self._by_points is not None
        self._statistics = Statistics(model)
        self._device = next(iter(named.values())).device
        values = [value.detach() for value in named.values()]
        self.takes_rate, self.takes_decay = rule.takes_rate, rule.takes_decay
        self.is_looked_at, self.fault, self.repetition = False, "", Repetition()
        self._is_rule_known = not rule.is_own
        self.kinks_of_blocks = [torch.zeros_like(block, dtype=torch.bool) for block in rule.joined(values)]

    def pull(
        self, before: State, record: Record, after: State | None, slopes: Sequence[Slope]
    ) -> list[tuple[Slope, BatchSlope, RuleSlope]]:
        """The adjoint of the step: derivatives of goals in the state before it, its batch and its settings.

        Cost: one gradient of the batch, and one double backward pass over it per goal.
        """
        graph = self._graph(before, record, after)
        return [self._pull_one(before, record, graph, slope) for slope in slopes]

    def _pull_one(
        self, before: State, record: Record, graph: Graph, slope: Slope
    ) -> tuple[Slope, BatchSlope, RuleSlope]:
        direct, through, slots = self._pull_rule(before, record, graph, slope)
        settings = self._setting.adjustment.adjusted(record.settings)
        decay = self._rule.decay_slope(self._blocks(before), graph.used, slope.parameters, through, settings)
        rate = 0.0
        if self.takes_rate:
            moves = self._rate_moves(before, record, graph)
            rate = sum(float((a * b).sum()) for a, b in zip(slope.parameters, moves, strict=True))
        weights = [*through, *(slope.buffers[name] for name in graph.buffers)]
        starts = [*graph.leaves, *graph.statistics.values()]
        parts = derivatives([*graph.clipped, *graph.buffers.values()], starts, weights, keep_graph=True)
        count, width = len(graph.parameters), len(graph.leaves)
        inside = iter(parts[count:width])
        batch = BatchSlope(*(None if leaf is None else next(inside) for leaf in graph.batch))
        buffers = {**slope.buffers, **dict(zip(graph.statistics, parts[width:], strict=True))}
        total = [a + b for a, b in zip(direct, parts[:count], strict=True)]
        return Slope(total, slots, buffers), batch, RuleSlope(decay, rate)

    @torch.enable_grad()  # under no_grad the change of the gradient had no graph, and counted as constant
    def push(
        self,
        before: State,
        record: Record,
        after: State | None,
        slope: Slope,
        batch: BatchSlope,
        rule: Adjustment,
    ) -> Slope:
        """The tangent of the step: the change of the state after it.

        Cost: one gradient of the batch and two double backward passes over it.
        """
        graph = self._graph(before, record, after)
        changes = [change for change, leaf in zip(batch.parts, graph.batch, strict=True) if leaf is not None]
        tangents = [*slope.parameters, *(change for change in changes if change is not None)]
        slopes = derivatives([graph.loss], graph.leaves, keep_graph=True, create_graph=True)
        along = sum((a * b).sum() for a, b in zip(slopes, tangents, strict=True))
        gradients = derivatives([torch.as_tensor(along)], graph.parameters, keep_graph=True)
        clipping = [gradient.detach().requires_grad_() for gradient in graph.gradients]
        with torch.enable_grad():
            clipped = clipped_gradients(clipping, self._setting.clip_norm)
        gradients = pushed(clipped, clipping, gradients)
        settings = self._setting.adjustment.adjusted(record.settings)
        of_gradients, of_weights = self._rule.decay_changes(
            self._blocks(before), graph.used, settings, rule.decays
        )
        gradients = [a + b for a, b in zip(gradients, of_gradients, strict=True)]
        parameters, slots = self._push_rule(before, record, graph, slope, gradients)
        parameters = [a + b for a, b in zip(parameters, of_weights, strict=True)]
        if rule.rate:
            moves = self._rate_moves(before, record, graph)
            parameters = [a + rule.rate * b for a, b in zip(parameters, moves, strict=True)]
        starts = [*graph.leaves, *graph.statistics.values()]
        directions = [*tangents, *(slope.buffers[name] for name in graph.statistics)]
        moved = pushed(list(graph.buffers.values()), starts, directions) if graph.buffers else []
        return Slope(parameters, slots, {**slope.buffers, **dict(zip(graph.buffers, moved, strict=True))})

    @property
    def kinks(self) -> list[Tensor]:
        """The entries of each trained parameter in which the optimizer's rule had no derivative at some step.

        Their share is left out.
        """
        return self._rule.split(self.kinks_of_blocks)

    @property
    def doubts(self) -> str:
        """What speaks against the derivative of the steps so far, or nothing."""
        return "; ".join(filter(None, (self.fault, *self.repetition.sentences)))

    def joined(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Tensors for each trained parameter as those for each block.

        Args:
            tensors: Tensor for each parameter, in the order of ``named_parameters``.
        """
        return self._rule.joined(tensors)

    def flat(self, blocks: Sequence[Tensor]) -> Tensor:
        """Tensors for each block as one flat vector, ``(p,)``, in the order of ``named_parameters``."""
        return torch.cat([part.reshape(-1) for part in self._rule.split(blocks)])

    def zero_buffers(self, state: State) -> dict[str, Tensor]:
        """Zeros for each running statistic that training moves."""
        return {name: torch.zeros_like(state.buffers[name]) for name in self._statistics.names}

    def batch_leaves(self, record: Record) -> list[Tensor | None]:
        """Inputs, targets and factors of a batch as fresh leaves; ``None`` for what has no derivative."""
        return self._leaves(self._data.batch(self._data.of_step(record.batch, record.step)))

    def _batch(self, record: Record) -> Batch:
        """The points of a step, as the step itself read them."""
        return self._data.in_step.batch(self._data.of_step(record.batch, record.step))

    def _leaves(self, batch: Batch) -> list[Tensor | None]:
        features = [self._data.features_in(part.inputs) for part in batch.parts]
        targets = [part.targets for part in batch.parts]
        numbers = {"device": self._device, "dtype": next(self._model.parameters()).dtype}
        factors = torch.ones(batch.count) if batch.factors is None else batch.factors
        parts = [leaf_of(features), leaf_of(targets)]
        given = [factors, batch.shares] if self.has_factors else [None, None]
        return parts + [None if each is None else leaf_of([each.to(**numbers)]) for each in given]

    def _graph(self, before: State, record: Record, end: State | None) -> Graph:
        parameters = self._blocks(before)
        statistics = {name: before.buffers[name].clone().requires_grad_() for name in self._statistics.names}
        with own_randomness(self._device), torch.enable_grad(), plain_operations(self._device):
            set_randomness(record.randomness, self._device)
            batch = self._batch(record)
            leaves = self._leaves(batch)
            batch = batch.at(self._data, *leaves)
            with self._statistics.following(statistics) as buffers, buffers_after(self._model) as after:
                pieces = self._rule.split(parameters)
                state = self._state(before, pieces)
                outputs = self._setting.outputs(
                    batch, lambda inputs: self._output(state, inputs), self._device
                )
            self._look_at_buffers(before, record, parameters, leaves, after)
            loss = self._loss(batch, outputs, record)
            used = [name not in record.skipped for name in self._names]
            slopes = zip(derivatives([loss], pieces, keep_graph=True, create_graph=True), used, strict=True)
            gradients = self._rule.joined([s if is_used else torch.zeros_like(s) for s, is_used in slopes])
            if not self.is_looked_at:
                require_second(gradients)
                self.is_looked_at = True
                self.fault = self._fault(before, record, parameters, leaves)
            clipped = clipped_gradients(gradients, self._setting.clip_norm)
        return Graph(parameters, statistics, leaves, loss, gradients, clipped, used, buffers, end)

    def _again(
        self,
        before: State,
        record: Record,
        values: Sequence[Tensor],
        features: Tensor | None,
        others: Sequence[Tensor | None],
    ) -> tuple[Batch, list[Any]]:
        """The batch and the outputs of a step at other weights and features, in their precision."""
        set_randomness(record.randomness, self._device)
        batch = self._batch(record).at(self._data, None, *others).to(values[0].dtype)
        batch = batch.at(self._data, features, None, None, None)
        state = self._state(before, self._rule.split(values))
        state = {name: _as(value, values[0]) for name, value in state.items()}
        return batch, self._setting.outputs(batch, lambda inputs: self._output(state, inputs), self._device)

    def _look_at_buffers(
        self,
        before: State,
        record: Record,
        parameters: Sequence[Tensor],
        leaves: Sequence[Tensor | None],
        after: Mapping[str, Tensor],
    ) -> None:
        """Notes buffers that the step moves, and that no derivative follows."""

        @torch.no_grad()
        def again() -> Mapping[str, Tensor]:
            values, features = [displaced(value) for value in parameters], leaves[0]
            with buffers_after(self._model) as elsewhere:
                moved = None if features is None else displaced(features)
                self._again(before, record, values, moved, leaves[1:])
            return elsewhere

        followed = set(self._statistics.names)
        others = {name: value for name, value in before.buffers.items() if name not in followed}
        self.repetition.look(others, after, again)

    def _fault(
        self, before: State, record: Record, parameters: Sequence[Tensor], leaves: Sequence[Tensor | None]
    ) -> str:
        """The sentence that second derivatives of a step are wrong, or nothing."""
        features, *others = leaves
        count = len(parameters)

        def loss(values: Sequence[Tensor]) -> Tensor:
            moved = values[count] if values[count:] else None
            batch, outputs = self._again(before, record, values[:count], moved, others)
            if self._by_points is not None and self.has_factors:
                return self._by_points.of_batch(batch, outputs)
            return self._setting.loss(outputs[0], batch.parts[0].targets)

        values = [each.detach() for each in ([*parameters] if features is None else [*parameters, features])]
        return wrong_second(loss, values, count)

    def _output(self, state: Mapping[str, Tensor], inputs: Any) -> Any:
        augment = self._setting.augment
        if augment is not None:  # it may write to its inputs, and those are leaves
            inputs = augment(mapped(inputs, _copied))
        return self._setting.call.at(self._model, state, inputs)

    def _loss(self, batch: Batch, outputs: Sequence[Any], record: Record) -> Tensor:
        """The loss of a batch by its points where it comes from them, as the recorded one did."""
        whole = self._setting.loss(outputs[0], batch.parts[0].targets)
        if self._by_points is not None and self.has_factors:
            loss = self._by_points.of_batch(batch, outputs)
            self.repetition.compare(record.step, record.loss, [loss, whole], outputs[0])
            value = float(loss.detach())
            if any(
                abs(value - other) <= _SAME * max(abs(other), 1e-30)
                for other in (record.loss, float(whole.detach()))
            ):
                return loss
            self.has_factors = False
            return whole
        self.repetition.compare(record.step, record.loss, [whole], outputs[0])
        return whole

    def _state(self, before: State, parameters: Sequence[Tensor]) -> dict[str, Tensor]:
        held = {k: v.detach() for k, v in self._model.named_parameters()}
        buffers = {name: value.clone() for name, value in before.buffers.items()}
        return {**held, **buffers, **dict(zip(self._names, parameters, strict=True))}

    def _blocks(self, before: State) -> list[Tensor]:
        values = [before.parameters[name].detach() for name in self._names]
        return [block.clone().requires_grad_() for block in self._rule.joined(values)]

    @_OF_RULE
    def _rate_moves(self, before: State, record: Record, graph: Graph) -> list[Tensor]:
        """The derivative of the weights after the step in a relative change of the learning rate."""
        settings = self._setting.adjustment.adjusted(record.settings)
        gradients = [gradient.detach() for gradient in graph.clipped]
        with torch.no_grad():
            moves = self._rule.rate_moves(self._blocks(before), gradients, before, graph.used, settings)
        return self._without_kinks(moves, [(i, "") for i in range(len(moves))])

    @torch.enable_grad()
    def _rule_graph(
        self, before: State, record: Record, graph: Graph
    ) -> tuple[list[Tensor], list[Tensor], list[tuple[int, str]], list[tuple[int, str]]]:
        """Leaves and ends of the optimizer's rule, with the places of its slots before and after."""
        parameters = self._blocks(before)
        gradients = [gradient.detach().clone().requires_grad_() for gradient in graph.clipped]
        slots = self._rule.moving_slots(before)
        settings = self._setting.adjustment.adjusted(record.settings)
        for slot in slots:
            for tensor in slot.values():
                tensor.requires_grad_()
        moved, after = self._rule(parameters, gradients, slots, before, graph.used, settings)
        if graph.end is not None:
            end = self._rule.joined([graph.end.parameters[name] for name in self._names])
            self.repetition.compare_weights(record.step, parameters, moved, end, gradients)
        places, after_places = (
            [(i, name) for i, slot in enumerate(s) for name in slot] for s in (slots, after)
        )
        starts = [*parameters, *gradients, *(slots[place][name] for place, name in places)]
        ends = [*moved, *(after[place][name] for place, name in after_places)]
        if not self._is_rule_known:
            self._is_rule_known, n = True, len(parameters)

            def rule(values: Sequence[Tensor]) -> list[Tensor]:
                inside = iter(values[2 * n :])
                given = [{name: next(inside) for name in slot} for slot in slots]
                new, its = self._rule(values[:n], values[n : 2 * n], given, before, graph.used, settings)
                return [*new, *(its[place][name] for place, name in after_places)]

            self.fault = "; ".join(dict.fromkeys(filter(None, (self.fault, wrong_rule(rule, starts)))))
        return starts, ends, places, after_places

    @_OF_RULE
    def _pull_rule(
        self, before: State, record: Record, graph: Graph, slope: Slope
    ) -> tuple[list[Tensor], list[Tensor], dict[tuple[int, str], Tensor]]:
        starts, ends, places, after_places = self._rule_graph(before, record, graph)
        count = len(self._rule.blocks)
        weights = [*slope.parameters]
        weights += [
            slope.slots.get(place, torch.zeros_like(end))
            for place, end in zip(after_places, ends[count:], strict=True)
        ]
        parts = self._without_kinks(derivatives(ends, starts, weights), places)
        slots = dict(zip(places, parts[2 * count :], strict=True))
        return parts[:count], parts[count : 2 * count], slots

    @_OF_RULE
    def _push_rule(
        self,
        before: State,
        record: Record,
        graph: Graph,
        slope: Slope,
        gradients: Sequence[Tensor],
    ) -> tuple[list[Tensor], dict[tuple[int, str], Tensor]]:
        starts, ends, places, after_places = self._rule_graph(before, record, graph)
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
                is_like = is_kink.shape == self.kinks_of_blocks[place].shape
                self.kinks_of_blocks[place] |= is_kink if is_like else is_kink.any()
                part = torch.where(is_kink, 0.0, part)  # noqa: PLW2901
            cleaned.append(part)
        return cleaned


def _copied(value: Any, _: str) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _as(value: Tensor, like: Tensor) -> Tensor:
    return value.to(like.dtype) if value.is_floating_point() else value
