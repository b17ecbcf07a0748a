"""What a run on designed perturbations is asked to do, and on what."""

from dataclasses import dataclass
from functools import partial
from math import inf, prod
from typing import Any, Literal, cast

import torch

from solset.checks import positive, within
from solset.errors import bad_type, bad_value
from solset.goals import Goal
from solset.poisoning import Budget, Trainer
from solset.problem import Problem
from solset.reports._options import (
    Settings,
    check_seed,
    integers,
    option,
    points_option,
    seed_option,
    shape,
    source_option,
)


def _check_seeds(name: str, seeds: tuple[int, ...]) -> None:
    for seed in seeds:
        check_seed(name, seed)


@dataclass(frozen=True)
class PoisonSettings(Settings):
    """Settings of ``solset poison``; each field says what it is in its help text."""

    source: str = source_option("(problem, goal), (problem, goal, train) or (training, goal)")
    points: tuple[int, ...] = points_option("that may move")
    radius: float = option(
        flag="--radius",
        check=partial(positive, cure="It is in input units."),
        help="Radius of the budget: the largest change of the points, in input units after preprocessing.",
    )
    norm: Literal["l2", "linf"] = option(
        "l2", flag="--norm", help="Norm of the budget: the Euclidean norm or the largest entry."
    )
    scope: Literal["per_point", "total"] = option(
        "per_point",
        flag="--scope",
        help="Scope of the radius: it bounds the change of each point, or that of all points together.",
    )
    lower: float = option(
        -inf, flag="--lower", default_help="no bound", help="Smallest value that a feature may take."
    )
    upper: float = option(
        inf, flag="--upper", default_help="no bound", help="Largest value that a feature may take."
    )
    training: int = option(
        1000,
        flag="--training",
        check=partial(within, low=0, cure="Leave it out."),
        help="Number of gradient-descent steps that the poisoner counts on; "
        "0 counts on the solution nearest to the trained weights.",
    )
    learning_rate: float | None = option(
        None,
        flag="--learning-rate",
        check=partial(positive, cure="Leave it out."),
        default_help="1 / the largest eigenvalue of the Gauss-Newton matrix",
        help="Learning rate of the gradient descent that is counted on.",
    )
    rounds: int = option(
        12,
        flag="--rounds",
        check=partial(within, low=1, cure="Leave it out."),
        help="Largest number of rounds; each round linearises the problem once.",
    )
    random: int = option(
        5,
        flag="--random",
        check=partial(within, low=0, cure="Leave it out."),
        help="Number of random perturbations of the same size to compare with.",
    )
    seeds: tuple[int, ...] = option(
        (),
        flag="--from-scratch",
        parse=partial(integers, expected="seeds such as 1,2", cure="Leave it out for none."),
        check=_check_seeds,
        default_help="none",
        help="Seeds with which the function train is called, on clean and on moved data, such as 1,2.",
    )
    image: tuple[int, int] | None = option(
        None,
        flag="--image",
        parse=shape,
        default_help="the shape of the inputs",
        help="Height and width of the images as which points are shown, such as 8x8.",
    )
    seed: int = seed_option("the random perturbations")

    def budget(self) -> Budget:
        """What may move, how far."""
        return Budget(self.points, self.radius, self.norm, self.scope, self.lower, self.upper)


@dataclass(frozen=True)
class PoisonTask:
    """What a user's function returned."""

    problem: Problem  # Trained point whose points may move
    goal: Goal  # Goal that the poisoner pursues
    train: Trainer | None = None  # Training from scratch, if there is one

    def facts(self) -> dict[str, Any]:
        """What results depend on besides settings and the problem: a run is resumed with the same only.

        The goal's value tells what its identity does not show, such as changed code; of the trainer only the
        name is known.

        Cost: one evaluation of the goal.
        """
        value = self.goal.value(self.problem.risk(), self.problem.weights())
        return {
            "goal": self.goal.identity(),
            "goal at the trained weights": f"{value:.6g}",  # rounded: sums may differ in their last digits
            "trainer": self.train and getattr(self.train, "__qualname__", type(self.train).__qualname__),
        }


def task_of(returned: object) -> PoisonTask:
    """The problem, the goal and perhaps the trainer that a user's function returned."""
    match returned:
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

    Cost: one backward pass over the goal.
    """
    problem, features = task.problem, prod(task.problem.input_shape)
    task.goal.check(problem.risk())
    task.goal.slope(problem.risk(), problem.weights())
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
