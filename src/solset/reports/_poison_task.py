"""What a run on designed perturbations is asked to do, and on what."""

from dataclasses import dataclass
from math import inf, prod
from typing import Any, Literal, cast

import torch

from solset.errors import bad_type, bad_value
from solset.goals import Goal
from solset.poisoning import Ascent, Budget
from solset.poisoning._judgement import Trainer
from solset.problem import Problem
from solset.reports._options import check_seed
from solset.reports._users import returned_by


@dataclass(frozen=True)
class PoisonSettings:
    """What a run is asked to do.

    Attributes:
        source: ``FILE.py:FUNCTION``; the function takes nothing and returns ``(problem, goal)`` or
            ``(problem, goal, train)``.
        points: ``K``, the points that may move.
        radius: Of the budget, in input units.
        norm: ``"l2"`` or ``"linf"``.
        scope: ``"per_point"`` or ``"total"``.
        lower: Smallest valid feature.
        upper: Largest valid feature.
        training: Gradient-descent steps that the poisoner counts on; 0 counts on the nearest solution.
        learning_rate: Of them; ``None`` takes one over the largest eigenvalue of the Gauss–Newton matrix.
        rounds: Linearisations at most.
        random: Random directions of the same size to compare with.
        seeds: Of training from scratch, where the function returned a trainer.
        image: Height and width in which points are shown; ``None`` for the shape they have.
        seed: Of the random directions.
    """

    source: str
    points: tuple[int, ...]
    radius: float
    norm: Literal["l2", "linf"] = "l2"
    scope: Literal["per_point", "total"] = "per_point"
    lower: float = -inf
    upper: float = inf
    training: int = 1000
    learning_rate: float | None = None
    rounds: int = 12
    random: int = 5
    seeds: tuple[int, ...] = ()
    image: tuple[int, int] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_seed(self.seed)
        for seed in self.seeds:
            check_seed(seed, "seeds")
        for name in ("training", "random"):
            if getattr(self, name) < 0:
                raise bad_value(name, expected="zero or more", got=getattr(self, name), cure="Leave it out.")
        Ascent(rounds=self.rounds)  # refuses what it cannot take before a folder is made
        if not self.radius > 0:
            raise bad_value("radius", expected="positive", got=self.radius, cure="It is in input units.")
        if self.learning_rate is not None and not 0 < self.learning_rate < inf:
            raise bad_value(
                "learning_rate", expected="positive and finite", got=self.learning_rate, cure="Leave it out."
            )

    def budget(self) -> Budget:
        """What may move, how far."""
        return Budget(self.points, self.radius, self.norm, self.scope, self.lower, self.upper)


@dataclass(frozen=True)
class PoisonTask:
    """What a user's function returned.

    Attributes:
        problem: The trained point.
        goal: What is to change.
        train: Training from scratch, if there is one.
    """

    problem: Problem
    goal: Goal
    train: Trainer | None = None

    def facts(self) -> dict[str, Any]:
        """What results depend on besides settings and the problem: a run is resumed with the same only.

        The goal's value tells what its identity does not show, such as changed code; of the trainer only the
        name is known.

        Cost: one evaluation of the goal.
        """
        value = self.goal.value(self.problem, self.problem.weights())
        return {
            "goal": self.goal.identity(),
            "goal at the trained weights": f"{value:.6g}",  # rounded: sums may differ in their last digits
            "trainer": self.train and getattr(self.train, "__qualname__", type(self.train).__qualname__),
        }


def load_task(source: str) -> PoisonTask:
    """The problem, the goal and perhaps the trainer that a user's function returns.

    Args:
        source: ``FILE.py:FUNCTION``.

    Raises:
        ValueError: If the file or the function is not there, or the function fails.
        TypeError: If it returns anything else.
    """
    match returned_by(source):
        case (Problem() as problem, Goal() as goal):
            return PoisonTask(problem, goal)
        case (Problem() as problem, Goal() as goal, train) if callable(train):
            return PoisonTask(problem, goal, cast("Trainer", train))
        case other:
            parts = other if isinstance(other, tuple) else (other,)
            raise bad_type(
                "source",
                expected="a function that returns (problem, goal) or (problem, goal, train)",
                got=f"({', '.join(type(part).__name__ for part in parts)})",
                cure="Return a solset.Problem, a solset goal, and a callable (inputs, targets, seed).",
            )


def check_poison_settings(task: PoisonTask, settings: PoisonSettings) -> None:
    """Refuses settings that do not fit the problem, before anything is computed.

    Args:
        task: What the user's function returned.
        settings: What to do.

    Raises:
        ValueError: If points, budget, goal, image shape or seeds do not fit.

    Cost: one backward pass over the goal.
    """
    problem, features = task.problem, prod(task.problem.input_shape)
    task.goal.check(problem)
    task.goal.slope(problem, problem.weights())
    feasible = settings.budget().at(problem)
    if not feasible.contains(torch.zeros_like(feasible.inputs)):
        raise bad_value(
            "lower",
            expected="a box of valid features that holds the points as they are",
            got=f"[{settings.lower}, {settings.upper}]",
            cure="Widen it; features are those after preprocessing.",
        )
    if settings.image is not None and prod(settings.image) != features:
        raise bad_value(
            "image", expected=f"of {features} pixels", got=settings.image, cure="Leave it out for none."
        )
    if settings.seeds and task.train is None:
        raise bad_value(
            "source",
            expected="a function that returns (problem, goal, train) where seeds are given",
            got="no trainer",
            cure="Return one, or leave --from-scratch out.",
        )
