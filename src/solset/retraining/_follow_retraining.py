"""Where a retraining of a stated length would end, for large changes: exponential Euler in time."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from solset.changes import Change, Move
from solset.checks import checked, positive, within
from solset.courses import (
    Course,
    CourseFile,
    Ending,
    Meter,
    Slopes,
    State,
    Station,
    StopReason,
    course_of,
    stated_losses,
)
from solset.errors import SolsetWarning
from solset.operators import FORWARD
from solset.outofcore import gram_solver
from solset.problem import Problem
from solset.retraining._methods import check_recorded
from solset.retraining._segments import Segment
from solset.risk import EmpiricalRisk, identity, losses_at, slopes_at
from solset.solvers import Dual
from solset.solvers.filters import GradientFlow
from solset.storage import Checkpoint


@checked
def follow_retraining(
    problem: Problem,
    change: Change,
    *,
    steps: int,
    learning_rate: float,
    record_at: Sequence[int] = (),
    max_defect: float = 0.05,
    max_builds: int = 12,
    checkpoint: str | Path | None = None,
    progress: bool | None = None,
) -> Course:
    """Where gradient descent from ``w̄`` on the changed data would be after a stated number of steps.

    Retraining is a flow in time on fixed, changed data, followed by exponential Euler: over a segment of
    ``k`` steps ``w ← w - Aᵀ φ_k(AAᵀ) r`` with ``A = √α Λ^{1/2} J`` and the weighted residual ``r`` at the
    present weights on ``x̄ + Δx``, where ``φ_k(s) = (1 - (1 - ηs)^k)/s`` (:class:`filters.GradientFlow`).
    Under squared loss a network that is linear in its weights needs one segment; other losses change their
    curvature ``Λ`` on the way. A segment is as long as the slopes of the loss obey its linearisation, which a
    forward pass tells. Where few builds are left, segments are evenly spaced in the logarithm of time.

    Args:
        problem: The trained point, with its data.
        change: Change of the training data, such as :class:`solset.Move`.
        steps: Number of gradient-descent steps.
        learning_rate: Learning rate ``η`` for the loss as reduced.
        record_at: Steps, from 1 to ``steps``, at which the weights are wanted too; they cost no build.
        max_defect: Largest distance of the gradient, and of the slopes ``∇_f L`` of the loss in the outputs,
            from the linearisation at the end of a segment, relative to their norms at its start; and largest
            length that the flow makes of the gradient's distance, relative to the way of the weights, which
            estimates the error of the weights. The message states the largest of all three.
        max_builds: Limit of Gram matrices. Where it is small, segments are longer than ``max_defect`` allows.
        checkpoint: File that holds the course so far, as for :func:`solset.follow_path`.
        progress: Whether to show a progress bar; by default only on a terminal.

    Returns:
        The course, with stations at the ends of segments and at ``record_at``; their place counts steps.

    Warns:
        SolsetWarning: If a segment had to be longer than ``max_defect`` allows, or numbers are not finite.

    Raises:
        ValueError: If the arguments do not fit, the rows of ``J`` do not fit the memory budget, or the
            checkpoint is of another course; says what differs.

    Cost: all rows of ``J`` for each build, and some gradients.

    Notes:
        Meaningful while gradient descent itself is stable, ``ηs < 2``; beyond that the filter warns.

    Example:
        >>> from torch import nn
        >>> from solset import Move
        >>> model = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.constant_(model.weight, 2.0)
        >>> problem = Problem(model, nn.MSELoss(), torch.tensor([[1.0]]), torch.tensor([[2.0]]))
        >>> course = follow_retraining(
        ...     problem, Move(None, torch.tensor([[1.0]])), steps=1, learning_rate=0.1
        ... )
        >>> round(float(course.weights), 3)  # 2 - 0.1 · 2 · (2·2 - 2) · 2
        1.2
    """
    risk = problem.risk()
    flat = change.direction(risk)
    _check(steps, learning_rate, record_at, max_defect, max_builds)
    moved = change.applied_to(risk)
    chosen = _points_watched(change, risk, moved)
    # A direction says where features go, and not which labels or points come.
    marked = risk if isinstance(change, Move) else moved
    settings = {"dx": flat, "points": chosen, "steps": steps, "learning_rate": learning_rate}
    settings |= {"record_at": sorted(record_at), "max_defect": max_defect, "max_builds": max_builds}
    file = CourseFile(Checkpoint.at(checkpoint, "course", lambda: identity(marked, settings)))
    states, ending = file.read(moved.weights)
    if ending is None:
        meter = Meter(problem.point_count)
        solver = gram_solver(problem.memory_budget, problem.spill_folder)
        flow = GradientFlow(steps, learning_rate)
        wanted = sorted(set(record_at))
        run = _Retraining(risk, change, moved, chosen, solver, meter, flow, wanted, max_defect, max_builds)
        states = states or [run.start()]
        hidden = None if progress is None else not progress  # None: tqdm looks for a terminal
        ending = run.follow(states, file, hidden)
    course = course_of(states, ending, "retraining", moved.layout)
    _warn_of_defect(course, states[-1].reference[1], max_defect)
    return course


def _warn_of_defect(course: Course, worst: float, max_defect: float) -> None:
    if worst > max_defect or not course.is_complete:
        left = f"its largest defect is {worst:.2g} where {max_defect:.2g} is allowed: weights may be far off"
        text = f"the retraining {course.message}; {left}; allow more builds"
        warnings.warn(text, SolsetWarning, stacklevel=4)


def _points_watched(change: Change, risk: EmpiricalRisk, moved: EmpiricalRisk) -> list[int]:
    """The points that change, or those that join, or all, where points leave or none changes."""
    chosen = change.chosen(risk)
    if len(moved.points) == len(risk.points) and chosen:
        return chosen
    return list(range(len(risk.points), len(moved.points))) or list(range(len(moved.points)))


@dataclass(frozen=True)
class _End:
    """A place in a segment."""

    length: int  # Number of steps from the start of the segment
    change: Tensor  # Change of the weights in these steps, ``(p,)``
    outputs: Tensor  # Outputs there, ``(n, c)``
    defect: float  # Defect of the segment that ends there


@dataclass(frozen=True)
class _Retraining:
    """Follows a retraining, one segment after the other.

    A state's ``reference`` holds the number of builds so far and the largest defect, its ``step`` the length
    of the last segment.
    """

    before: EmpiricalRisk  # Risk on the data before the change
    change: Change  # Change of the training data
    risk: EmpiricalRisk  # Risk on the changed data, at the trained weights
    points: list[int]  # Indices of the points that change
    solver: Dual  # Solver that keeps the rows of a segment
    meter: Meter  # Meter that adds up the cost
    flow: GradientFlow  # Number of steps, and learning rate
    record_at: list[int]  # Steps at which the weights are wanted, in increasing order
    max_defect: float  # Largest defect of a segment
    max_builds: int  # Limit of Gram matrices

    def start(self) -> State:
        """The trained weights on the changed data."""
        weights = self.risk.weights
        self.meter.add(FORWARD)
        station = self._station(0, weights, self.risk.outputs(), None, 0.0, 0.0)
        return State(weights, station, 1.0, Slopes(torch.zeros_like(weights)), (0.0, 0.0))

    def follow(self, states: list[State], file: CourseFile, hidden: bool | None) -> Ending:
        """Appends states until all steps are taken."""
        self.meter.gradients = states[-1].station.gradients
        total, place = self.flow.steps, int(states[-1].station.place)
        with tqdm(total=total, initial=place, desc="retraining", disable=hidden, leave=False) as bar:
            while place < total:
                new = self._segment(states[-1], place)
                if not new:
                    ending = Ending(StopReason.NONFINITE, f"{StopReason.NONFINITE} after step {place}")
                    file.write(states, ending)
                    return ending
                states += new
                bar.update(int(states[-1].station.place) - place)
                place = int(states[-1].station.place)
                file.write(states)
        used, worst = states[-1].reference
        first, last = states[0].station.residual, states[-1].station.residual
        share = f"; the gradient there is {last / first:.2g} of that at the start" if first > 0 else ""
        text = f"{StopReason.END}, step {place}, with {used:.0f} builds; largest defect {worst:.2g}{share}"
        ending = Ending(StopReason.END, text)
        file.write(states, ending)
        return ending

    def _segment(self, state: State, place: int) -> list[State]:
        """The stations of the next segment, its end last; none where something in it is not finite."""
        segment = Segment.at(self.risk.at(state.weights), self.solver, self.meter)
        if segment is None:
            return []
        end = self._longest(segment, state, place)
        reference = (state.reference[0] + 1, max(state.reference[1], end.defect))
        records = [record - place for record in self.record_at if place < record < place + end.length]
        ends = [*(self._record(segment, state, length, end.defect) for length in records), end]
        new = []
        for one in ends:
            weights, travelled = state.weights + one.change, state.station.length + float(one.change.norm())
            station = self._station(place + one.length, weights, one.outputs, segment, travelled, end.defect)
            largest = float(one.outputs.abs().max())
            sizes = (travelled, station.all_loss, station.residual, end.defect, largest)
            if not all(math.isfinite(size) for size in sizes):
                return []
            new.append(State(weights, station, float(end.length), Slopes(one.change), reference))
        return new

    def _record(self, segment: Segment, state: State, length: int, defect: float) -> "_End":
        """The place after a number of steps of a segment."""
        change = segment.change(replace(self.flow, steps=length))
        return _End(length, change, self._outputs(state.weights + change), defect)

    def _longest(self, segment: Segment, state: State, place: int) -> "_End":
        """The longest segment whose end obeys the linearisation, but no shorter than builds allow."""
        left = self.flow.steps - place
        spare = max(self.max_builds - int(state.reference[0]), 1)
        # Evenly spaced in log(1 + steps) to the end.
        even = (place + 1) * ((self.flow.steps + 1) / (place + 1)) ** (1 / spare) - 1 - place
        shortest = left if spare == 1 else min(max(math.ceil(even), 1), left)
        length = min(max(2 * int(state.step), shortest), left)
        end = self._tried(segment, state, length)
        while not end.defect <= self.max_defect and length > shortest:
            length = max(length // 2, shortest)
            end = self._tried(segment, state, length)
        while end.defect <= self.max_defect and length < left:
            longer = self._tried(segment, state, min(2 * length, left))
            if not longer.defect <= self.max_defect:
                break
            length, end = longer.length, longer
        return end

    def _tried(self, segment: Segment, state: State, length: int) -> "_End":
        flow = replace(self.flow, steps=length)
        change = segment.change(flow)
        sweep = self.risk.at(state.weights + change).sweep()
        self.meter.add(1.0)
        slopes = slopes_at(self.risk, sweep.outputs)
        defect = segment.defect(flow, change, slopes, sweep.gradient, state.station.length)
        return _End(length, change, sweep.outputs, defect)

    def _outputs(self, weights: Tensor) -> Tensor:
        self.meter.add(FORWARD)
        return self.risk.at(weights).outputs()

    def _station(
        self,
        place: int,
        weights: Tensor,
        outputs: Tensor,
        segment: Segment | None,
        length: float,
        defect: float,
    ) -> Station:
        there, losses = self.risk.at(weights), losses_at(self.risk, outputs)
        of_moved, of_all = stated_losses(self.change, self.before, there, losses, self.points)
        self.meter.add(1.0)
        return Station(
            place=float(place),
            moved_loss=of_moved,
            all_loss=of_all,
            residual=float(there.gradient().norm()),
            length=length,
            smallest=float("nan") if segment is None else segment.smallest,
            rows=0 if segment is None else segment.rows.operator.shape[0],
            error=defect,
            gradients=self.meter.gradients,
        )


def _check(
    steps: int, learning_rate: float, record_at: Sequence[int], max_defect: float, max_builds: int
) -> None:
    GradientFlow(steps, learning_rate)  # refuses negative steps and rates that are not positive
    check_recorded(record_at, steps)
    positive("max_defect", max_defect, cure="Use 0.05.")
    within("max_builds", max_builds, 1, cure="Use 12.")
