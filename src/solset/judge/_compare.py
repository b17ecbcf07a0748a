"""Predictors beside each other, judged by the same real retrainings."""

import time
import warnings
from collections.abc import Mapping, Sequence
from math import isnan

import torch
from torch import Tensor, nn

from solset.changes import Change
from solset.checks import checked
from solset.errors import SolsetWarning, bad_value
from solset.goals import Goals
from solset.judge._comparison import Comparison, Score
from solset.judge._predictors import Predictor, as_matrix
from solset.judge._statistics import (
    agreement_of_halves,
    bootstrap_interval,
    noise_ceiling,
    rank_agreement,
)
from solset.judge._truth import Truth, asked_of, truth_of
from solset.problem import Problem
from solset.retraining import Method
from solset.training import Run

REPLACED = "it replaced parts of the model; let it work on a copy"


@checked
def compare(
    trained: Run | Problem,
    changes: Sequence[Change],
    goal: Goals,
    predictors: Mapping[str, Predictor],
    *,
    seeds: Sequence[int] = (),
    method: Method | None = None,
    truth: Truth | None = None,
    progress: bool | None = None,
) -> Comparison:
    """How well each predictor foretells what changes of the data do to goals, judged by real retraining.

    The score is the linear datamodeling score (Park et al. 2023): the rank correlation, over the changes, of
    the predicted with the real change of a goal, on average over goals. Beside it stand its bootstrap
    interval, the size of the predictions, their price, and the ceiling that chance in training leaves: the
    score of a prediction without noise, from how well half of the seeds agree with the others.

    Args:
        trained: Run of a recipe, which is run again from its seed and from others; or problem.
        changes: Changes of the training data, such as removals of twenty random fifths.
        goal: Goal, or several as a block, such as ``goals.PointLosses(x_test, y_test)``.
        predictors: Predictor of each name: :class:`ByEstimate`, :class:`ByAttribution`, :class:`ByScores`
            with the scores of any other library, or any function of changes and goal.
        seeds: Seeds beside that of the run; without them the ceiling is not known.
        method: Way to train a problem again, as for :func:`solset.retrain`; none for a run.
        truth: Real changes from an earlier call of the same weights, changes and goals, as
            ``comparison.truth``, so that nothing is trained again.
        progress: Whether to show a progress bar; by default only on a terminal.

    Returns:
        A table with the best predictor first. A predictor that raises an error, returns another shape or
        numbers that are not finite, or changes the model, has a row with a note and no score.

    Raises:
        TypeError: If a problem comes without a method, or a run with one.
        ValueError: If there are no changes or predictors, seeds are asked of a problem or a loop, or the
            truth is of something else.

    Cost: as for :func:`truth_of`, and that of the predictors.

    Example:
        >>> from torch import nn
        >>> from solset import Remove
        >>> from solset.judge import ByEstimate
        >>> from solset.retraining import Newton
        >>> x = torch.tensor([[1.0], [2.0], [3.0], [4.0]], dtype=torch.float64)
        >>> model = nn.Linear(1, 1, bias=False).double()
        >>> _ = nn.init.constant_(model.weight, 2.0)
        >>> y = 2 * x + torch.tensor([[1.0], [-0.5], [0.8], [-0.6]], dtype=torch.float64)
        >>> problem = Problem(model, nn.MSELoss(), x, y)  # the noise is orthogonal to x: 2 is the minimum
        >>> removals, slope = [Remove([i]) for i in range(4)], lambda net: net.weight.sum()
        >>> predictors = {"ours": ByEstimate(problem)}
        >>> comparison = compare(problem, removals, slope, predictors, method=Newton())
        >>> round(comparison.scores[0].mean, 6)
        1.0
    """
    for name, values in (("changes", changes), ("predictors", predictors)):
        if not values:
            raise bad_value(name, expected="at least one", got="none", cure="Name what is to be compared.")
    if truth is None:
        truth = truth_of(trained, changes, goal, seeds=seeds, method=method, progress=progress)
    else:
        _require_same(truth, trained, changes, goal, seeds)
    scores, predicted, breaker = [], {}, ""
    for name, predict in predictors.items():
        if breaker:
            scores.append(Score(name, note=f"it was not asked, since {breaker} replaced parts of the model"))
            continue
        trainings, answer, note = _asked(predict, trained, changes, goal, truth)
        if answer is None:
            breaker = name if note == REPLACED else ""
            scores.append(Score(name, trainings=trainings, note=note))
        else:
            predicted[name] = answer
            scores.append(_score(name, answer, truth, trainings, note))
    scores.sort(key=lambda one: (isnan(one.mean), -one.mean))
    halves = agreement_of_halves(truth.changes[:, truth.is_finite])
    return Comparison(tuple(scores), halves, noise_ceiling(halves), truth, predicted)


