"""The Lipschitz modulus of the solution map (Theorems 2 and 3), with what is known of it."""

import warnings
from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from solset.changes import Change, Move, Reweight
from solset.checks import checked, within
from solset.derivatives import Linearisation
from solset.errors import SolsetWarning, bad_type, bad_value
from solset.modulus._certificate import certify
from solset.modulus._kinds import Kind, alone, change_of, require_small
from solset.modulus._kinks import activation_margin
from solset.modulus._rank import rows_gain_rank
from solset.modulus._result import Carrier, Certainty, Certificate, LipschitzModulus
from solset.modulus._routes import Ratio, by_decomposition, by_products
from solset.problem import AUTO, Interpolating, Optimality, Problem, as_map
from solset.solvers import CG, LSMR, MINRES, Dual, Solver


@checked
def lipschitz_modulus(
    problem: Problem,
    kind: Kind = Move,
    *,
    points: Sequence[int] | None = None,
    layer: str | Sequence[str] | None = None,
    joint: bool = True,
    optimality: Optimality = "auto",
    solver: Solver | None = None,
    max_steps: int = 40,
    probes: int = 3,
    margin_candidates: int = 200,
) -> LipschitzModulus:
    """The exact Lipschitz modulus ``lip S(x̄|w̄)`` of the solution map in one kind of change.

    ``lip S = ‖D*S(x̄|w̄)‖`` (Mordukhovich; Rockafellar & Wets, theorem 9.40), if the criterion
    ``D*S(x̄|w̄)(0) = {0}`` holds, and infinite otherwise. For the interpolating map that is
    ``sup_u ‖J_xᵀu‖ / ‖Jᵀu‖``, the largest generalized singular value of ``(J_xᵀ, Jᵀ)``; for one layer, one
    point and one output it is the ratio of Theorem 2. For the others ``‖H⁺B‖₂``. Other kinds of change have
    their own data operator ``C`` in the place of ``J_x`` and ``B``: targets, factors of points, weight decay.

    Departs from the paper: Theorem 3 chains the moduli of single points into a bound; here the value is exact
    (:func:`modulus_chain` gives both), and several outputs are allowed.

    Args:
        problem: Problem at its trained weights.
        kind: Class of the change, or a change of that kind: ``Move`` for features; ``Relabel`` for targets
            that are numbers; ``Reweight`` for the relative factors of points, whose modulus is 0 where all
            points are fitted; ``Decay`` for the weight decay, whose modulus is the length of one derivative.
        points: Indices ``K`` of the points that change, for a class; all by default.
        layer: Name or name patterns of the weights that may move; all by default.
        joint: Whether the outputs of all points are constraints, or those of ``K`` alone (the paper's
            setting; interpolating map only).
        optimality: Optimality map or its name, as for :meth:`Problem.derivative`; with a layer, or
            without the other points, ``"auto"`` takes the interpolating map wherever the training set is
            fitted. It also does where dependent rows of a fitted problem, which are independent at nearby
            points, prove an infinite modulus, as those of duplicates do.
        solver: Solver of the linear systems. ``Dual`` (interpolating) and ``Dense`` (the others) see the
            spectrum and give exact values; ``CG`` or ``MINRES`` use products alone. By default the former
            where they fit.
        max_steps: Largest number of Lanczos vectors, where only products are used; more of them tighten the
            bounds.
        probes: Number of nearby points at which the rank is looked at, where the value is exact only if the
            rank is constant.
        margin_candidates: Number of smallest pre-activations that the activation margin looks at; 0 for none.

    Returns:
        Value in weight units per unit of the change, certificate, the worst direction and the change of the
        weights it causes.

    Raises:
        ValueError: If points or layer are not the problem's, the map does not apply, or the kind of change
            is never small: points that join or leave, class labels, sums.
        TypeError: If the solver is not one for the map.

    Cost: with ``Dual`` the Gram matrix (of all points and weights it is kept in the problem and shared with
    its derivatives; with a layer, or without the other points, made anew), ``c`` backward passes over the
    moved points, and ``O(m³)`` operations; with products alone up to ``max_steps`` solves.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> model = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.constant_(model.weight, 2.0)
        >>> problem = Problem(model, nn.MSELoss(), torch.tensor([[4.0]]), torch.tensor([[8.0]]))
        >>> lipschitz_modulus(problem).value  # w x = 8: |dw| = |w / x| |dx|
        0.5

    Notes:
        Meaningful only inside the activation region of a ReLU network, see ``certificate.activation_margin``.
        What counts as zero depends on the dtype: in float32 near-duplicates closer than about 1e-5 cannot be
        told from duplicates.
        On a selection of rows (a network too large for all of them) the value is a lower bound, and says so.
    """
    within("probes", probes, 0)
    within("margin_candidates", margin_candidates, 0)
    whole = change_of(problem, kind, points)
    require_small(problem, whole)
    part, change = part_of(problem, whole, layer, joint=joint)
    line = _linearise(part, change, optimality, solver, is_whole=layer is None, joint=joint)
    line, ratio, certificate = _certified(part, change, line, optimality, solver, max_steps, probes)
    for failure in line.premises.failures:
        warnings.warn(failure, SolsetWarning, stacklevel=3)
    step, residual = _answer(line, ratio.direction)
    names = tuple(whole.chosen(problem.risk()))
    carriers = _named(certificate.carriers, names, joint=joint)
    margin = activation_margin(part.risk(), candidates=margin_candidates)
    return LipschitzModulus(
        value=_value(ratio, certificate),
        certificate=replace(certificate, carriers=carriers, residual=residual, activation_margin=margin),
        worst_direction=line.data_space.unflatten(ratio.direction) if ratio.direction.any() else None,
        weight_direction=None if step is None else _in_all_weights(problem, part, step),
        kind=type(whole).__name__,
        points=names,
        layer=None if layer is None else tuple([layer] if isinstance(layer, str) else layer),
        is_joint=joint,
        optimality=line.optimality,
        reason=line.reason,
    )


