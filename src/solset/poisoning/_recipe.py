"""Poisoning of a whole recipe: changed data under which training itself ends where a goal says."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from solset.changes import Move
from solset.checks import checked, points_of, positive
from solset.errors import Status, bad_value
from solset.goals import Goal
from solset.poisoning._budget import Budget, FeasibleSet
from solset.poisoning._judgement import Judgement, Verdict
from solset.results import TableResult, computed
from solset.training import GoalCheck, RunAttribution, Training

RecipeGoal = Goal | Callable[[nn.Module], Tensor]


@dataclass(frozen=True)
class RecipeRound:
    """One round of the ascent.

    Attributes:
        goal: Mean of the goal over the seeds at the end of training on the data of this round.
        size: Norm of the perturbation that the budget bounds.
    """

    goal: float
    size: float


@dataclass(frozen=True, eq=False, repr=False)
class RecipePoisoning(TableResult):
    """A perturbation under which a recipe, run again, ends at a larger value of a goal.

    Attributes:
        points: Indices ``K`` of the points that move.
        dx: Perturbation, ``(|K|, *input)``, in input units; inside the budget to the last bit.
        clean: Mean of the goal over the seeds on clean data.
        reached: Mean of the goal over the seeds on the moved data, by real runs.
        seeds: Seeds of the runs whose mean was raised; :meth:`judge` asks others.
        rounds: Rounds of the ascent in order.
        exposure: Norm of the goal's derivative in the features of each point on clean data, ``(n,)``:
            how fast the goal rises if that point alone moves.
        smoothness: Comparison of the scores of the first seed on clean data with two real reruns.
    """

    points: tuple[int, ...]
    dx: Tensor
    clean: float
    reached: float
    seeds: tuple[int, ...]
    rounds: tuple[RecipeRound, ...]
    exposure: Tensor
    smoothness: GoalCheck | None
    _training: Training = field(repr=False)
    _goal: RecipeGoal = field(repr=False)

    @computed
    def status(self) -> Status:
        """``doubtful`` where real reruns contradict the derivative by which points moved."""
        return (
            Status.DOUBTFUL if self.smoothness is not None and self.smoothness.is_rough else Status.CONVERGED
        )

    @computed
    def message(self) -> str:
        """What the reruns contradict; the goal before and after is real in any case."""
        if self.smoothness is None or self.status is Status.CONVERGED:
            return ""
        return (
            f"the design and its exposure rest on a derivative that does not hold: {self.smoothness.headline}"
        )

    @property
    def headline(self) -> str:
        """The rise of the goal on the seeds of the design, and the number of rounds."""
        rise = f"goal {self.clean:.4g} → {self.reached:.4g} in {len(self.rounds)} rounds"
        return f"{rise}, mean of {len(self.seeds)} seeds" if len(self.seeds) > 1 else f"{rise}, one seed"

    @property
    def change(self) -> Move:
        """The perturbation as a change of the data, for retraining."""
        return Move(list(self.points), self.dx)

    def rows(self) -> list[dict[str, Any]]:
        """One dict per round: number, mean goal, and size of the perturbation."""
        return [{"round": i, "goal": one.goal, "size": one.size} for i, one in enumerate(self.rounds)]

    def ranking(self) -> list[tuple[int, float]]:
        """The points to guard: each training point with its exposure, the largest first."""
        order = self.exposure.argsort(descending=True).tolist()
        return [(i, float(self.exposure[i])) for i in order]

    def judge(self, seeds: Sequence[int]) -> Judgement:
        """The goal after real runs of the recipe from other seeds, on clean and on moved data.

        Args:
            seeds: Seeds that the design did not use.

        Raises:
            ValueError: If the design used a seed.

        Cost: two trainings for each seed.
        """
        if repeated := sorted({*seeds} & {*self.seeds}):
            raise bad_value(
                "seeds",
                expected="seeds that the design did not use",
                got=f"{repeated} among them",
                cure="Pass range(100, 106), for example.",
            )
        verdicts = []
        for seed in seeds:
            recipe = [self._training.with_seed(seed)]
            before, after = (_mean_goal(recipe, self._goal, change) for change in (None, self.change))
            verdicts.append(Verdict(f"seed {seed}", before, after, None, None, None))
        return Judgement(self.clean, tuple(verdicts), _sign(self._goal))


@checked
def poison_training(
    training: Training,
    goal: RecipeGoal,
    budget: Budget,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    rounds: int = 10,
    start: Tensor | None = None,
    progress: bool | None = None,
) -> RecipePoisoning:
    """The perturbation within a budget under which a recipe ends at a large value of a goal.

    Each round runs the recipe on the moved data from every seed, and replays each run for the derivative of
    the goal in the features of the points (Maclaurin et al. 2015). The mean over seeds gives the step: it
    goes towards the farthest perturbation along the derivative, by Frank and Wolfe's rule ``2 / (k + 2)``,
    so every round stays inside the budget. The best round by its real runs is returned.

    Args:
        training: Recipe with its clean data.
        goal: Function of the trained module, in evaluation mode, that returns the number to be raised; or one
            of :mod:`solset.goals` with one value, which says whether it is raised or lowered.
        budget: Points that may move, how far, and within which valid features.
        seeds: Seeds over which the goal is averaged. More seeds make a design that other seeds confirm.
        rounds: Number of rounds, each of one step.
        start: Perturbation from which to start, ``(|K|, *input)``; zero by default.
        progress: Whether to show a progress bar; by default only on a terminal.

    Raises:
        ValueError: If points, bounds or the start do not fit the data, or no seed is given.

    Cost: about four trainings for each seed and round, one for each seed at the end, and two reruns that
    verify the derivative of the first seed; with a start four more for each seed.

    Example:
        >>> from functools import partial
        >>> from torch import nn
        >>> def zero() -> nn.Module:
        ...     model = nn.Linear(1, 1, bias=False)
        ...     nn.init.zeros_(model.weight)
        ...     return model
        >>> recipe = {"optimizer": partial(torch.optim.SGD, lr=0.25), "epochs": 1}
        >>> one = torch.ones(1, 1)
        >>> training = Training(zero, nn.MSELoss(), one, 2 * one, **recipe)  # one step ends at w = x
        >>> goal, budget = (lambda model: model.weight.sum()), Budget([0], 0.1)
        >>> design = poison_training(training, goal, budget, seeds=[0], rounds=1, progress=False)
        >>> round(design.clean, 4), round(design.reached, 4)
        (1.0, 1.1)
    """
    positive("rounds", rounds)
    if not seeds:
        raise bad_value("seeds", expected="one seed or more", got="none", cure="Pass (0, 1, 2).")
    feasible = _feasible(training, budget)
    dx = torch.zeros_like(feasible.inputs) if start is None else feasible.project(start)
    recipes = [training.with_seed(seed) for seed in seeds]
    course: list[tuple[float, Tensor]] = []
    clean_worth = _attributed(recipes, goal, None, verify=True)
    exposure = _slope(clean_worth).flatten(1).norm(dim=1)
    hidden = None if progress is None else not progress
    for turn in tqdm(range(rounds), desc="poisoning", disable=hidden, leave=False):
        is_clean = turn == 0 and start is None
        worth = clean_worth if is_clean else _attributed(recipes, goal, Move(list(budget.points), dx))
        course.append((_mean([float(one.value) for one in worth]), dx))
        slope = _slope(worth)
        share = 2 / (turn + 2)
        target = feasible.farthest(_sign(goal) * slope[list(budget.points)].to(dx))
        dx = feasible.project(dx + share * (target - dx))
    course.append((_mean_goal(recipes, goal, Move(list(budget.points), dx)), dx))
    clean = _mean([float(one.value) for one in clean_worth])
    reached, best = max(course, key=lambda one: _sign(goal) * one[0])
    told = tuple(RecipeRound(value, feasible.size(moved)) for value, moved in course)
    points = tuple(int(i) for i in budget.points)
    numbers = tuple(int(seed) for seed in seeds)
    smooth = clean_worth[0].smoothness
    return RecipePoisoning(points, best, clean, reached, numbers, told, exposure, smooth, training, goal)


def _feasible(training: Training, budget: Budget) -> FeasibleSet:
    budget.require_features()
    points = points_of(budget.points, training.point_count)
    return budget.around(training.features(points))


def _attributed(
    recipes: Sequence[Training], goal: RecipeGoal, change: Move | None, *, verify: bool = False
) -> list[RunAttribution]:
    """The derivative of the goal after real runs from every seed; that of the first is verified if asked."""
    worths = []
    for place, recipe in enumerate(recipes):
        run = _on(recipe, change).run(progress=False)
        worth = run.attribute(goal, verify=verify and place == 0)
        if isinstance(worth.value, Tensor):
            got, cure = f"one of {len(worth.value)}", "Ask for their mean."
            raise bad_value("goal", expected="a goal with one value", got=got, cure=cure)
        worths.append(worth)
    return worths


def _slope(worths: Sequence[RunAttribution]) -> Tensor:
    """The mean derivative over seeds in all features, which the budget found to be movable."""
    return torch.stack([worth.features for worth in worths if worth.features is not None]).mean(dim=0)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _mean_goal(recipes: Sequence[Training], goal: RecipeGoal, change: Move | None) -> float:
    if isinstance(goal, Goal):
        values = [float(_on(recipe, change).run(progress=False).value(goal)) for recipe in recipes]
    else:
        with torch.no_grad():
            values = [float(goal(_on(recipe, change).train(progress=False))) for recipe in recipes]
    return _mean(values)


def _sign(goal: RecipeGoal) -> float:
    return goal.sign if isinstance(goal, Goal) else 1.0


def _on(recipe: Training, change: Move | None) -> Training:
    return recipe if change is None else recipe.on(change)
