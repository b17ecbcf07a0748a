"""The judge of a designed perturbation: real retraining, with its numbers beside the predicted ones."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor, nn

from solset.analysis.design.goals import Goal
from solset.analysis.design.poisoning import Poisoning
from solset.analysis.influence import Moved
from solset.analysis.retrain import Method
from solset.door import checked
from solset.errors import bad_type, bad_value
from solset.linalg import Space
from solset.problem import Problem
from solset.risk import EmpiricalRisk

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
            ``(n, *input)`` and their targets; the model has the problem's parameter names.
        seeds: For each of which ``train`` is called.
        clean: The goal after the same retrainings on clean data, from :attr:`Judgement.clean` of an earlier
            judgement; what is not in it is trained.

    Raises:
        TypeError: If training returns neither weights nor a model.
        ValueError: If there is no way to retrain, seeds come without a trainer, or weights do not fit.

    Cost: twice every retraining.
    """
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
        before = goal.value(problem, retrained(problem.risk())) if known is None else known
        weights = retrained(moved)
        slope = moved.at(weights).gradient() if isfinite(float(weights.sum())) else weights
        after = goal.value(problem, weights)
        verdicts.append(Verdict(name, before, after, *told, float(torch.linalg.vector_norm(slope))))
    return Judgement(goal.value(problem, problem.weights()), tuple(verdicts), goal.sign)


def _ways(
    problem: Problem, methods: Mapping[str, Method], train: Trainer | None, seeds: Sequence[int]
) -> dict[str, Callable[[EmpiricalRisk], Tensor]]:
    """From data, as a risk at ``w̄``, to retrained weights, by name."""
    outputs = problem.risk().outputs()
    ways: dict[str, Callable[[EmpiricalRisk], Tensor]] = {
        name: lambda risk, method=method: method.run(risk, outputs).weights
        for name, method in methods.items()
    }
    for seed in seeds if train is not None else ():
        ways[f"from scratch, seed {seed}"] = lambda risk, seed=seed: _from_scratch(problem, risk, train, seed)
    return ways


def _from_scratch(problem: Problem, risk: EmpiricalRisk, train: Trainer | None, seed: int) -> Tensor:
    assert train is not None  # noqa: S101 - for the type checker: no way is made without one
    inputs, targets = risk.points[range(problem.point_count)]
    found = train(inputs.clone(), targets.clone(), seed)
    if isinstance(found, nn.Module):
        named = dict(found.named_parameters())
        missing = [name for name in risk.layout.shapes if name not in named]
        if missing:
            raise bad_value(
                "train",
                expected="a function that returns the problem's kind of model",
                got=f"one without {missing[:3]}",
                cure="Build the same network.",
            )
        found = risk.layout.join([named[name].detach() for name in risk.layout.shapes])
    if not isinstance(found, Tensor):
        raise bad_type(
            "train",
            expected="a function that returns a model or flat weights",
            got=type(found).__name__,
            cure="Return the trained module.",
        )
    own = problem.weights()
    return Space("weights", (len(own),), own.dtype, own.device).flatten(found)
