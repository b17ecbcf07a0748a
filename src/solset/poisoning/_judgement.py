"""The judge of a designed perturbation: real retraining, with its numbers beside the predicted ones."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite, nan

import torch
from torch import Tensor, nn

from solset.checks import checked
from solset.errors import bad_type, bad_value
from solset.goals import Goal
from solset.linalg import Space
from solset.poisoning._poisoning import Poisoning
from solset.problem import Problem
from solset.retraining import Method
from solset.risk import EmpiricalRisk
from solset.scores import Moved

Trainer = Callable[[Tensor, Tensor, int], "Tensor | nn.Module"]


@dataclass(frozen=True)
class Verdict:
    """The goal after one way of retraining, on clean and on moved data.

    Attributes:
        name: How it was retrained.
        clean: ``φ`` after the same retraining on the data as they were.
        poisoned: ``φ`` after it on the moved data.
        linear: ``φ`` by the one linear estimate at the trained point, or ``None`` for a perturbation that
            nobody designed.
        predicted: ``φ`` where the ascent's own re-solving ended, or ``None`` likewise. Where the follower is
            the retraining that is judged, the two agree by construction and :attr:`linear` is the prediction.
        gradient_norm: Of the moved risk at the retrained weights: how far training was from finished.
    """

    name: str
    clean: float
    poisoned: float
    linear: float | None
    predicted: float | None
    gradient_norm: float

    @property
    def change(self) -> float:
        """What moving the data did, all else equal."""
        return self.poisoned - self.clean


@dataclass(frozen=True)
class Judgement:
    """What retraining made of a perturbation.

    Attributes:
        trained: ``φ(w̄)``.
        verdicts: One for each way of retraining, those from ``w̄`` first.
        sign: Of the goal: 1 if it was to be raised.
    """

    trained: float
    verdicts: tuple[Verdict, ...]
    sign: float

    @property
    def is_confirmed(self) -> bool:
        """Whether every retraining moved the goal the way it was meant to go."""
        return all(self.sign * verdict.change > 0 for verdict in self.verdicts)

    @property
    def clean(self) -> dict[str, float]:
        """The goal after each retraining on clean data, to judge another perturbation by."""
        return {verdict.name: verdict.clean for verdict in self.verdicts}


@checked
def judge_poisoning(
    problem: Problem,
    goal: Goal,
    change: Poisoning | Moved,
    *,
    methods: Mapping[str, Method] | None = None,
    train: Trainer | None = None,
    seeds: Sequence[int] = (),
    clean: Mapping[str, float] | None = None,
) -> Judgement:
    """What real retraining makes of a perturbation: from ``w̄``, and from scratch with other seeds.

    Every retraining is done twice, on the clean and on the moved data, so that what training does by itself
    is not taken for an effect.

    Args:
        problem: The trained point.
        goal: What was to change.
        change: A designed perturbation, or any other to compare it with.
        methods: Ways to retrain from ``w̄``, by name.
        train: ``(inputs, targets, seed) -> model or flat weights``: training from scratch on all points,
            ``(n, *input)`` and their targets. A model has the problem's parameter names and is judged as it
            is, in evaluation mode, with its own buffers and constants; flat weights are those that move, and
            everything else is taken from the problem's own model.
        seeds: For each of which ``train`` is called.
        clean: The goal after the same retrainings on clean data, from :attr:`Judgement.clean` of an earlier
            judgement; what is not in it is trained.

    Raises:
        TypeError: If training returns neither weights nor a model.
        ValueError: If there is no way to retrain, seeds come without a trainer, or weights do not fit.

    Cost: twice every retraining.
    """
    goal.check(problem)
    if not methods and not (train and seeds):
        raise bad_value("methods", expected="one way to retrain or more", got="none", cure="Name one.")
    if seeds and train is None:
        raise bad_value("train", expected="a trainer for the seeds", got=None, cure="Pass a function.")
    space = problem.data_space(change.points)
    moved = problem.risk().move(change.points, space.unflatten(space.flatten(change.dx)))
    told = (change.linear, change.predicted) if isinstance(change, Poisoning) else (None, None)
    verdicts = []
    for name, retrained in _ways(problem, methods or {}, train, seeds).items():
        known = (clean or {}).get(name)
        before = retrained(problem.risk()).value(goal) if known is None else known
        end = retrained(moved)
        verdicts.append(Verdict(name, before, end.value(goal), *told, end.gradient_norm(moved)))
    return Judgement(goal.value(problem, problem.weights()), tuple(verdicts), goal.sign)


@dataclass(frozen=True)
class _End:
    """Where a retraining ended: weights, and the problem whose network they belong to."""

    problem: Problem
    weights: Tensor

    def value(self, goal: Goal) -> float:
        return goal.value(self.problem, self.weights)

    def gradient_norm(self, moved: EmpiricalRisk) -> float:
        """Of the risk on the moved data."""
        if not isfinite(float(self.weights.sum())):
            return nan
        risk = replace(self.problem.risk(), points=moved.points).at(self.weights)
        return float(torch.linalg.vector_norm(risk.gradient()))


def _ways(
    problem: Problem, methods: Mapping[str, Method], train: Trainer | None, seeds: Sequence[int]
) -> dict[str, Callable[[EmpiricalRisk], _End]]:
    """From data, as a risk at ``w̄``, to where retraining ends, by name."""
    outputs = problem.risk().outputs()
    ways: dict[str, Callable[[EmpiricalRisk], _End]] = {
        name: lambda risk, method=method: _End(problem, method.run(risk, outputs).weights)
        for name, method in methods.items()
    }
    for seed in seeds if train is not None else ():
        ways[f"from scratch, seed {seed}"] = lambda risk, seed=seed: _from_scratch(problem, risk, train, seed)
    return ways


def _from_scratch(problem: Problem, risk: EmpiricalRisk, train: Trainer | None, seed: int) -> _End:
    assert train is not None  # noqa: S101 - for the type checker: no way is made without one
    inputs, targets = risk.points[range(problem.point_count)]
    found = train(inputs.clone(), targets.clone(), seed)
    if isinstance(found, nn.Module):
        is_training = any(module.training for module in found.modules())
        try:
            own = problem.with_model(copy.deepcopy(found).eval() if is_training else found)
        except ValueError as error:
            raise bad_value(
                "train",
                expected="a function that returns the problem's kind of model",
                got=f"one that does not fit: {error}",
                cure="Return the same network, trained.",
            ) from error
        return _End(own, own.weights())
    if not isinstance(found, Tensor):
        raise bad_type(
            "train",
            expected="a function that returns a model or flat weights",
            got=type(found).__name__,
            cure="Return the trained module.",
        )
    weights = problem.weights()
    space = Space("weights", (len(weights),), weights.dtype, weights.device)
    return _End(problem, space.flatten(found))
