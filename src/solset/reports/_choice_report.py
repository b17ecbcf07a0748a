"""Whole points by design on a user's own model: chosen, really solved for, and compared with chance."""

from dataclasses import dataclass
from functools import cached_property, partial
from math import isfinite
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm import tqdm

from solset.checks import within
from solset.errors import bad_value
from solset.poisoning import Drops, Flips, PointPoisoning, design_poisoning
from solset.problem import Problem
from solset.reports._options import Settings, numbers, option, points_option, seed_option, source_option
from solset.reports._poison_task import PoisonTask
from solset.reports._records import restored
from solset.reports._report import write_report
from solset.reports._report_parts import (
    Column,
    Finding,
    Report,
    Section,
    Table,
    columns,
    leftover_gradient,
    sentence,
)
from solset.reports._run_folder import RunFolder
from solset.retraining import Newton, retrain

_at_least_one = partial(within, low=1, cure="Leave it out for the default.")


@dataclass(frozen=True)
class ChoiceSettings(Settings):
    """Settings of ``solset choose``; each field says what it is in its help text."""

    source: str = source_option("(problem, goal)")
    change: Literal["flip", "drop"] = option(
        flag="--change", help="Change of a chosen point: its label flips, or the point is dropped."
    )
    most: int = option(flag="--most", check=_at_least_one, help="Largest number of points that change.")
    points: tuple[int, ...] = points_option("that may change", default=(), default_help="all")
    labels: tuple[float, ...] = option(
        (),
        flag="--labels",
        parse=numbers,
        default_help="those that occur in the training data",
        help="Labels that a point may get, such as 0,1.",
    )
    tried: int = option(
        8,
        flag="--tried",
        check=_at_least_one,
        help="Number of further points that are really solved for in each round, from each choice of points.",
    )
    breadth: int = option(
        4,
        flag="--breadth",
        check=_at_least_one,
        help="Number of choices of points that go on to the next round.",
    )
    random: int = option(
        5,
        flag="--random",
        check=partial(within, low=0, cure="Leave it out."),
        help="Number of random choices of as many points to compare with.",
    )
    seed: int = seed_option("the random choices")

    def budget(self) -> Flips | Drops:
        """The points that may change, and how many."""
        points = self.points or None
        if self.change == "drop":
            return Drops(self.most, points, self.tried, self.breadth)
        return Flips(self.most, points, self.labels or None, self.tried, self.breadth)

    def check(self, problem: Problem) -> None:
        """Refuses points that the problem does not have, and labels of no use, before anything is computed."""
        if self.labels and self.change == "drop":
            cure = "Leave --labels out, or flip labels."
            raise bad_value("labels", expected="none where points are dropped", got=self.labels, cure=cure)
        self.budget()
        if self.points:
            problem.check_points(self.points)


def choice_experiment(task: PoisonTask, settings: ChoiceSettings, folder: RunFolder) -> Path:
    """Runs a choice of points into its folder and returns the path of the page."""
    result = _Choice(task, settings, folder).numbers()
    folder.write_json("result.json", result)
    folder.write_csv("rounds.csv", result["rounds"])
    return write_report(folder, _page(task, settings, result))


