"""Large perturbations: the path of the solution set from the trained point to the moved data."""

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from solset.changes import Change, Move
from solset.checks import checked, positive
from solset.courses import Course, CourseFile, Ending, Meter, Retrained, State, StopReason, course_of
from solset.derivatives import GraphicalDerivative
from solset.errors import SolsetWarning, bad_value
from solset.operators import InformativeRows
from solset.outofcore import gram_solver
from solset.paths._fitted import KeptOutputs
from solset.paths._fitted_steps import FittedSteps
from solset.paths._isolated_steps import IsolatedSteps
from solset.paths._stepper import PathOptions, Refusal
from solset.problem import AUTO, Optimality, Problem, Stationary, as_map, keeps_outputs
from solset.retraining import LevenbergMarquardt, Newton, retrain
from solset.risk import EmpiricalRisk, identity
from solset.storage import Checkpoint


@checked
def follow_path(
    problem: Problem,
    change: Change,
    *,
    optimality: Optimality = "auto",
    max_error: float = 1e-3,
    rows: InformativeRows | None = None,
    nearest: bool = False,
    max_gradients: int | float | None = None,
    options: PathOptions = PathOptions(),  # noqa: B008 - frozen
    checkpoint: str | Path | None = None,
    progress: bool | None = None,
) -> Course:
    """The path of solutions over ``x(τ) = x̄ + τΔx``, ``0 ≤ τ ≤ 1``, that starts at the trained weights.

    It goes along any other change as well. At an isolated solution targets move, weights of points and the
    weight decay go to their new values, and a label goes from old to new by a mixture of the two losses.
    Where outputs are kept, those of points with new targets and of new points go in a straight line to the
    outputs that fit; rows of points that are removed are dropped, and weights of points change nothing.

    - ``interpolating``: ``w' = -J⁺ J_x Δx`` on the set ``f(x(τ), w) = f̄`` of kept outputs. Each step
      predicts by the graphical derivative (Adams–Bashforth), factorises once at the predicted point,
      corrects along the set by the slope there (Adams–Moulton), and then onto the set by
      ``w ← w - J⁺ (f(x(τ), w) - f̄)``, with the same factorisation while that contracts. The difference of
      the two formulas and the contraction decide how long steps are; the residual cannot, because it does
      not show an error along the set. Where piecewise linear activations switch, the slope jumps. Such a
      step goes from kink to kink, with slopes by conjugate gradients, and follows a kink that both of its
      sides push to (a network with ReLUs does so for much of its way). Kinks of pooling and of anything else
      that is no activation are not seen, nor those of more than ``options.max_activations`` activations:
      there the difference of the formulas alone decides, and one step crosses one kink.
    - ``stationary``, at an isolated solution: Newton's method on ``R(x(τ), w) = 0`` with exact products of
      the Hessian, by conjugate gradients with the Gauss–Newton matrix of the trained point, factorised once.

    The end is *a* point of the set and depends on the path; ``nearest`` adds the nearest point. It is not
    what a training of finite length reaches: see :func:`solset.retraining.follow_retraining`.

    Args:
        problem: The trained point, with its data.
        change: Change of the training data, such as ``solset.Move(points, dx)``, with ``points=None`` for
            all.
        optimality: Map whose solutions are followed: ``"auto"``, ``"interpolating"`` or ``"stationary"``, as
            for :meth:`Problem.derivative`.
        max_error: Error of the end along the set relative to the length of the path; at an isolated
            solution, relative to the change of the weights. An estimate that the steps are chosen by, not a
            bound: kinks that are not seen make it rough.
        rows: Choice of rows of ``J``, as for :meth:`Problem.derivative`, made again at every step.
        nearest: Whether to look for the solution nearest to ``w̄`` too, for the data that the path reached.
            It keeps all outputs, and is refused where rows are chosen. The course does not count its cost.
        max_gradients: Cost after which to stop, in gradients of all points; no limit by default.
        options: Lengths of steps, limits and accuracies of the inner iterations.
        checkpoint: File (safetensors with JSON in its header) that holds the course so far. If it exists,
            the course continues where it was left, with the same numbers.
        progress: Whether to show a progress bar; by default only on a terminal.

    Returns:
        The course with the reason why it ended: a fold (the smallest eigenvalue of ``H`` or singular value of
        ``J`` goes to zero), a bifurcation (minima go on as saddles), rows of ``J`` that lose their rank, a
        loss that pulls at the outputs again, an activation kink that no step gets across, or one of the
        limits. A course that ended early is what was reached until there.

    Warns:
        SolsetWarning: If the path ended early, with its place; or if the nearest solution was not found.

    Raises:
        ValueError: If the arguments do not fit, the map has no path, the problem has neither kept outputs
            nor an isolated solution, or the checkpoint is of another path; says what differs.

    Cost: a Gram matrix of the rows in use for each step, and for each kink two to four slopes, each about as
    many gradients as iterations, three to twenty; at an isolated solution one Gauss–Newton factorisation and
    some tens of Hessian products. The course counts it in gradients and keeps ``p`` numbers a station.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> model = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.constant_(model.weight, 2.0)
        >>> problem = Problem(model, nn.MSELoss(), torch.tensor([[1.0]]), torch.tensor([[2.0]]))
        >>> course = follow_path(problem, Move(None, torch.tensor([[1.0]])), progress=False)
        >>> round(float(course.weights), 3)  # w x = 2 at x = 2; the linear estimate is 0
        1.0
    """
    _check(optimality, max_error, max_gradients)
    risk = problem.risk()
    points, flat = change.chosen(risk), change.direction(risk)
    settings = {"max_error": max_error, "rows": rows, "options": options}
    file = _course_file(checkpoint, risk, change, {"map": as_map(optimality) or AUTO, **settings})
    states, ending = file.read(risk.weights)
    derivative = check_path(problem, change, optimality=optimality, rows=rows, nearest=nearest)
    if ending is None:
        stepper = _stepper_of(problem, change, derivative, rows, max_error, options)
        states = states or [stepper.start()]
        stepper.meter.gradients = states[-1].station.gradients
        hidden = None if progress is None else not progress  # None: tqdm looks for a terminal
        follower = _Follower(stepper, file, max_gradients or math.inf, options.min_step)
        ending = follower.run(states, hidden)
    course = course_of(states, ending, derivative.optimality, risk.layout)
    if not course.is_complete:
        warnings.warn(f"the path ended early: {course.message}", SolsetWarning, stacklevel=3)
    if not nearest:
        return course
    reached = Move(points, course.end.place * change.space(risk).unflatten(flat))
    return replace(course, nearest=_nearest(problem, reached, derivative.optimality))


