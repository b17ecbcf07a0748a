"""Predictors beside each other, judged by the same real retrainings."""

import time
import warnings
from collections.abc import Mapping, Sequence
from math import isnan

import torch
from torch import Tensor

from solset.changes import Change
from solset.checks import checked
from solset.errors import bad_value
from solset.goals import Goals
from solset.judge._comparison import Comparison, Score
from solset.judge._predictors import Predictor
from solset.judge._statistics import agreement, agreement_of_halves, interval
from solset.judge._truth import Truth, truth_of
from solset.problem import Problem
from solset.retraining import Method
from solset.training import Run


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
    interval, the size of the predictions, their price, and how well half of the seeds agree with the others,
    which is what chance in training leaves to be foretold.

    Args:
        trained: Run of a recipe, which is run again from its seed and from others; or problem.
        changes: Changes of the training data, such as removals of twenty random fifths.
        goal: Goal, or several as a block, such as ``goals.PointLosses(x_test, y_test)``.
        predictors: Predictor of each name: :class:`ByEstimate`, :class:`ByAttribution`, :class:`ByScores`
            with the scores of any other library, or any function of changes and goal.
        seeds: Seeds beside that of the run; without them the ceiling is not known.
        method: Way to train a problem again, as for :func:`solset.retrain`; none for a run.
        truth: Real changes from an earlier call, ``comparison.truth``, so that nothing is trained again.
        progress: Whether to show a progress bar; by default only on a terminal.

    Returns:
        A table with the best predictor first. A predictor that raises an error, returns another shape or
        numbers that are not finite, or changes the model, has a row with a note and no score.

    Raises:
        TypeError: If a problem comes without a method, or a run with one.
        ValueError: If there are no changes or predictors, or seeds are asked of a problem or a loop.

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
    elif truth.changes.shape[1] != len(changes):
        cure = "Pass the changes of the call that it comes from."
        got = f"one of {truth.changes.shape[1]}"
        raise bad_value("truth", expected=f"a truth of {len(changes)} changes", got=got, cure=cure)
    scores, predicted = [], {}
    for name, predict in predictors.items():
        trainings, answer = _asked(predict, trained, changes, goal, truth)
        if isinstance(answer, str):
            scores.append(Score(name, trainings=trainings, note=answer))
        else:
            predicted[name] = answer
            scores.append(_score(name, answer, truth, trainings))
    scores.sort(key=lambda one: (isnan(one.mean), -one.mean))
    return Comparison(tuple(scores), agreement_of_halves(truth.changes), truth, predicted)


def _asked(
    predict: Predictor, trained: Run | Problem, changes: Sequence[Change], goal: Goals, truth: Truth
) -> tuple[float, Tensor | str]:
    """The price of a predictor, in trainings, and its predictions, or a note on what went wrong in it."""
    model = trained.model if isinstance(trained, Run) else trained.risk().model
    before = {key: value.clone() for key, value in model.state_dict().items() if isinstance(value, Tensor)}
    start = time.process_time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the retrainings are the judge, and not what predictors say
            predicted = torch.as_tensor(predict(changes, goal)).detach().double().cpu()
    except Exception as error:  # noqa: BLE001 - a predictor of another library may raise anything
        predicted = f"{type(error).__name__}: {error}".splitlines()[0]
    trainings = (time.process_time() - start) / max(truth.seconds, 1e-9)
    after = model.state_dict()
    if touched := [key for key, value in before.items() if not torch.equal(value, after[key])]:
        model.load_state_dict(before, strict=False)
        return trainings, f"it changed the model: {', '.join(touched[:3])}"
    if isinstance(predicted, str):
        return trainings, predicted
    count, width = truth.mean.shape
    if predicted.shape == (count,) and width == 1:
        predicted = predicted.unsqueeze(1)
    if predicted.shape != (count, width):
        return trainings, f"shape {tuple(predicted.shape)} where there are {count} changes of {width} goals"
    return trainings, predicted if bool(predicted.isfinite().all()) else "predictions that are not finite"


def _score(name: str, predicted: Tensor, truth: Truth, trainings: float) -> Score:
    real = truth.mean.cpu()
    length = real.norm()
    return Score(
        name,
        agreement(predicted, real),
        *interval(predicted, real),
        agreement(predicted, truth.changes[0]),
        float(predicted.norm() / length),
        float((predicted - real).norm() / length),
        trainings,
    )
