"""Where retraining of a stated length would end at large perturbations: exponential Euler in time."""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from solset.changes import Change
from solset.checks import checked
from solset.errors import bad_type, bad_value
from solset.operators._cost import FORWARD
from solset.outofcore import gram_solver
from solset.paths._checkpoint import CourseFile
from solset.paths._cost import Meter
from solset.paths._course import Course, Station, StopReason
from solset.paths._multistep import Slopes
from solset.paths._segments import Segment
from solset.paths._state import Ending, State
from solset.problem import Problem
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
    tol: float = 0.05,
    builds: int = 12,
    checkpoint: str | Path | None = None,
    progress: bool | None = None,
) -> Course:
    """Where gradient descent from ``w̄`` on the moved data would be after a stated number of steps.

    Retraining is a flow in time on fixed, moved data. It is followed by exponential Euler: over a segment of
    ``k`` steps ``w ← w - Aᵀ φ_k(AAᵀ) r`` with ``A = √α Λ^{1/2} J`` and the weighted residual ``r`` at the
    present weights on ``x̄ + Δx``, where ``φ_k(s) = (1 - (1 - ηs)^k)/s`` (:class:`filters.GradientFlow`).
    Under squared loss a network linear in its weights needs one segment; other losses change their curvature
    ``Λ`` on the way. Each is as long as the slopes of the loss obey its linearisation, which a forward pass
    tells; with few builds left they are evenly spaced in the logarithm of time.

    Args:
        problem: The trained point.
        change: Change of the training data, such as :class:`solset.Move`.
        steps: Of gradient descent.
        learning_rate: ``η``, for the loss as reduced.
        record_at: Steps, from 1 to ``steps``, at which the weights are wanted too; they cost no build.
        tol: How far ``∇_f L``, the slopes of the loss in the outputs, may be from the linearisation at the
            end of a segment, relative to their norm at its start. Not an error of the weights: the message
            states the largest seen.
        builds: Most Gram matrices. With few of them segments are longer than ``tol`` allows.
        checkpoint: As for :func:`follow_path`.
        progress: Whether to show a progress bar; by default only on a terminal.

    Returns:
        The course, with stations at the ends of segments and at ``record_at``; their place counts steps.

    Raises:
        ValueError: If the arguments do not fit, the rows of ``J`` do not fit the memory budget, or the
            checkpoint is of another course; says what differs.

    Cost: all rows of ``J`` a build, and some forward passes.

    Notes:
        Meaningful while gradient descent itself is stable, ``ηs < 2``; beyond it the filter warns.

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
    chosen, flat = change.chosen(risk), change.direction(risk)
    _check(steps, learning_rate, record_at, tol, builds)
    moved = change.applied_to(risk)
    settings = {
        "dx": flat,
        "points": chosen,
        "steps": steps,
        "learning_rate": learning_rate,
        "record_at": sorted(record_at),
        "tol": tol,
        "builds": builds,
    }
    file = CourseFile(Checkpoint.at(checkpoint, "course", lambda: identity(risk, settings)))
    states, ending = file.read(moved.weights)
    if ending is None:
        meter = Meter(problem.point_count)
        solver = gram_solver(problem.memory_budget, problem.spill_folder)
        run = _Retraining(
            moved, chosen, solver, meter, GradientFlow(steps, learning_rate), record_at, tol, builds
        )
        states = states or [run.start()]
        hidden = None if progress is None else not progress  # None: tqdm looks for a terminal
        ending = run.follow(states, file, hidden)
    return Course(
        stations=tuple(state.station for state in states),
        trail=torch.stack([state.weights for state in states]),
        reason=ending.reason,
        message=ending.message,
        optimality="retraining",
        layout=moved.layout,
    )


class _Retraining:
    """Segment after segment.

    A state's ``reference`` holds the builds so far and the largest defect, its ``step`` the length of the
    segment before.
    """

    def __init__(
        self,
        risk: EmpiricalRisk,
        points: list[int],
        solver: Dual,
        meter: Meter,
        flow: GradientFlow,
        record_at: Sequence[int],
        tol: float,
        builds: int,
    ) -> None:
        self._risk, self._points, self._solver, self._meter = risk, points, solver, meter
        self._flow, self._record_at, self._tol, self._builds = flow, sorted(set(record_at)), tol, builds

    def start(self) -> State:
        """The trained weights on the moved data."""
        weights = self._risk.weights
        self._meter.add(FORWARD)
        station = self._station(0, weights, self._risk.outputs(), None, 0.0, 0.0)
        return State(weights, station, 1.0, Slopes(torch.zeros_like(weights)), (0.0, 0.0))

    def follow(self, states: list[State], file: CourseFile, hidden: bool | None) -> Ending:
        """Appends states until all steps are taken."""
        self._meter.gradients = states[-1].station.gradients
        total, place = self._flow.steps, int(states[-1].station.place)
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
        text = f"{StopReason.END}, step {place}, with {used:.0f} builds; largest defect {worst:.2g}"
        ending = Ending(StopReason.END, text)
        file.write(states, ending)
        return ending

    def _segment(self, state: State, place: int) -> list[State]:
        """The stations of the next segment, its end last; none where something in it is not finite."""
        segment = Segment.at(self._risk.at(state.weights), self._solver, self._meter)
        if segment is None:
            return []
        length, change, outputs, defect = self._longest(segment, state, place)
        used, worst = state.reference[0] + 1, max(state.reference[1], defect)
        found = []
        for record in self._record_at:
            if place < record < place + length:
                early = segment.change(record - place, self._flow.learning_rate)
                there = self._outputs(state.weights + early)
                found.append((record, early, there))
        found.append((place + length, change, outputs))
        new = []
        for at, moved, there in found:
            weights, travelled = state.weights + moved, state.station.length + float(moved.norm())
            station = self._station(at, weights, there, segment, travelled, defect)
            sizes = (travelled, station.all_loss, station.residual, defect, float(there.abs().max()))
            if not all(math.isfinite(size) for size in sizes):
                return []
            new.append(State(weights, station, float(length), Slopes(moved), (used, worst)))
        return new

    def _longest(self, segment: Segment, state: State, place: int) -> tuple[int, Tensor, Tensor, float]:
        """The longest segment whose end obeys the linearisation, but no shorter than builds allow."""
        left = self._flow.steps - place
        spare = max(self._builds - int(state.reference[0]), 1)
        # Evenly spaced in log(1 + steps) to the end.
        even = (place + 1) * ((self._flow.steps + 1) / (place + 1)) ** (1 / spare) - 1 - place
        shortest = left if spare == 1 else min(max(math.ceil(even), 1), left)
        length = min(max(2 * int(state.step), shortest), left)
        found = self._tried(segment, state, length)
        while not found[3] <= self._tol and length > shortest:
            length = max(length // 2, shortest)
            found = self._tried(segment, state, length)
        while found[3] <= self._tol and length < left:
            longer = self._tried(segment, state, min(2 * length, left))
            if not longer[3] <= self._tol:
                break
            length, found = longer[0], longer
        return found

    def _tried(self, segment: Segment, state: State, length: int) -> tuple[int, Tensor, Tensor, float]:
        change = segment.change(length, self._flow.learning_rate)
        outputs = self._outputs(state.weights + change)
        return length, change, outputs, segment.defect(change, slopes_at(self._risk, outputs))

    def _outputs(self, weights: Tensor) -> Tensor:
        self._meter.add(FORWARD)
        return self._risk.at(weights).outputs()

    def _station(
        self,
        place: int,
        weights: Tensor,
        outputs: Tensor,
        segment: Segment | None,
        length: float,
        defect: float,
    ) -> Station:
        losses = losses_at(self._risk, outputs)
        self._meter.add(1.0)
        return Station(
            place=float(place),
            moved_loss=float(losses[self._points].mean()),
            all_loss=float(losses.mean()),
            residual=float(self._risk.at(weights).gradient().norm()),
            length=length,
            smallest=float("nan") if segment is None else segment.smallest,
            rows=0 if segment is None else segment.rows.operator.shape[0],
            error=defect,
            gradients=self._meter.gradients,
        )


def _check(steps: int, learning_rate: float, record_at: Sequence[int], tol: float, builds: int) -> None:
    GradientFlow(steps, learning_rate)  # refuses negative steps and rates that are not positive
    if isinstance(steps, bool) or not isinstance(steps, int):
        raise bad_type("steps", expected="an integer", got=steps, cure="Count the steps of gradient descent.")
    if not all(1 <= step <= steps for step in record_at):
        raise bad_value("record_at", expected=f"in 1..{steps}", got=tuple(record_at), cure="Take more steps.")
    if not 0 < tol < math.inf:
        raise bad_value("tol", expected="positive", got=tol, cure="Use 0.05.")
    if builds < 1:
        raise bad_value("builds", expected="one or more", got=builds, cure="Use 12.")
