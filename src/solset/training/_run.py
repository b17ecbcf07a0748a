"""One recorded run of a training, and its derivative in the data."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from solset.attribution import require_names
from solset.changes import Change
from solset.checks import checked
from solset.errors import SolsetWarning, Status, bad_value
from solset.goals import Goals, Slopes, as_goals
from solset.results import plain
from solset.risk import digest
from solset.storage import Checkpoint, Identity, Probe
from solset.training._advice import Advice, advised
from solset.training._changed import at_scale, batch_change, changed, training_change
from solset.training._ended import Ended
from solset.training._goals import cotangents, slopes_at_end
from solset.training._instead import OF_RUN
from solset.training._losses import refuse_factors
from solset.training._optimizers import OptimizerStep
from solset.training._repetition import refuse_moved_parameters
from solset.training._replay import Replay
from solset.training._results import (
    NOT_ASKED,
    RecipeKinks,
    Rerun,
    RunAttribution,
    RunEstimate,
    Smoothness,
    retraining,
    sentences,
    smoothness_of,
    verified,
)
from solset.training._setting import Setting
from solset.training._slopes import Slope
from solset.training._state import State, trained
from solset.training._step import StepDerivative
from solset.training._sweep import Sweep, Totals, block, numbers
from solset.training._tape import Tape
from solset.training._told import told
from solset.training._verdict import checked_by_reruns

if TYPE_CHECKING:
    from solset.training._training import Training

TrainAgain = Callable[[Setting, bool | None], tuple[nn.Module, list[float]]]


TWICE = "one that can be differentiated twice, with its loss and augmentation"
LOOK = "Replace the operation that is named, or its fused kernel, by one with second derivatives."


class Run(Ended):
    """A training that was run once, with the record from which its derivative is computed.

    Attributes:
        model: Trained module, in evaluation mode.
        initial: Initial value of each trained parameter, by name.
        training: Recipe that was run; ``None`` for the record of a loop.
    """

    asked_by = OF_RUN

    def __init__(
        self,
        setting: Setting,
        tape: Tape,
        model: nn.Module,
        end: State,
        initial: Mapping[str, Tensor],
        rerun: TrainAgain,
        *,
        training: "Training | None" = None,
    ) -> None:
        super().__init__(setting, tape, model, end)
        self.training, self.initial, self._rerun = training, initial, rerun

    @checked
    def estimate(
        self,
        change: Change,
        *,
        verify: bool = True,
        tolerance: float = 0.2,
        progress: bool | None = None,
    ) -> RunEstimate:
        """Where the same recipe would have ended on changed data, by the tangent of the run.

        Args:
            change: Change of the training data.
            verify: Whether the prediction is compared with two real reruns, at the whole change and half
                of it.
            tolerance: Relative error up to which the derivative is said to hold.
            progress: Whether to show a progress bar; by default only on a terminal.

        Warns:
            SolsetWarning: If the reruns show that the derivative does not hold at this scale, or entries of
                the weights have none.

        Cost: about three trainings for the tangent, and two for the reruns.
        """
        slope, direction, kinks, fault = self._tangent(change, progress)
        measured = self._measured(change, direction, (1.0, 0.5), tolerance) if verify else None
        shapes = {name: value.shape for name, value in self._end.parameters.items()}
        buffers = {name: self._end.buffers[name] + part for name, part in slope.buffers.items()}
        result = RunEstimate(self.weights + direction, direction, buffers, measured, kinks, shapes, fault)
        if result.message:
            warnings.warn(result.message, SolsetWarning, stacklevel=3)
        return result

    @checked
    def retrain(self, change: Change, *, scale: float = 1.0, progress: bool | None = None) -> Rerun:
        """The truth: the same recipe, with the same seed, really run on changed data.

        The batches stay those of the seed. A removed point keeps its place in its batches with factor 0, and
        the mean of the batch is over the others; layers that see the whole batch still see the point. A new
        point joins one batch of every epoch, which is drawn from the seed (the last one where the recipe does
        not shuffle), and goes through the model after the others of the batch.

        Args:
            change: Change of the training data.
            scale: Part of the change that is made.
            progress: Whether to show a progress bar; by default only on a terminal.

        Cost: one training.
        """
        model, losses = self._rerun(changed(self._setting, change, scale), progress)
        return retraining(model, losses, self.weights)

    @checked
    def smoothness(
        self,
        change: Change,
        *,
        scales: Sequence[float] = (1.0, 0.5, 0.1, 0.01),
        tolerance: float = 0.2,
        progress: bool | None = None,
    ) -> Smoothness:
        """How well the derivative predicts real reruns, at several parts of a change.

        Args:
            change: Change of the training data.
            scales: Parts of the change to which training is run again, from large to small.
            tolerance: Relative error up to which the derivative is said to hold.
            progress: Whether to show a progress bar; by default only on a terminal.

        Raises:
            ValueError: If a scale is not positive, or they do not fall.

        Cost: about three trainings for the tangent, and one for each scale.
        """
        if not scales or any(a <= b for a, b in pairwise([*scales, 0.0])):
            cure = "Pass (1.0, 0.1, 0.01), for example."
            raise bad_value("scales", expected="positive parts, from large to small", got=scales, cure=cure)
        _, direction, *_ = self._tangent(change, progress)
        return self._measured(change, direction, tuple(scales), tolerance)

    @checked
    def attribute(
        self,
        goal: Goals,
        *,
        features: bool = True,
        names: Sequence[str] | None = None,
        verify: bool = True,
        checkpoint: Path | str | None = None,
        progress: bool | None = None,
    ) -> RunAttribution:
        """The derivative of a goal in all data of the run: each point's features, target and weight.

        One replay of the run from its end to its start (Maclaurin et al. 2015) gives all of them, and the
        derivatives in the weight decay and in the learning rate. Two real reruns then tell whether they hold:
        the ten points with the largest scores change a little, along their scores, and by half of that.

        Args:
            goal: Function of the trained module, in evaluation mode, that returns one number or a vector of
                ``k``; one of :mod:`solset.goals`; or a sequence of such goals, which are a block.
            features: Whether the derivative in the features is kept, the largest part of a block.
            names: Name of each training point for the table; by default points have numbers only.
            verify: Whether the scores are compared with two real reruns.
            checkpoint: File in an existing folder to which the replay is written from time to time, when it
                is interrupted and at its end. A later call of the same run and goal goes on from it to the
                same numbers.
            progress: Whether to show a progress bar; by default only on a terminal.

        Raises:
            TypeError: If a goal is neither a goal nor a function, or does not return a tensor.
            ValueError: If a goal does not fit, does not depend on the weights or is not finite, model or loss
                have no second derivative, or the checkpoint is of another run or goal.

        Warns:
            SolsetWarning: If the reruns contradict the scores, entries of the weights have no derivative,
                autograd's second derivatives are wrong in the last step, or steps are not repeated.

        Cost: one training, about two more for each value of the goals, and two for the reruns.
        """
        result = self._attributed(goal, checkpoint, features=features, names=names, progress=progress)
        if verify:
            result = verified(result, checked_by_reruns(self, self._setting.data, goal, result))
        if warned := sentences(result.fault, result.kinks, result.smoothness):
            warnings.warn("; ".join(warned), SolsetWarning, stacklevel=3)
        return result

    def _attributed(
        self,
        goal: Goals,
        checkpoint: Path | str | None,
        *,
        features: bool,
        names: Sequence[str] | None,
        progress: bool | None,
    ) -> RunAttribution:
        require_names(names, len(self._setting.data))
        derivative = self._derivative(self._setting)
        zeros = derivative.zero_buffers(self._end)
        measured = slopes_at_end(goal, self._setting, self.model, self._end, list(zeros))
        slopes = cotangents(measured, derivative, self._end)
        totals = [Totals(len(self._setting.data), with_features=features) for _ in slopes]
        file = self._replay_file(checkpoint, goal, measured.gradients, features=features)
        sweep = Sweep(derivative, slopes, totals, file, len(self._tape.records))
        sweep.resume()
        replay = Replay(self._setting, self._tape, self._end, progress)
        with sweep.written() as after_step:
            for step in replay.backward("replay", sweep.left):
                with told("model", TWICE, LOOK, step[1].batch):
                    sweep.take(step, self._setting.data.of_step(step[1].batch, step[1].step))
                after_step()
        return self._summed(derivative, measured, sweep.slopes, totals, names)

    def _summed(
        self,
        derivative: StepDerivative,
        measured: Slopes,
        slopes: Sequence[Slope],
        totals: Sequence[Totals],
        names: Sequence[str] | None,
    ) -> RunAttribution:
        """The derivatives of the goals from the sums over all steps of a replay."""
        kinks = self._kinks(derivative)
        notes = (*sentences(derivative.doubts, kinks), NOT_ASKED)
        if not derivative.has_factors:
            notes += ("no derivative in the points' factors: the loss is no mean and no sum over points",)
        by_feature, by_target, by_factor = (
            block([total.parts[place] for total in totals], is_block=measured.is_block) for place in range(3)
        )
        initial = block([derivative.flat(slope.parameters) for slope in slopes], is_block=measured.is_block)
        assert initial is not None  # noqa: S101 - every run has weights
        return RunAttribution(
            measured.values if measured.is_block else float(measured.values),
            by_factor if derivative.has_factors else None,
            by_feature,
            by_target,
            numbers([total.decay for total in totals], measured) if self._decays(derivative) else None,
            names=names,
            notes=notes,
            initial=initial,
            learning_rate=numbers([total.rate for total in totals], measured)
            if derivative.takes_rate
            else None,
            kinks=kinks,
            fault=derivative.doubts,
            status=Status.DOUBTFUL if derivative.doubts else Status.CONVERGED,
        )

    def _replay_file(
        self, path: Path | str | None, goal: Goals, gradients: Tensor, *, features: bool
    ) -> Checkpoint:
        """The file of a replay, which knows the run by its end and its losses, and the goals."""

        def identify() -> Identity:
            goals = [each.identity() for each in as_goals(goal)]
            settings = {
                "weights at the end": digest([self.weights, torch.tensor(self.losses)]),
                "data": self._setting.data.digest(),
                "goals": plain(goals),
                "features": features,
            }
            return Identity(settings)

        probe = Probe("the slope of the goals at the end", gradients, rtol=1e-4)
        return Checkpoint.at(path, "replay of a run", identify, probe)

    def _decays(self, derivative: StepDerivative) -> bool:
        """Whether some weights decay, by an optimizer with a derivative in the decay."""
        groups = self._setting.adjustment.adjusted(self._tape.records[0].settings)
        return derivative.takes_decay and any(float(group.get("weight_decay", 0.0)) > 0 for group in groups)

    def _derivative(self, setting: Setting) -> StepDerivative:
        model, optimizer = setting.pair()
        refuse_moved_parameters(model, self.model)
        rule = OptimizerStep(optimizer, list(trained(model).values()))
        return StepDerivative(setting, model, rule)

    def _kinks(self, derivative: StepDerivative) -> RecipeKinks:
        counts = zip(self._end.parameters, derivative.kinks, strict=True)
        entries = {name: int(kinks.sum()) for name, kinks in counts if bool(kinks.any())}
        return RecipeKinks(entries, self._setting.data.silent_features() if entries else ())

    def _tangent(self, change: Change, progress: bool | None) -> tuple[Slope, Tensor, RecipeKinks, str]:
        """The change of the state at the end, that of the weights as a flat vector, kinks, and a fault."""
        asked, adjustment = training_change(self._setting, change)
        start, end = (at_scale(self._setting, asked, adjustment, scale) for scale in (0.0, 1.0))
        derivative = self._derivative(replace(start, adjustment=self._setting.adjustment))
        zeros = derivative.joined([torch.zeros_like(value) for value in self._end.parameters.values()])
        slope = Slope(zeros, {}, derivative.zero_buffers(self._end))
        by_factors = bool(asked.factors or asked.added or start.data.labels)
        for before, record, after in Replay(self._setting, self._tape, self._end, progress).forward(
            "tangent"
        ):
            batch = batch_change(derivative, record, asked, start.data, end.data)
            with told("model", TWICE, LOOK, record.batch):
                slope = derivative.push(before, record, after, slope, batch, adjustment)
            if by_factors and not derivative.has_factors:
                raise refuse_factors(repr(change))
        return slope, derivative.flat(slope.parameters), self._kinks(derivative), derivative.doubts

    @checked
    def advise(
        self, change: Change | None = None, *, steps: int | None = None, progress: bool | None = None
    ) -> Advice:
        """Which change of the recipe makes its derivative hold: smaller rate, larger ``ε``, no kinks.

        Args:
            change: Change of the data for which it has to hold; by default a move of ten points by 1 %.
            steps: Number of steps of each trial; by default those of the recipe.
            progress: Whether to show progress bars; by default only on a terminal.

        Raises:
            ValueError: If the run is the record of a loop, which cannot be run with another recipe.

        Cost: six trainings for each of up to four recipes, of as many steps as are asked for.
        """
        if self.training is None:
            cure = "Write the loop as a solset.Training."
            raise bad_value("run", expected="one of a Training", got="the record of a loop", cure=cure)
        return advised(self.training, change, steps, progress)

    def _measured(
        self, change: Change, direction: Tensor, scales: tuple[float, ...], tolerance: float
    ) -> Smoothness:
        reals = [self.retrain(change, scale=scale, progress=False).change for scale in scales]
        return smoothness_of(direction, scales, reals, tolerance)
