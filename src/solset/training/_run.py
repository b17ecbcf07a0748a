"""One recorded run of a training, and its derivative in the data."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from solset.changes import Change, PointChange, require_change
from solset.checks import checked
from solset.errors import SolsetWarning, bad_type, bad_value
from solset.risk import plain_operations
from solset.training._calculus import derivatives
from solset.training._data import Data, is_mean, losses_of
from solset.training._optimizers import OptimizerStep
from solset.training._results import (
    RecipeKinks,
    Retraining,
    RunAttribution,
    RunEstimate,
    Smoothness,
    retraining,
)
from solset.training._setting import Loop, Setting
from solset.training._state import (
    State,
    capture,
    own_randomness,
    put_settings,
    restore,
    set_randomness,
    trained,
)
from solset.training._statistics import with_plain_statistics
from solset.training._step import BatchSlope, Record, Slope, StepDerivative
from solset.training._tape import Tape

Rerun = Callable[[Data, bool | None], tuple[nn.Module, list[float]]]
Goal = Callable[[nn.Module], Tensor]


class Run:
    """A training that was run once, with the record from which its derivative is computed.

    Attributes:
        model: Trained module, in evaluation mode.
        initial: Initial value of each trained parameter, by name.
    """

    def __init__(
        self,
        setting: Setting,
        tape: Tape,
        model: nn.Module,
        end: State,
        initial: Mapping[str, Tensor],
        rerun: Rerun,
    ) -> None:
        self.initial, self._setting, self._tape, self._end, self._rerun = initial, setting, tape, end, rerun
        self.model = model.eval()
        self._device = next(model.parameters()).device
        self._is_mean = self._loss_is_mean()

    @property
    def weights(self) -> Tensor:
        """Weights at the end, flat ``(p,)``, in ``named_parameters`` order."""
        return torch.cat([value.reshape(-1) for value in self._end.parameters.values()])

    @property
    def losses(self) -> list[float]:
        """Loss of each step's batch."""
        return [record.loss for record in self._tape.records]

    @property
    def batches(self) -> list[list[int]]:
        """Indices of the points of each step's batch."""
        return [record.batch for record in self._tape.records]

    @property
    def stride(self) -> int:
        """Number of steps from one kept state to the next; those between are computed again when needed."""
        return self._tape.stride

    def __repr__(self) -> str:
        losses = self.losses
        return f"Run({len(losses)} steps, loss of a batch {losses[0]:.3g} to {losses[-1]:.3g})"

    def estimate(self, change: Change, *, smoothness: bool = True, tolerance: float = 0.2) -> RunEstimate:
        """Where the same recipe would have ended on changed data, by the tangent of the run.

        Args:
            change: Change of the training data.
            smoothness: Whether the prediction is compared with two real reruns, at the whole change and half
                of it.
            tolerance: Relative error up to which the derivative is said to hold.

        Warns:
            SolsetWarning: If the reruns show that the derivative does not hold at this scale, or entries of
            the
                weights have none.

        Cost: about three trainings for the tangent, and two for the reruns.
        """
        points = self._points_of(change)
        slope, direction, kinks = self._tangent(points)
        measured = self._smoothness(change, direction, (1.0, 0.5), tolerance) if smoothness else None
        shapes = {name: value.shape for name, value in self._end.parameters.items()}
        buffers = {name: self._end.buffers[name] + part for name, part in slope.buffers.items()}
        result = RunEstimate(self.weights + direction, direction, buffers, measured, kinks, shapes)
        if result.message:
            warnings.warn(result.message, SolsetWarning, stacklevel=2)
        return result

    def retrain(self, change: Change, *, scale: float = 1.0, progress: bool | None = None) -> Retraining:
        """The truth: the same recipe, with the same seed, really run on changed data.

        A removed point keeps its place in its batches with factor 0, and the mean of the batch is over the
        others; the order of all points stays. Layers that see the whole batch still see the point.

        Args:
            change: Change of the training data.
            scale: Part of the change that is made.
            progress: Whether to show a progress bar; by default only on a terminal.

        Cost: one training.
        """
        require_change(change)
        data = self._setting.data
        changed = data.changed(change.of_points(len(data), lambda: data.space), scale)
        model, losses = self._rerun(changed, progress)
        return retraining(model, losses, self.weights)

    def smoothness(
        self, change: Change, *, scales: Sequence[float] = (1.0, 0.5, 0.1, 0.01), tolerance: float = 0.2
    ) -> Smoothness:
        """How well the derivative predicts real reruns, at several parts of a change.

        Args:
            change: Change of the training data.
            scales: Parts of the change to which training is run again, from large to small.
            tolerance: Relative error up to which the derivative is said to hold.

        Cost: about three trainings for the tangent, and one for each scale.
        """
        _, direction, _ = self._tangent(self._points_of(change))
        return self._smoothness(change, direction, tuple(scales), tolerance)

    @checked
    def attribute(self, goal: Goal) -> RunAttribution:
        """The derivative of a goal in every feature, target and weight of every training point.

        One replay of the run from its end to its start (Maclaurin et al. 2015) gives all of them.

        Args:
            goal: Function of the trained module, in evaluation mode, that returns one number, such as the
                loss on held-out points.

        Raises:
            TypeError: If the goal does not return a tensor.
            ValueError: If it is not one number, or does not depend on the weights.

        Warns:
            SolsetWarning: If entries of the weights have no derivative.

        Cost: about three trainings.
        """
        return self.attribute_all([goal])[0]

    def attribute_all(self, goals: Sequence[Goal]) -> list[RunAttribution]:
        """The derivatives of several goals from one replay; see :meth:`attribute`.

        Args:
            goals: Functions of the trained module.

        Cost: one training, and about two more for each goal.
        """
        derivative = self._derivative()
        measured = [self._cotangent(goal, derivative) for goal in goals]
        slopes = [slope for _, slope in measured]
        totals = [_Totals(len(self._setting.data)) for _ in goals]
        for before, record in self._backward():
            pulled = derivative.pull(before, record, slopes)
            slopes = [slope for slope, _ in pulled]
            for total, (_, batch) in zip(totals, pulled, strict=True):
                total.add(record, batch)
        kinks = self._kinks(derivative)
        if kinks:
            warnings.warn(str(kinks), SolsetWarning, stacklevel=3)
        notes = (str(kinks),) if kinks else ()
        if not self._is_mean:
            notes += ("no derivative in the points' factors: the loss is no mean over the points of a batch",)
        return [
            RunAttribution(
                value,
                total.parts[2],
                total.parts[0],
                total.parts[1],
                notes=notes,
                initial=derivative.flat(slope.parameters),
                kinks=kinks,
            )
            for (value, _), total, slope in zip(measured, totals, slopes, strict=True)
        ]

    def _points_of(self, change: Change) -> PointChange:
        require_change(change)
        points = change.of_points(len(self._setting.data), lambda: self._setting.data.space)
        if points.factors is not None and not self._is_mean:
            raise bad_value(
                "change",
                expected="a change of features, since the loss is no mean over the points of a batch",
                got=repr(change),
                cure="Use a loss that is the mean of each point's own loss.",
            )
        return points

    def _loss_is_mean(self) -> bool:
        loss = self._setting.loss
        inputs, targets, _ = self._setting.data.batch(self._tape.records[0].batch)
        with torch.no_grad():
            outputs = self._setting.call(self.model, inputs)
            return is_mean(loss(outputs, targets), losses_of(loss)(outputs, targets))

    def _derivative(self) -> StepDerivative:
        model, optimizer = self._setting.pair()
        rule = OptimizerStep(optimizer, list(trained(model).values()))
        return StepDerivative(self._setting, model, rule, is_mean=self._is_mean)

    def _kinks(self, derivative: StepDerivative) -> RecipeKinks:
        counts = zip(self._end.parameters, derivative.kinks, strict=True)
        entries = {name: int(kinks.sum()) for name, kinks in counts if bool(kinks.any())}
        return RecipeKinks(entries, self._setting.data.silent_features() if entries else ())

    def _cotangent(self, goal: Goal, derivative: StepDerivative) -> tuple[float, Slope]:
        leaves = {name: value.clone().requires_grad_() for name, value in self._end.parameters.items()}
        zeros = derivative.zero_buffers(self._end)
        statistics = {name: self._end.buffers[name].clone().requires_grad_() for name in zeros}
        named = {f"model.{name}": value for name, value in {**leaves, **statistics}.items()}
        measured = _Measured(with_plain_statistics(self.model), goal)
        with torch.enable_grad(), plain_operations(self._device):
            value = functional_call(measured, named, ())
        if not isinstance(value, Tensor):
            raise bad_type("goal", expected="a tensor as its value", got=type(value).__name__, cure=_CURE)
        if value.numel() != 1 or not value.requires_grad:
            got = (
                f"shape {tuple(value.shape)}"
                if value.numel() != 1
                else "a number that does not depend on them"
            )
            raise bad_value("goal", expected="one number that depends on the weights", got=got, cure=_CURE)
        parts = derivatives([value], [*leaves.values(), *statistics.values()])
        buffers = dict(zip(statistics, parts[len(leaves) :], strict=True))
        return float(value.detach()), Slope(derivative.joined(parts[: len(leaves)]), {}, buffers)

    def _tangent(self, points: PointChange) -> tuple[Slope, Tensor, RecipeKinks]:
        """The change of the state at the end, that of the weights as a flat vector, and the kinks."""
        derivative = self._derivative()
        zeros = derivative.joined([torch.zeros_like(value) for value in self._end.parameters.values()])
        slope = Slope(zeros, {}, derivative.zero_buffers(self._end))
        for before, record in self._forward():
            slope = derivative.push(before, record, slope, _of_batch(derivative, record, points))
        return slope, derivative.flat(slope.parameters), self._kinks(derivative)

    def _smoothness(
        self, change: Change, direction: Tensor, scales: tuple[float, ...], tolerance: float
    ) -> Smoothness:
        errors = []
        for scale in scales:
            real = self.retrain(change, scale=scale, progress=False).change
            length = float(real.norm())
            errors.append(float((real - scale * direction).norm()) / length if length else 0.0)
        holding = [scale for i, scale in enumerate(scales) if max(errors[i:]) <= tolerance]
        is_falling = all(after <= 0.7 * before for before, after in zip(errors, errors[1:], strict=False))
        return Smoothness(scales, tuple(errors), max(holding, default=0.0), tolerance, is_falling)

    def _forward(self) -> Iterator[tuple[State, Record]]:
        """The steps from the first to the last, each with the state before it."""
        for segment in self._tape.segments():
            yield from zip(
                self._states(segment), self._tape.records[segment.start : segment.stop], strict=True
            )

    def _backward(self) -> Iterator[tuple[State, Record]]:
        """The steps from the last to the first, each with the state before it."""
        for segment in reversed(list(self._tape.segments())):
            states = list(self._states(segment))
            yield from zip(
                reversed(states), reversed(self._tape.records[segment.start : segment.stop]), strict=True
            )

    def _states(self, segment: range) -> Iterator[State]:
        """The states before the steps of a segment; those that were not kept are computed again."""
        state = self._tape.state(segment.start)
        yield state
        if len(segment) == 1:
            return
        model, optimizer = self._setting.pair()
        loop = Loop(self._setting, model, optimizer, self._setting.data)
        restore(state, loop.model, loop.optimizer)
        for step in segment[:-1]:
            record = self._tape.records[step]
            with own_randomness(self._device):
                set_randomness(record.randomness, self._device)
                put_settings(record.settings, loop.optimizer)
                loop.step(record.batch)
            yield capture(loop.model, loop.optimizer)