def _require_same(
    truth: Truth, trained: Run | Problem, changes: Sequence[Change], goal: Goals, seeds: Sequence[int]
) -> None:
    """Refuses a truth of other weights, changes, goals or seeds."""
    cure = "Pass what the earlier call was given, or leave truth out."
    if truth.asked != asked_of(trained, changes, goal):
        got = "one of others"
        raise bad_value("truth", expected="of these weights, changes and goals", got=got, cure=cure)
    if seeds and tuple(seeds) != truth.seeds[1:]:
        got = f"one of {list(truth.seeds[1:])}"
        raise bad_value("truth", expected=f"of the seeds {list(seeds)}", got=got, cure=cure)


def _asked(
    predict: Predictor, trained: Run | Problem, changes: Sequence[Change], goal: Goals, truth: Truth
) -> tuple[float, Tensor | None, str]:
    """The price of a predictor, in trainings, its predictions, and a note on what went wrong in it."""
    model = trained.model if isinstance(trained, Run) else trained.risk().model
    before, start = _Before(model), time.process_time()
    predicted, note = None, ""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            predicted = as_matrix(predict(changes, goal))
        except Exception as error:  # noqa: BLE001 - a predictor of another library may raise anything
            note = f"{type(error).__name__}: {error}".splitlines()[0]
    trainings = (time.process_time() - start) / max(truth.seconds, 1e-9)
    if touched := before.restored():
        return trainings, None, touched
    if predicted is None:
        return trainings, None, note
    count, width = truth.mean.shape
    if predicted.shape == (count,) and width == 1:
        predicted = predicted.unsqueeze(1)
    if predicted.shape != (count, width):
        note = f"shape {tuple(predicted.shape)} where there are {count} changes of {width} goals"
        return trainings, None, note
    if not bool(predicted.isfinite().all()):
        return trainings, None, "predictions that are not finite"
    doubts = [str(one.message) for one in told if issubclass(one.category, SolsetWarning)]
    return trainings, predicted, doubts[0] if doubts else ""


class _Before:
    """A model as it was: values, modes, and which weights are trained."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._values = {name: value.detach().clone() for name, value in _tensors(model).items()}
        self._modes = {name: part.training for name, part in model.named_modules()}
        self._trained = {name: part.requires_grad for name, part in model.named_parameters()}

    def restored(self) -> str:
        """Puts the model back, and says what had changed; empty where nothing had."""
        now, modes = _tensors(self._model), dict(self._model.named_modules())
        if now.keys() != self._values.keys() or modes.keys() != self._modes.keys():
            return REPLACED
        touched = [name for name, value in self._values.items() if not _same(value, now[name])]
        with torch.no_grad():
            for name in touched:
                now[name].data = self._values[name]
        touched += [name or "the model" for name, mode in self._modes.items() if modes[name].training != mode]
        for name, mode in self._modes.items():
            modes[name].training = mode
        for name, part in self._model.named_parameters():
            touched += [name] if part.requires_grad != self._trained[name] else []
            part.requires_grad_(self._trained[name])
        return f"it changed the model: {', '.join(dict.fromkeys(touched[:3]))}" if touched else ""


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _same(first: Tensor, second: Tensor) -> bool:
    is_alike = (first.shape, first.dtype, first.device) == (second.shape, second.dtype, second.device)
    return is_alike and torch.equal(first, second)


def _score(name: str, predicted: Tensor, truth: Truth, trainings: float, note: str) -> Score:
    finite = truth.is_finite.cpu()
    predicted, real, same = (each.cpu()[finite] for each in (predicted, truth.mean, truth.changes[0]))
    length = float(real.norm()) or float("nan")
    return Score(
        name,
        rank_agreement(predicted, real),
        *bootstrap_interval(predicted, real),
        rank_agreement(predicted, same),
        float(predicted.norm()) / length,
        float((predicted - real).norm()) / length,
        trainings,
        note,
    )