def _course_file(
    path: str | Path | None, risk: EmpiricalRisk, change: Change, settings: Mapping[str, object]
) -> CourseFile:
    """The checkpoint of a course, with everything that its numbers depend on."""
    parts = {"verb": "path", "dx": change.direction(risk), "points": change.chosen(risk), **settings}
    # A direction says where features go, and not which labels or points come.
    marked = risk if isinstance(change, Move) else change.partly(risk, 1.0)
    return CourseFile(Checkpoint.at(path, "course", lambda: identity(marked, parts)))


def check_path(
    problem: Problem,
    change: Change,
    *,
    optimality: Optimality = "auto",
    rows: InformativeRows | None = None,
    nearest: bool = False,
) -> GraphicalDerivative:
    """The graphical derivative that a path starts along, after a check that there is a path.

    Args:
        problem: The trained point, with its data.
        change: Change of the training data, whatever its length.
        optimality: Map whose solutions are to be followed.
        rows: Choice of rows of ``J``; none by default.
        nearest: Whether the nearest solution is asked for too.

    Raises:
        ValueError: If solutions are neither kept outputs nor isolated, or the nearest solution is asked for
            where rows are chosen or for another change than a move.

    Cost: that of :meth:`Problem.derivative`, which the path needs anyway.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> model = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.constant_(model.weight, 2.0)
        >>> problem = Problem(model, nn.MSELoss(), torch.tensor([[1.0]]), torch.tensor([[2.0]]))
        >>> check_path(problem, Move(None, torch.tensor([[1.0]]))).optimality
        'interpolating'
    """
    derivative = problem.derivative(change, optimality=optimality, rows=rows)
    if not derivative.linearisation.map.is_exact:  # a path leads to stationary weights, wherever it starts
        derivative = problem.derivative(change, optimality=Stationary())
    if not isinstance(change, Move) and nearest:
        raise bad_value(
            "nearest",
            expected="left out for this change",
            got=nearest,
            cure="Take retrain with LevenbergMarquardt, which looks for the nearest solution.",
        )
    if not derivative.keeps_outputs:
        if not problem.risk().has_decay:
            raise bad_value(
                "problem",
                expected="a fitted one whose rows of J are independent, or one with weight decay",
                got=derivative.reason,
                cure="Add weight decay: without it solutions are not isolated, and many paths start here.",
            )
    elif nearest and (rows is not None or derivative.linearisation.left_out > 0):
        raise bad_value(
            "nearest",
            expected="left out where rows of J are chosen",
            got=nearest,
            cure="Leave rows out and give the problem a larger memory_budget: it keeps all outputs.",
        )
    return derivative