_CURE = "Write a function of the module that returns a scalar tensor, such as lambda m: loss(m(x), y)."


class _Measured(nn.Module):
    """A model with a goal, so that the goal can be asked at other weights."""

    def __init__(self, model: nn.Module, goal: Goal) -> None:
        super().__init__()
        self.model, self._goal = model, goal

    def forward(self) -> Any:
        return self._goal(self.model)


class _Totals:
    """Sums of what each batch contributes, point by point."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.parts: list[Tensor | None] = [None, None, None]

    def add(self, record: Record, batch: BatchSlope) -> None:
        """Adds the derivatives in one batch to those of its points."""
        for place, part in enumerate(batch.parts):
            if part is None:
                continue
            total = self.parts[place]
            if total is None:
                total = self.parts[place] = part.new_zeros(self._count, *part.shape[1:])
            total.index_add_(0, torch.as_tensor(record.batch, device=part.device), part)


def _of_batch(derivative: StepDerivative, record: Record, change: PointChange) -> BatchSlope:
    """The change of one batch: zeros but for its points that change."""
    leaves = derivative.batch_leaves(record)
    parts = [None if leaf is None else torch.zeros_like(leaf) for leaf in leaves]
    places = {point: place for place, point in enumerate(change.points)}
    for place, given in ((0, change.features), (2, change.factors)):
        part = parts[place]
        if given is None or part is None:
            continue
        for row, point in enumerate(record.batch):
            if point in places:
                part[row] = given[places[point]]
    return BatchSlope(*parts)
