"""Large perturbations: the path of the solution set from the trained point to the moved data."""

import math
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from solset.changes import Move
from solset.checks import checked
from solset.derivatives import GraphicalDerivative
from solset.errors import bad_value
from solset.operators import InformativeRows
from solset.outofcore import gram_solver
from solset.paths._checkpoint import CourseFile, course_settings
from solset.paths._cost import Meter
from solset.paths._course import Course, StopReason
from solset.paths._fitted import KeptOutputs
from solset.paths._fitted_steps import FittedSteps
from solset.paths._isolated_steps import IsolatedSteps
from solset.paths._state import Ending, Refusal, State, Stepper
from solset.problem import Optimality, Problem
from solset.retraining import LevenbergMarquardt, Newton, Retrained, retrain
from solset.risk import Indices

SMALLEST_STEP = 1e-4  # Δτ below which a path is given up that could start with the step it wanted to
NO_STEP = 1e-8  # Δτ below which there is no first step
UNFITTED = 1e-2  # mean norm of the loss's gradient in the outputs up to which a training set counts as fitted


@checked
def follow_path(
    problem: Problem,
    change: Move,
    *,
    optimality: Optimality = "auto",
    tol: float = 1e-3,
    rows: InformativeRows | None = None,
    nearest: bool = False,
    most_gradients: int | float | None = None,
    checkpoint: str | Path | None = None,
    progress: bool | None = None,
) -> Course:
    """The path of solutions over ``x(τ) = x̄ + τΔx``, ``0 ≤ τ ≤ 1``, that starts at the trained weights.

    - ``interpolating``: ``w' = -J⁺ J_x Δx`` on the set ``f(x(τ), w) = f̄`` of kept outputs. Each step
      predicts by the graphical derivative (Adams–Bashforth), factorises once at the predicted point,
      corrects along the set by the slope there (Adams–Moulton), and onto the set by
      ``w ← w - J⁺ (f(x(τ), w) - f̄)`` with the same factorisation for as long as that contracts. Steps are as
      long as the difference of the two formulas and the contraction allow: the residual alone cannot see an
      error along the set. Where piecewise linear activations switch, the slope jumps: such a step goes from
      kink to kink, with slopes by conjugate gradients, and along a kink that both sides push to (a network
      under a ReLU does so for much of its way). Pooling and other kinks that are not activations are not
      seen, and those of more than 10⁷ values (points times units) not looked at: there the difference of the
      formulas alone chooses the steps, and takes a step to cross one kink.
    - ``stationary``, at an isolated solution: Newton's method on ``R(x(τ), w) = 0`` with exact products of
      the Hessian, by CG preconditioned with the Gauss–Newton matrix of the trained point, factorised once.

    The end is *a* point of the set and depends on the path; ``nearest`` gives the nearest one too. It is
    also not what a training of finite length reaches: see :func:`follow_retraining`.

    Args:
        problem: The trained point.
        change: Move ``Δx`` of some points, ``solset.Move(points, dx)``, with ``points=None`` for all.
        optimality: ``"auto"``, ``"interpolating"`` or ``"stationary"``, as for
            :meth:`Problem.graphical_derivative`.
        tol: Error of the end along the set, relative to the length of the path, that steps are chosen for; at
            an isolated solution the error of the end relative to the change of the weights. An estimate, not
            a bound: kinks that are not seen make it rough.
        rows: As for :meth:`Problem.graphical_derivative`; chosen again at every step.
        nearest: Whether to look for the solution nearest to ``w̄`` too, for the data that the path reached.
            It keeps all outputs, and is refused where rows are chosen. The cost is not counted in the course.
        most_gradients: Cost by count after which to stop.
        checkpoint: A file (safetensors with JSON in its header) that holds the course so far. If it exists,
            the course is taken up where it was left, with the same numbers.
        progress: Whether to show a progress bar; by default only on a terminal.

    Returns:
        The course with the reason why it ended: a fold (the smallest eigenvalue of ``H`` or singular value of
        ``J`` goes to zero), rows of ``J`` that lose their rank, a loss that pulls at the outputs again, an
        activation kink that no step gets across, or one of the limits. Then it is what was reached until
        there.

    Raises:
        ValueError: If the arguments do not fit, the map has no path, the problem has neither kept outputs
            nor an isolated solution, or the checkpoint is of another path; says what differs.

    Cost: a Gram matrix of the rows in use a step, and for each kink two to four slopes, each about as many
    gradients as iterations, three to twenty; at an isolated solution one Gauss–Newton factorisation and
    some tens of Hessian products. The course states it in gradients by count, and keeps ``p`` numbers a
    station.

    Example:
        >>> from torch import nn
        >>> model = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.constant_(model.weight, 2.0)
        >>> problem = Problem(model, nn.MSELoss(), torch.tensor([[1.0]]), torch.tensor([[2.0]]))
        >>> course = follow_path(problem, Move(None, torch.tensor([[1.0]])), progress=False)
        >>> round(float(course.weights), 3)  # w x = 2 at x = 2; the linear estimate is 0
        1.0
    """
    chosen, flat = _checked(problem, change, optimality, tol, most_gradients)
    risk = problem.risk()
    given = {"map": optimality, "tol": tol, "rows": None if rows is None else [rows.tol, rows.most]}
    marks = {} if checkpoint is None else course_settings(risk, flat, chosen, verb="path", **given)
    file = CourseFile(None if checkpoint is None else Path(checkpoint), marks)
    states, ending = file.read(risk.weights)
    derivative = check_path(problem, points=chosen, optimality=optimality, rows=rows, nearest=nearest)
    if ending is None:
        meter = Meter(problem.point_count)
        moved = problem.data_space(chosen).unflatten(flat)
        stepper = _stepper(problem, chosen, moved, derivative, rows, tol, meter)
        states = states or [stepper.start()]
        meter.gradients = states[-1].station.gradients
        hidden = None if progress is None else not progress  # None: tqdm looks for a terminal
        ending = _follow(stepper, states, file, meter, most_gradients or math.inf, hidden)
    course = Course(
        stations=tuple(state.station for state in states),
        trail=torch.stack([state.weights for state in states]),
        reason=ending.reason,
        message=ending.message,
        optimality=derivative.optimality,
        layout=risk.layout,
    )
    if not nearest:
        return course
    return replace(
        course, nearest=_nearest(problem, Move(chosen, course.end.place * flat), derivative.optimality)
    )


