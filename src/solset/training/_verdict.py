"""Whether the scores of a run predict real reruns: measured along the change that they rank highest."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from solset.changes import Change, Move, Reweight
from solset.errors import Status
from solset.goals import Goals
from solset.results import Result, computed
from solset.training._data import Data

if TYPE_CHECKING:
    from solset.training._results import RunAttribution
    from solset.training._run import Run

POINTS = 10  # points that change: those with the largest scores
MOVED = 0.01  # part of its value by which each feature moves
WEIGHED = 0.1  # relative change of a factor, where no features were asked for
HALVES = (1.0, 0.5)  # parts of the change at which training is run again
TOLERANCE = 0.2  # relative error up to which the derivative is said to hold
FALLING = 0.7  # ratio of the errors of half and whole that says that the error falls with the scale
ROUNDED = 1e3  # units of rounding of the weights below which a change of them is too small to be judged
NOISE = 30.0  # units of rounding of the goal up to which a difference of two values is none


@dataclass(frozen=True, eq=False, repr=False)
class GoalCheck(Result):
    """How well an attribution predicts real reruns along a change that its own scores rank highest.

    Attributes:
        change: Description of the change, such as a move of each feature by 1 % of its value.
        predicted: Predicted change of the goal for the whole and for half of the change, ``(2,)``; a column
            for each goal of a block.
        real: Change of the goal by two real reruns, in the same shape.
        errors: Relative error ``‖real - predicted‖ / ‖real‖`` of the goal at the whole and at half.
        disagreement: Relative difference ``‖Δ₁ - 2 Δ_½‖ / ‖Δ₁‖`` of the changes of the weights by the two
            reruns; near 0 where training is smooth, and not a number where the change is all rounding.
    """

    change: str
    predicted: Tensor
    real: Tensor
    errors: tuple[float, float]
    disagreement: float

    @computed
    def status(self) -> Status:
        """``doubtful`` where the reruns contradict the derivative."""
        return Status.DOUBTFUL if self.is_rough else Status.CONVERGED

    @computed
    def message(self) -> str:
        """The verdict where it is a doubt."""
        return self.verdict if self.is_rough else ""

    @property
    def is_rough(self) -> bool:
        """Whether the two reruns contradict the derivative, beyond what a large smooth change does."""
        if self.disagreement > TOLERANCE:
            return True
        whole, half = self.errors
        return whole > TOLERANCE and half > max(TOLERANCE, FALLING * whole)

    @property
    def verdict(self) -> str:
        """One sentence: whether the scores hold at this scale."""
        if isnan(self.disagreement):
            return "smoothness not measured, since the reruns change the weights by rounding alone"
        if self.disagreement > TOLERANCE:
            return "training is not differentiable at this scale: the scores may not hold for other changes"
        if self.is_rough:
            return "the scores do not predict real reruns at this scale"
        if self.errors[0] > TOLERANCE:
            return "the scores hold for smaller changes: their error falls with the scale"
        return "the scores predict real reruns at this scale"

    @property
    def headline(self) -> str:
        """The verdict, with the predicted and the real change of the goal."""
        shown = [
            " and ".join(f"{float(one.norm() if one.ndim else one):.3g}" for one in part)
            for part in (self.predicted, self.real)
        ]
        what = (
            "changes of the goals have the lengths" if self.predicted.ndim > 1 else "changes of the goal are"
        )
        text = f"{self.change}, and by half of it: predicted {what} {shown[0]}, real ones {shown[1]}"
        if not isnan(self.disagreement):
            text += f"; the two changes of the weights disagree by {self.disagreement:.2g}"
        return f"{self.verdict} ({text})"


def checked_by_reruns(run: "Run", data: Data, goal: Goals, worth: "RunAttribution") -> GoalCheck | None:
    """The verdict on an attribution by two real reruns; ``None`` where points have no scores.

    Cost: two trainings, and twice the values of the goals.
    """
    asked = _steepest(data, worth)
    if asked is None:
        return None
    text, change, slope = asked
    before = torch.as_tensor(worth.value).double().cpu()
    predicted = [scale * slope.double().cpu() for scale in HALVES]
    steps, real = [], []
    for scale in HALVES:
        try:
            rerun = run.retrain(change, scale=scale, progress=False)
        except ValueError as error:  # as where a loss is not finite: the scores are there, and say nothing
            nothing, inf = torch.full_like(torch.stack(predicted), float("nan")), float("inf")
            text = f"{text}, where training fails ({str(error).rstrip('.')})"
            return GoalCheck(text, torch.stack(predicted), nothing, (inf, inf), inf)
        steps.append(rerun.change.double())
        real.append(torch.as_tensor(run.value(goal, rerun.model)).double().cpu() - before)
    eps = torch.finfo(run.weights.dtype).eps
    noise = NOISE * eps * float(before.norm())
    errors = [_error(a, b, noise) for a, b in zip(predicted, real, strict=True)]
    length = float(steps[0].norm())
    is_rounding = length <= ROUNDED * eps * float(run.weights.norm())
    disagreement = float("nan") if is_rounding else float((steps[0] - 2 * steps[1]).norm()) / length
    return GoalCheck(text, torch.stack(predicted), torch.stack(real), (errors[0], errors[1]), disagreement)


def _error(predicted: Tensor, real: Tensor, noise: float) -> float:
    """The relative error of a prediction; 0 where the difference is rounding of the goal."""
    gap = float((predicted - real).norm())
    return 0.0 if gap <= noise else gap / max(float(real.norm()), torch.finfo(torch.float64).tiny)


def _steepest(data: Data, worth: "RunAttribution") -> tuple[str, Change, Tensor] | None:
    """A small change of the points with the largest scores that raises the goal, and its predicted effect.

    Each feature moves by a part of its own value, so that pixels that are black stay black.
    """
    is_block = isinstance(worth.value, Tensor)
    if worth.features is not None:
        scores = worth.features if is_block else worth.features.unsqueeze(0)
        inputs = data.features(range(len(data)))
        # One goal after the other: a block may fill the memory.
        effects = [(one * inputs).flatten(1).abs().sum(dim=1) for one in scores]
        points = _largest(torch.stack(effects).sum(dim=0))
        dx = MOVED * inputs[points].abs() * _upwards(scores[:, points])
        slope = (scores[:, points] * dx).flatten(1).sum(dim=1)
        text = f"each feature of {_counted(points)} moved by {MOVED:.0%} of its value, along its score"
        return text, Move(points, dx), slope if is_block else slope[0]
    if worth.weights is not None:
        scores = worth.weights if is_block else worth.weights.unsqueeze(0)
        points = _largest(scores.abs().sum(dim=0))
        steps = WEIGHED * _upwards(scores[:, points])
        slope = scores[:, points] @ steps
        text = f"the factors of {_counted(points)} changed by {WEIGHED:.0%}, along their scores"
        return text, Reweight(points, steps), slope if is_block else slope[0]
    return None


def _largest(effects: Tensor) -> list[int]:
    """The few points with the largest effects."""
    return effects.argsort(descending=True, stable=True)[:POINTS].tolist()


def _upwards(scores: Tensor) -> Tensor:
    """The sign of each score, summed over goals; where all scores are zero, which may be wrong, one."""
    signs = scores.sum(dim=0).sign()
    return signs if bool(signs.any()) else torch.ones_like(signs)


def _counted(points: Sequence[int]) -> str:
    return "1 point" if len(points) == 1 else f"{len(points)} points"