def _stepper_of(
    problem: Problem,
    change: Change,
    derivative: GraphicalDerivative,
    rows: InformativeRows | None,
    max_error: float,
    options: PathOptions,
) -> FittedSteps | IsolatedSteps:
    """The steps along the map of a derivative, with a meter of their own."""
    meter = Meter(problem.point_count)
    if not derivative.keeps_outputs:
        return IsolatedSteps(problem, change, max_error=max_error, meter=meter, options=options)
    has_choice = derivative.linearisation.left_out > 0 or rows is not None
    choice = (rows or InformativeRows()) if has_choice else None
    constraint = KeptOutputs(problem, change, rows=choice, meter=meter)
    max_fit = max(options.max_fit, 3 * problem.fit)  # what training left must not end the path
    return FittedSteps(constraint, derivative, max_error=max_error, max_fit=max_fit, options=options)


@dataclass(frozen=True)
class _Follower:
    """Takes one step after the other, and writes the checkpoint after each."""

    stepper: FittedSteps | IsolatedSteps  # Source of the steps
    file: CourseFile  # Checkpoint of the course
    max_gradients: int | float  # Cost after which to stop
    min_step: float  # Shortest step before the path is given up, as a share of the path

    def run(self, states: list[State], hidden: bool | None) -> Ending:
        """Appends states until the end or a reason to stop."""
        style, meter = "{l_bar}{bar}|{postfix}", self.stepper.meter
        with tqdm(total=1.0, desc="path", disable=hidden, leave=False, bar_format=style) as bar:
            state = states[-1]
            bar.update(state.station.place)
            while (left := 1.0 - state.station.place) > 0:
                if meter.gradients >= self.max_gradients:
                    self.file.write(states)
                    detail = f"{meter.gradients:.3g} gradients are spent"
                    return _ending(StopReason.BUDGET, state, detail)
                step = left if state.step > 0.999 * left else state.step
                attempt = self.stepper.attempt(state, step)
                if isinstance(attempt, Refusal):
                    state = replace(state, step=attempt.scale * step)
                    if state.step < self._shortest(states):
                        return self._ended(states, _ending(attempt.reason, state, attempt.detail))
                    continue
                bar.update(attempt.station.place - state.station.place)
                bar.set_postfix_str(f"loss {attempt.station.all_loss:.2g}, {meter.gradients:.0f} gradients")
                state = attempt
                states.append(state)
                self.file.write(states)
        detail = f"{meter.gradients:.3g} gradients"
        return self._ended(states, _ending(StopReason.END, state, detail))

    def _ended(self, states: list[State], ending: Ending) -> Ending:
        self.file.write(states, ending)
        return ending

    def _shortest(self, states: list[State]) -> float:
        """Length ``Δτ`` below which the path is given up, relative to the first step that succeeded.

        Until one did, the limit is rounding: how long ``Δx`` is says nothing about how far the path goes.
        """
        if len(states) == 1:
            return 1e-8
        return self.min_step * min(1.0, states[1].station.place / self.stepper.first_step)


def _ending(reason: StopReason, state: State, detail: str) -> Ending:
    return Ending(reason, f"{reason} at τ = {state.station.place:.6g}: {detail}")


def _check(optimality: Optimality, max_error: float, max_gradients: int | float | None) -> None:
    asked = as_map(optimality)
    if asked is not None and not asked.is_exact:
        raise bad_value(
            "optimality",
            expected='"auto", "interpolating" or "stationary"',
            got=repr(optimality),
            cure="Its solutions are those of the stationary map: follow that.",
        )
    if not 0 < max_error < 1:
        raise bad_value("max_error", expected="between 0 and 1", got=max_error, cure="Use 1e-3.")
    if max_gradients is not None:
        positive("max_gradients", max_gradients, cure="Leave it out.")


def _nearest(problem: Problem, change: Move, optimality: str) -> Retrained:
    solver = gram_solver(problem.memory_budget, problem.spill_folder)
    method = LevenbergMarquardt(solver=solver) if keeps_outputs(optimality) else Newton()
    return retrain(problem, change, method=method)