def check_path(
    problem: Problem,
    *,
    points: Indices | None = None,
    optimality: Optimality = "auto",
    rows: InformativeRows | None = None,
    nearest: bool = False,
) -> GraphicalDerivative:
    """The graphical derivative that a path starts along, once it is known that there is a path.

    Args:
        problem: The trained point.
        points: As for :func:`follow_path`, like the others.
        optimality: The map.
        rows: Which rows of ``J``.
        nearest: Whether the nearest solution is asked for.

    Raises:
        ValueError: If solutions are neither kept outputs nor isolated, or rows are chosen and the nearest
            solution is asked for.

    Cost: that of :meth:`Problem.graphical_derivative`, which serves the path too.
    """
    derivative = problem.graphical_derivative(points=points, optimality=optimality, rows=rows)
    if derivative.optimality == "stationary":
        if not problem.risk().weight_decay > 0:
            raise bad_value(
                "problem",
                expected="a fitted one whose rows of J are independent, or one with weight decay",
                got=derivative.reason,
                cure="Without either its solutions are not isolated, and no path among them is singled out.",
            )
    elif nearest and (rows is not None or derivative.linearisation.left_out > 0):
        raise bad_value(
            "nearest",
            expected="left out where rows of J are chosen",
            got=nearest,
            cure="Give no rows and the problem a larger memory_budget: it keeps the outputs of all points.",
        )
    return derivative


