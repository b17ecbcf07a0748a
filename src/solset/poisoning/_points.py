"""Whole points by design: which labels to flip, or which points to drop, so that a goal changes most."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from heapq import nlargest
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from solset.changes import Change, Remove, Reweight
from solset.errors import Status, bad_value
from solset.goals import Goal
from solset.poisoning._design import DesignedChange, is_near
from solset.poisoning._point_budget import PointBudget
from solset.problem import Optimality, Problem, Stationary, as_map, single_answer
from solset.results import computed
from solset.retraining import Newton, Retrained
from solset.risk import Layout, identity
from solset.solvers import Solver
from solset.storage import Checkpoint, Probe


@dataclass(frozen=True)
class PointRound:
    """One more point that changes.

    Attributes:
        point: Index of the point.
        label: New label of the point; ``None`` for a point that is left out.
        score: Predicted change of the goal by this point, to first order at the weights before.
        value: Value of the goal at the weights that were really solved for.
        tried: Number of changes that were really solved for in this round.
    """

    point: int
    label: float | None
    score: float
    value: float
    tried: int


@dataclass(frozen=True, eq=False, repr=False)
class PointPoisoning(DesignedChange):
    """The points whose change moves a goal most, as far as a beam search finds them.

    Attributes:
        points: Indices of the points that change, in the order in which they were chosen.
        change: Change of the training data: a relabelling or a removal; ``None`` where no change helps.
        weights: Weights that solve the problem on the changed data, ``(p,)``.
        trained: Goal ``φ`` at the trained weights as they are.
        clean: Goal ``φ`` where the same solve ends on the clean data.
        predicted: Goal ``φ`` at the estimate for the whole change: one Newton step from the trained weights.
        real: Goal ``φ`` at :attr:`weights`, which Newton's method really solved for.
        solved: Outcome of that solve.
        course: Rounds in order, one for each point.
        reason: Sentence that says why the search stopped.
        layout: Names and shapes of the weights.
    """

    points: tuple[int, ...]
    change: Change | None
    weights: Tensor
    trained: float
    clean: float
    predicted: float
    real: float
    solved: Status
    course: tuple[PointRound, ...]
    reason: str
    layout: Layout = field(repr=False)

    @property
    def headline(self) -> str:
        """The change of the goal, really solved and predicted, and the points."""
        return (
            f"{self.status}, goal {self.clean:.4g} → {self.real:.4g} (one Newton step {self.predicted:.4g}), "
            f"points {', '.join(map(str, self.points)) or 'none'}"
        )

    @property
    def is_confirmed(self) -> bool:
        """Whether one Newton step predicts the real change of the goal, to a tenth."""
        return is_near(self.predicted, self.real, self.real - self.clean)

    @property
    def is_drifting(self) -> bool:
        """Whether training to the end alone changes the goal by more than a tenth of the effect."""
        effect = abs(self.clean) if self.change is None else abs(self.real - self.clean)
        return not is_near(self.trained, self.clean, effect)

    @computed
    def status(self) -> Status:
        """The outcome of the solve for the weights on the changed data."""
        return self.solved

    @computed
    def message(self) -> str:
        """The reason to stop, and whether the prediction holds."""
        text = self.reason
        if self.is_drifting:
            text += (
                f"; training had not stopped: its end on the clean data alone takes the goal from "
                f"{self.trained:.4g} to {self.clean:.4g}, so that these are points of another model"
            )
        if self.solved is not Status.CONVERGED:
            text += f"; {self._no_solution()}"
        if not self.is_confirmed:
            text += f"; one Newton step predicts {self.predicted:.4g} and not {self.real:.4g}"
        return text


def choose_points(
    problem: Problem,
    goal: Goal,
    budget: PointBudget,
    *,
    optimality: Optimality,
    solver: Solver | None,
    checkpoint: Path | str | None,
    progress: bool | None,
) -> PointPoisoning:
    """The search behind :func:`design_poisoning` for budgets of whole points; arguments as there."""
    goal.check(problem.risk())
    _refuse_fitted(problem, optimality)
    search = _Search(problem, goal, budget, as_map(optimality) or Stationary(), solver)
    start = search.place({}, None, ())
    if start.end.status is not Status.CONVERGED:  # no other solve can be compared with this one
        return search.outcome(
            start, start, "no point was tried, since the clean data have no solution nearby"
        )
    store = search.file(checkpoint, start)
    places, reason = store.resume(search.restored) or [start], "the budget is used up"
    hidden, rounds = None if progress is None else not progress, range(len(places[0].chosen), budget.most)
    for _ in tqdm(rounds, desc="poisoning", disable=hidden, leave=False):
        further = search.further(places)
        if not further:
            reason = "no other point raises the goal" if goal.sign > 0 else "no other point lowers the goal"
            break
        places = further
        _write(store, places)
    return search.outcome(start, places[0], reason)


def _refuse_fitted(problem: Problem, optimality: Optimality) -> None:
    asked = as_map(optimality)
    if problem.is_fitted if asked is None else asked.keeps_outputs:
        raise bad_value(
            "budget",
            expected="a Budget of features where the training set is fitted",
            got="one of whole points",
            cure="Fitted weights stay a solution without any of their points; train with weight decay.",
        )


@dataclass(frozen=True, eq=False)
class _Place:
    """Points with their choices, the solve on the changed data, the goal there, and the rounds so far."""

    chosen: dict[int, Tensor]
    end: Retrained
    value: float
    course: tuple[PointRound, ...]


@dataclass(frozen=True, eq=False)
class _Search:
    """What stays the same from round to round; attributes as the arguments of :func:`choose_points`."""

    problem: Problem
    goal: Goal
    budget: PointBudget
    optimality: Any
    solver: Solver | None

    def place(
        self, chosen: dict[int, Tensor], start: Tensor | None, course: tuple[PointRound, ...]
    ) -> _Place:
        """Where Newton's method ends on the changed data, from the trained weights or others."""
        risk = self.problem.risk()
        changed = self.budget.change(chosen).applied_to(risk) if chosen else risk
        end = Newton().run(changed if start is None else changed.at(start), risk.outputs)
        return _Place(chosen, end, self.goal.value(risk, end.weights), course)

    def file(self, path: Path | str | None, start: _Place) -> Checkpoint:
        """The checkpoint of this search, or of none without a path."""
        chosen = {**vars(self.budget), "points": self.problem.check_points(self.budget.points)}
        parts = {"goal": self.goal.identity(), "kind": type(self.budget).__name__, "budget": chosen}
        parts |= {"map": self.optimality, "solver": self.solver}
        value = torch.tensor(start.value, dtype=torch.float64)
        probe = Probe("the goal on the clean data", value, rtol=1e-6)
        return Checkpoint.at(
            path,
            "choice of points",
            lambda: identity(self.problem.risk(), parts, depends_on_batches=False),
            probe,
        )

    def restored(self, records: Any, arrays: Mapping[str, Tensor]) -> list[_Place]:
        """The places that an earlier search reached: their weights are solved for already."""
        places = []
        for i, course in enumerate(records["courses"]):
            rounds = tuple(PointRound(**one) for one in course)
            labels = arrays[f"labels {i}"]
            chosen = {one.point: label for one, label in zip(rounds, labels, strict=True)}
            places.append(self.place(chosen, arrays[f"weights {i}"].to(self.problem.weights()), rounds))
        return places

    def outcome(self, start: _Place, place: _Place, reason: str) -> PointPoisoning:
        """The result whose search began at one place and ended at another."""
        risk, goal = self.problem.risk(), self.goal
        change = self.budget.change(place.chosen) if place.chosen else None
        predicted = start.value
        if change is not None:
            answer = single_answer(self.problem, change, optimality=self.optimality, solver=self.solver)
            predicted = goal.value(risk, answer.solution.value)
        return PointPoisoning(
            points=tuple(place.chosen),
            change=change,
            weights=place.end.weights,
            trained=goal.value(risk, self.problem.weights()),
            clean=start.value,
            predicted=predicted,
            real=place.value,
            solved=place.end.status,
            course=place.course,
            reason=reason,
            layout=risk.layout,
        )

    def further(self, places: Sequence[_Place]) -> list[_Place]:
        """The best places with one more point, by their real values; none where no point helps."""
        reached = {}
        for before in places:
            scored = self._scores(before.chosen, before.end.weights)
            first = nlargest(self.budget.tried, scored, key=lambda one: self.goal.sign * one[0])
            for score, point, choice in first:
                place = self.place({**before.chosen, point: choice}, before.end.weights, before.course)
                if place.end.status is Status.CONVERGED and isfinite(place.value):
                    label = None if bool(choice.isnan().any()) else float(choice.reshape(-1)[0])
                    made = PointRound(point, label, score, place.value, len(first))
                    names = frozenset((i, float(c.nan_to_num().sum())) for i, c in place.chosen.items())
                    reached[names] = replace(place, course=(*before.course, made))
        best = nlargest(self.budget.breadth, reached.values(), key=lambda one: self.goal.sign * one.value)
        return best if best and self.goal.sign * (best[0].value - places[0].value) > 0 else []

    def _scores(self, chosen: Mapping[int, Tensor], weights: Tensor) -> list[tuple[float, int, Tensor]]:
        """The first-order change of the goal by every further change: one adjoint solve for all."""
        problem, names = self.problem, list(range(self.problem.point_count))
        if chosen:
            change = self.budget.change(chosen)
            problem = problem.moved_to(change, weights)
            names = [i for i in names if i not in chosen] if isinstance(change, Remove) else names
        allowed = set(self.problem.check_points(self.budget.points)) - set(chosen)
        places = [place for place, point in enumerate(names) if point in allowed]
        if not places or len(places) == len(names) == 1:
            return []
        risk = problem.risk()
        kind = Reweight(places)  # every kind of change has the same matrix
        line = problem.derivative(kind, optimality=self.optimality, solver=self.solver).linearisation
        adjoint = line.solve(self.goal.slope(risk, risk.weights)[1]).value
        scored = []
        for choice, change, whole in self.budget.options(risk, places):
            pulled = -(change.of_gradient(risk, 0).T @ adjoint) * whole
            scores = pulled.reshape(len(places), -1).sum(dim=1).tolist()
            pairs = zip(scores, places, strict=True)
            scored += [(score, names[place], choice) for score, place in pairs if score != 0.0]
        return scored


def _write(store: Checkpoint, places: Sequence[_Place]) -> None:
    """Stores the places between two rounds."""
    arrays = {f"weights {i}": place.end.weights for i, place in enumerate(places)}
    arrays |= {f"labels {i}": torch.stack(list(place.chosen.values())) for i, place in enumerate(places)}
    store.write({"courses": [[asdict(one) for one in place.course] for place in places]}, arrays)