@dataclass(frozen=True)
class _Choice:
    """One run, stage by stage."""

    task: PoisonTask
    settings: ChoiceSettings
    folder: RunFolder

    def numbers(self) -> dict[str, Any]:
        """Everything the page shows, computed or read back."""
        design = self.folder.stage("design", self._design, beside=["weights.safetensors"])
        count = len(design["points"])
        draws = tqdm(range(self.settings.random if count else 0), desc="random choices", leave=False)
        others = [self.folder.stage(f"random_{k}", partial(self._random, k, count)) for k in draws]
        return restored({**design, "random": others})

    @cached_property
    def budget(self) -> Flips | Drops:
        """The points that may change, and how many."""
        return self.settings.budget()

    def _design(self) -> dict[str, Any]:
        problem, goal = self.task.problem, self.task.goal
        file = self.folder.reserve("search.safetensors")
        chosen = design_poisoning(problem, goal, self.budget, checkpoint=file)
        assert isinstance(chosen, PointPoisoning)  # noqa: S101 - a budget of whole points has this result
        self.folder.write_tensors("weights.safetensors", {"weights": chosen.weights})
        names = ("points", "trained", "clean", "predicted", "real", "status", "message")
        facts = {name: getattr(chosen, name) for name in names}
        return {**facts, "is_confirmed": chosen.is_confirmed, "rounds": chosen.rows()}

    def _random(self, number: int, count: int) -> dict[str, Any]:
        problem, goal = self.task.problem, self.task.goal
        generator = torch.Generator().manual_seed(1000 * self.settings.seed + number)
        change = self.budget.random(problem.risk(), count, generator)
        ended = retrain(problem, change, method=Newton())
        return {
            "number": number + 1,
            "change": str(change),
            "value": goal.value(problem.risk(), ended.weights),
            "status": ended.status,
        }


_ROUNDS = (
    *columns("d", point="point"),
    *columns(label="new label"),
    *columns(".3g", score="first-order change"),
    *columns(".5g", value="goal, really solved"),
    *columns("d", tried="tried"),
)
_RANDOM = (
    Column("number", "choice", "d"),
    Column("change", "change"),
    *columns(".5g", value="goal, really solved"),
    *columns(status="outcome"),
)


def _page(task: PoisonTask, settings: ChoiceSettings, result: dict[str, Any]) -> Report:
    verb = "raise" if task.goal.sign > 0 else "lower"
    deed = "labels, flipped," if settings.change == "flip" else "points, left out,"
    chance = (
        [Table("Random choices", _RANDOM, result["random"])] if result["random"] else ["None was asked for."]
    )
    return Report(
        "Which points decide where the model goes?",
        f"Which {settings.most} {deed} {verb} the {task.goal.describe()} most, and by how much?",
        summary=_summary(result),
        sections=(
            Section(
                "The points, round by round",
                "Each round adds the point whose change moves the goal most, among those of the best first-order scores. A choice of points that a search finds is a lower bound of what is possible.",
                [Table("Rounds", _ROUNDS, result["rounds"]), f"It stopped because: {result['message']}."],
            ),
            Section(
                "Beside chance",
                "As many points as the choice has, drawn at random, with a random other label where labels flip.",
                chance,
            ),
        ),
        warnings=(*_warnings(result), *leftover_gradient(task.problem)),
    )


def _summary(result: dict[str, Any]) -> list[Finding]:
    others = [one["value"] - result["clean"] for one in result["random"]]
    typical = sum(map(abs, others)) / len(others) if others and all(map(isfinite, others)) else None
    points = ", ".join(map(str, result["points"])) or "none"
    return [
        Finding("points", points, "The points of the best choice, in the order in which they were found."),
        Finding(
            "change of the goal, really solved",
            result["real"] - result["clean"],
            f"The goal goes from {result['clean']:.5g} on the clean data to {result['real']:.5g}, where Newton's method ends on the changed data.",
        ),
        Finding(
            "random points",
            typical,
            "Mean size of the change by as many points that chance chose, solved in the same way.",
        ),
        Finding(
            "predicted by one Newton step",
            result["predicted"] - result["clean"],
            "The change of the goal at the estimate from the trained weights, without solving.",
        ),
    ]


def _warnings(result: dict[str, Any]) -> tuple[str, ...]:
    unsolved = sum(one["status"] != "converged" for one in result["random"])
    message = result["message"]
    said = (
        (result["status"] != "converged", sentence(message)),
        (
            not result["is_confirmed"],
            f"The change is far from small: one Newton step from the trained weights predicts a goal of {result['predicted']:.4g}, and solving for it really gives {result['real']:.4g}.",
        ),
        (unsolved, f"For {unsolved} random choices Newton's method did not end at a certified minimum."),
    )
    return tuple(text for applies, text in said if applies)