def _follow(
    stepper: Stepper,
    states: list[State],
    file: CourseFile,
    meter: Meter,
    most: int | float,
    hidden: bool | None,
) -> Ending:
    """Appends states until the end or a reason to stop."""
    with tqdm(
        total=1.0, desc="path", disable=hidden, leave=False, bar_format="{l_bar}{bar}|{postfix}"
    ) as bar:
        state = states[-1]
        bar.update(state.station.place)
        while (left := 1.0 - state.station.place) > 0:
            if meter.gradients >= most:
                file.write(states)
                return _ending(StopReason.BUDGET, state, f"{meter.gradients:.3g} gradients are spent")
            step = left if state.step > 0.999 * left else state.step
            found = stepper.attempt(state, step)
            if isinstance(found, Refusal):
                state = replace(state, step=found.scale * step)
                if found.is_final or state.step < _smallest_step(stepper, states):
                    ending = _ending(found.reason, state, found.detail)
                    file.write(states, ending)
                    return ending
                continue
            bar.update(found.station.place - state.station.place)
            bar.set_postfix_str(f"loss {found.station.all_loss:.2g}, {meter.gradients:.0f} gradients")
            state = found
            states.append(state)
            file.write(states)
    ending = _ending(StopReason.END, state, f"{meter.gradients:.3g} gradients")
    file.write(states, ending)
    return ending


def _smallest_step(stepper: Stepper, states: list[State]) -> float:
    """``Δτ`` below which the path is given up: how far it goes is no matter of how long ``Δx`` is."""
    if len(states) == 1:
        return NO_STEP
    return SMALLEST_STEP * min(1.0, states[1].station.place / stepper.first_step)


def _ending(reason: StopReason, state: State, detail: str) -> Ending:
    return Ending(reason, f"{reason} at τ = {state.station.place:.6g}: {detail}")


def _stepper(
    problem: Problem,
    points: list[int],
    dx: Tensor,
    derivative: GraphicalDerivative,
    rows: InformativeRows | None,
    tol: float,
    meter: Meter,
) -> Stepper:
    if derivative.optimality == "stationary":
        return IsolatedSteps(problem, points, dx, tol=tol, meter=meter)
    is_chosen = derivative.linearisation.left_out > 0 or rows is not None
    kept = KeptOutputs(
        problem, points, dx, rows=(rows or InformativeRows()) if is_chosen else None, meter=meter
    )
    largest = max(1.0, float(kept.target.abs().max()))
    output_tol = max(1e-10, 1000 * torch.finfo(dx.dtype).eps) * largest
    fit_limit = max(UNFITTED, 3 * problem.fit)
    return FittedSteps(kept, derivative, tol=tol, output_tol=output_tol, fit_limit=fit_limit)


def _checked(
    problem: Problem,
    change: Move,
    optimality: str,
    tol: float,
    most_gradients: int | float | None,
) -> tuple[list[int], Tensor]:
    """The points as a list and the perturbation flat."""
    chosen, flat = change.chosen(problem.risk()), change.direction(problem.risk())
    if optimality == "gauss_newton":
        raise bad_value(
            "optimality",
            expected='"auto", "interpolating" or "stationary"',
            got=repr(optimality),
            cure="Its solutions are those of the stationary map: follow that.",
        )
    if not 0 < tol < 1:
        raise bad_value("tol", expected="between 0 and 1", got=tol, cure="Use 1e-3.")
    if most_gradients is not None and not most_gradients > 0:
        raise bad_value("most_gradients", expected="positive", got=most_gradients, cure="Leave it out.")
    return chosen, flat


def _nearest(problem: Problem, change: Move, optimality: str) -> Retrained:
    solver = gram_solver(problem.memory_budget, problem.spill_folder)
    method = LevenbergMarquardt(solver=solver) if optimality == "interpolating" else Newton()
    return retrain(problem, change, method=method)
