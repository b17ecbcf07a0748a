"""The judge of a designed perturbation: real retraining, with its numbers beside the predicted ones."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import isfinite, nan
from typing import Any

import torch
from torch import Tensor, nn

from solset.changes import Change
from solset.checks import checked
from solset.errors import bad_type, bad_value
from solset.goals import Goal
from solset.linalg import Space
from solset.poisoning._points import PointPoisoning
from solset.poisoning._poisoning import Poisoning
from solset.problem import Problem
from solset.results import TableResult
from solset.retraining import Method, Target
from solset.risk import EmpiricalRisk, plain_targets

Trainer = Callable[[Any, Any, int], "Tensor | nn.Module"]


@dataclass(frozen=True)
class Verdict:
    """The goal after one way of retraining, on clean and on moved data.

    Attributes:
        name: Name of the retraining.
        clean: Goal ``φ`` after the same retraining on the clean data.
        poisoned: Goal ``φ`` after the retraining on the moved data.
        linear: Goal ``φ`` by the one linear estimate at the trained point; ``None`` for a perturbation that
            was not designed.
        predicted: Goal ``φ`` where the follower of the ascent ended; ``None`` for a perturbation that was not
            designed. If the follower is the retraining that is judged, ``predicted`` and ``poisoned`` agree
            by construction, and :attr:`linear` is the prediction.
        gradient_norm: Gradient norm of the moved risk at the retrained weights: how far training was from
            finished; ``None`` for a recipe, which need not finish.
    """

    name: str
    clean: float
    poisoned: float
    linear: float | None
    predicted: float | None
    gradient_norm: float | None

    @property
    def change(self) -> float:
        """The effect of moving the data, with everything else equal."""
        return self.poisoned - self.clean


@dataclass(frozen=True, repr=False)
class Judgement(TableResult):
    """The effect of a perturbation on a goal, by real retraining.

    Attributes:
        trained: Goal ``φ(w̄)`` at the trained weights.
        verdicts: Verdicts, one for each retraining, those from ``w̄`` first.
        sign: Sign of the goal: 1 if it was to be raised, -1 if it was to be lowered.
    """

    trained: float
    verdicts: tuple[Verdict, ...]
    sign: float

    @property
    def headline(self) -> str:
        """Whether retraining confirms the effect, how often, and the smallest effect."""
        changes = [verdict.change for verdict in self.verdicts]
        count = sum(self.sign * change > 0 for change in changes)
        word = "confirmed" if self.is_confirmed else "not confirmed"
        smallest = min(changes, key=lambda change: self.sign * change)
        return f"{word} by {count} of {len(changes)} retrainings; smallest change of the goal {smallest:.4g}"

    def rows(self) -> list[dict[str, Any]]:
        """One dict per retraining, with the attributes of :class:`Verdict` and the change."""
        return [{**asdict(verdict), "change": verdict.change} for verdict in self.verdicts]

    @property
    def is_confirmed(self) -> bool:
        """Whether every retraining moved the goal in the intended direction."""
        return all(self.sign * verdict.change > 0 for verdict in self.verdicts)

    @property
    def clean(self) -> dict[str, float]:
        """The goal after each retraining on clean data, to pass to a second :func:`judge_poisoning`."""
        return {verdict.name: verdict.clean for verdict in self.verdicts}


@checked
def judge_poisoning(
    problem: Problem,
    goal: Goal,
    change: Poisoning | PointPoisoning | Change,
    *,
    methods: Mapping[str, Method] | None = None,
    train: Trainer | None = None,
    seeds: Sequence[int] = (),
    clean: Mapping[str, float] | None = None,
) -> Judgement:
    """The effect of a perturbation by real retraining: from ``w̄``, and from scratch with other seeds.

    Every retraining is done twice, on the clean and on the moved data, so that a change that training makes
    by itself is not taken for an effect.

    Args:
        problem: The trained point, with its data.
        goal: Goal that was to change.
        change: Designed perturbation or choice of points, or any other change to compare it with.
        methods: Methods of retraining from ``w̄``, by name.
        train: Function ``(inputs, targets, seed) -> model or flat weights`` that trains from scratch on all
            points, ``(n, *input)``, and their targets. A model has the problem's parameter names and is
            judged in evaluation mode with its own buffers and constants. Flat weights are those that move;
            everything else is taken from the problem's model.
        seeds: Seeds; ``train`` is called for each of them.
        clean: Goal after the same retrainings on clean data, from :attr:`Judgement.clean` of an earlier
            judgement; retrainings that are not in it are run.

    Raises:
        TypeError: If training returns neither weights nor a model.
        ValueError: If there is no way to retrain, seeds come without a trainer, or weights do not fit.

    Cost: twice every retraining.

    Example:
        >>> from solset import Relabel
        >>> from solset.goals import WeightFunction
        >>> from solset.retraining import LevenbergMarquardt
        >>> model = nn.Linear(1, 1, bias=False).double()
        >>> _ = nn.init.constant_(model.weight, 2.0)
        >>> one = torch.ones(1, 1, dtype=torch.float64)
        >>> problem = Problem(model, nn.MSELoss(), one, 2 * one)  # the weight is the target
        >>> methods = {"nearest": LevenbergMarquardt()}
        >>> goal, change = WeightFunction(lambda w: w.sum()), Relabel([0], 3 * one)
        >>> judged = judge_poisoning(problem, goal, change, methods=methods)
        >>> round(judged.verdicts[0].change, 6)
        1.0
    """
    goal.check(problem.risk())
    if not methods and not (train and seeds):
        raise bad_value("methods", expected="one way to retrain or more", got="none", cure="Name one.")
    if seeds and train is None:
        raise bad_value("train", expected="a trainer for the seeds", got=None, cure="Pass a function.")
    made, estimates = _change_of(change)
    risk = problem.risk()
    moved = made.applied_to(risk)
    verdicts = []
    for name, retrained in _ways(problem, methods or {}, train, seeds).items():
        before = (clean or {}).get(name)
        if before is None:
            before = retrained(risk, risk.outputs).value(goal)
        end = retrained(moved, lambda: made.outputs_after(risk))
        verdicts.append(Verdict(name, before, end.value(goal), *estimates, end.gradient_norm(moved)))
    return Judgement(goal.value(risk, problem.weights()), tuple(verdicts), goal.sign)


def _change_of(change: Poisoning | PointPoisoning | Change) -> tuple[Change, tuple[Any, Any]]:
    """The change of the data, with the goal by the linear estimate and where the search ended."""
    if isinstance(change, Poisoning):
        return change.change, (change.linear, change.predicted)
    if isinstance(change, Change):
        return change, (None, None)
    if change.change is None:
        cure = "There is nothing to judge: the search found no point whose change helps."
        raise bad_value("change", expected="one that changes a point", got=repr(change), cure=cure)
    return change.change, (change.predicted, change.real)


@dataclass(frozen=True)
class _End:
    """The end of a retraining: weights, and the problem with the network that they belong to."""

    problem: Problem
    weights: Tensor

    def value(self, goal: Goal) -> float:
        return goal.value(self.problem.risk(), self.weights)

    def gradient_norm(self, moved: EmpiricalRisk) -> float:
        """The gradient norm of the risk on the moved data."""
        if not isfinite(float(self.weights.sum())):
            return nan
        clean = self.problem.risk()
        risk = replace(clean, points=moved.points, loss=moved.loss, total=moved.total).at(self.weights)
        return float(torch.linalg.vector_norm(risk.gradient()))


def _ways(
    problem: Problem, methods: Mapping[str, Method], train: Trainer | None, seeds: Sequence[int]
) -> dict[str, Callable[[EmpiricalRisk, Target], _End]]:
    """Functions from a risk at ``w̄``, and outputs that fit its data, to the end of retraining, by name."""
    ways: dict[str, Callable[[EmpiricalRisk, Target], _End]] = {
        name: lambda risk, target, method=method: _End(problem, method.run(risk, target).weights)
        for name, method in methods.items()
    }
    for seed in seeds if train is not None else ():
        ways[f"from scratch, seed {seed}"] = lambda risk, _, seed=seed: _from_scratch(
            problem, risk, train, seed
        )
    return ways


def _training_data(risk: EmpiricalRisk) -> tuple[Any, Any]:
    """Copies of all inputs and targets in the form in which the user passed them."""
    points = risk.points
    inputs, targets = points[range(len(points))]
    targets = plain_targets(risk, targets)
    if points.tree is not None and points.moving is not None and points.moving not in points.tree.leaves:
        raise bad_value(
            "train",
            expected="left out where embeddings move: data from which one could train do not hold them",
            got="a function that trains from scratch",
            cure="Compare with `methods`, which go on from the trained weights.",
        )
    if risk.door.moves_target:
        targets = points.features_in(inputs)
    elif points.targets is not None:
        targets = points.targets.unpack(targets)
    copies = inputs.clone()
    given = copies if points.tree is None else points.tree.unpack(copies)
    return given, targets.clone() if isinstance(targets, Tensor) else targets


def _from_scratch(problem: Problem, risk: EmpiricalRisk, train: Trainer | None, seed: int) -> _End:
    assert train is not None  # noqa: S101 - for the type checker: no way is made without one
    trained = train(*_training_data(risk), seed)
    if isinstance(trained, nn.Module):
        is_training = any(module.training for module in trained.modules())
        try:
            new = problem.with_model(copy.deepcopy(trained).eval() if is_training else trained)
        except ValueError as error:
            raise bad_value(
                "train",
                expected="a function that returns the problem's kind of model",
                got=f"one that does not fit: {error}",
                cure="Return the same network, trained.",
            ) from error
        return _End(new, new.weights())
    if not isinstance(trained, Tensor):
        raise bad_type(
            "train",
            expected="a function that returns a model or flat weights",
            got=type(trained).__name__,
            cure="Return the trained module.",
        )
    weights = problem.weights()
    space = Space("weights", (len(weights),), weights.dtype, weights.device)
    return _End(problem, space.flatten(trained))