def part_of(
    problem: Problem, change: Change, layer: str | Sequence[str] | None, *, joint: bool = True
) -> tuple[Problem, Change]:
    """The problem of the constraints and weights asked for, and the change of its data."""
    patterns = [layer] if isinstance(layer, str) else layer
    if joint:
        return (problem if patterns is None else problem.restrict(parameters=patterns)), change
    inner = alone(change)
    return problem.restrict(points=change.chosen(problem.risk()), parameters=patterns), inner


def _linearise(
    part: Problem,
    change: Change,
    optimality: Optimality,
    solver: Solver | None,
    *,
    is_whole: bool,
    joint: bool,
) -> Linearisation:
    """The pair of the map asked for; a part of the problem takes the interpolating one if fitted."""
    asked, is_free = as_map(optimality), isinstance(solver, CG | MINRES)
    # Factors change nothing where points are fitted, whatever the rank of their rows.
    is_part = not is_whole or not joint or is_free or isinstance(change, Reweight)
    if asked is None and is_part and part.is_fitted:
        asked = Interpolating()
    has_rows = asked is not None and asked.keeps_outputs
    if has_rows and not isinstance(solver, Dual | CG | MINRES | None):
        raise bad_type(
            "solver", expected="Dual, CG or MINRES for rows of J", got=solver, cure="Leave it out."
        )
    used = LSMR() if is_free and has_rows else solver  # LSMR stores nothing of the rows
    line = part.derivative(change, optimality=asked or AUTO, solver=used).linearisation
    if not joint and not line.map.keeps_outputs:
        raise bad_value(
            "joint",
            expected="True where the training set is not fitted",
            got=False,
            cure="Leave it out; only the interpolating map has a constraint for each point.",
        )
    return line


def _certified(
    part: Problem,
    change: Change,
    line: Linearisation,
    optimality: Optimality,
    solver: Solver | None,
    max_steps: int,
    probes: int,
) -> tuple[Linearisation, Ratio, Certificate]:
    """The ratio with its certificate, and the pair that it is of: another one where that proves more."""
    is_free = isinstance(solver, CG | MINRES)
    ratio = None if is_free else by_decomposition(line)
    if ratio is None:
        ratio = by_products(line, solver if is_free else CG(), max_steps)
    certificate = certify(part, change, line, ratio, probes)
    is_open = as_map(optimality) is None and solver is None and certificate.certainty is Certainty.UNKNOWN
    proof = _proof_by_rows(part, change, probes) if is_open and not line.map.keeps_outputs else None
    line, ratio, certificate = proof or (line, ratio, certificate)
    return line, replace(ratio, direction=_signed(ratio.direction)), certificate


def _proof_by_rows(
    part: Problem, change: Change, probes: int
) -> tuple[Linearisation, Ratio, Certificate] | None:
    """The interpolating map, where dependent rows of ``J`` prove that the modulus is infinite; else ``None``.

    Without the proof, the map was left for the stationary one because the rows are dependent.
    """
    if not (part.is_fitted and part.gram_fits):
        return None
    line = part.derivative(change, optimality=Interpolating()).linearisation
    ratio = by_decomposition(line)
    if ratio is None or ratio.value < float("inf") or not rows_gain_rank(part, change):
        return None
    certificate = certify(part, change, line, ratio, probes)
    if certificate.certainty is not Certainty.INFINITE:
        return None
    reason = "interpolating because the training set is fitted, and dependent rows of J prove the value"
    return replace(line, reason=reason), ratio, certificate


def _value(ratio: Ratio, certificate: Certificate) -> float:
    """The ratio; where a kernel was seen but not proven, or a solve was inaccurate, the one measured."""
    if certificate.certainty is Certainty.NO_CONSTRAINT:
        return 0.0
    if certificate.certainty is Certainty.INFINITE:
        return float("inf")
    if certificate.certainty is Certainty.UNKNOWN and ratio.value == float("inf"):
        return certificate.lower
    return max(ratio.value, certificate.lower) if ratio.exact is None else ratio.value


def _answer(line: Linearisation, direction: Tensor) -> tuple[Tensor | None, float]:
    """``-A⁺ C Δx`` for the worst direction, and its relative residual."""
    if not bool(direction.any()):
        return None, 0.0
    solution = line.system.solve(-(line.data @ direction))
    return solution.value, solution.residual


def _signed(direction: Tensor) -> Tensor:
    """The direction with the sign that makes its largest entry positive: both attain the modulus."""
    return direction if float(direction[direction.abs().argmax()]) >= 0 else -direction


def _in_all_weights(problem: Problem, part: Problem, change: Tensor) -> Tensor:
    """The change with zeros for the weights that are held."""
    layout, moving = problem.risk().layout, part.risk().layout
    parts = dict(zip(moving.shapes, moving.split(change), strict=True))
    whole = [parts.get(n, change.new_zeros(shape)) for n, shape in layout.shapes.items()]
    return layout.join(whole)


def _named(carriers: tuple[Carrier, ...], names: tuple[int, ...], *, joint: bool) -> tuple[Carrier, ...]:
    """The carriers by the problem's own indices, where only some points' constraints were in use."""
    return carriers if joint else tuple(replace(one, point=names[one.point]) for one in carriers)
