"""The Lipschitz modulus of the solution map (Theorems 2 and 3), with what is known of it."""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from solset.analysis.lipschitz.kinks import activation_margin
from solset.analysis.lipschitz.rank_probe import rank_is_constant
from solset.analysis.lipschitz.result import Carrier, Certainty, Certificate, LipschitzModulus
from solset.analysis.lipschitz.routes import NOISE_FREE, Found, by_decomposition, by_products
from solset.derivatives import Linearisation
from solset.problem import MOST_DENSE, Optimality, Problem
from solset.solvers import CG, LSMR, MINRES, Dense, Solver

SHARE = 0.01  # of the squared length of a combination, above which an output is named


def lipschitz_modulus(
    problem: Problem,
    *,
    points: Sequence[int] | None = None,
    layer: str | Sequence[str] | None = None,
    joint: bool = True,
    optimality: Optimality = "auto",
    solver: Solver | None = None,
    steps: int = 40,
    probes: int = 3,
    margin_candidates: int = 200,
) -> LipschitzModulus:
    """The exact Lipschitz modulus ``lip S(x̄|w̄)`` of the solution map, as far as it is known.

    ``lip S = ‖D*S(x̄|w̄)‖`` (Mordukhovich; Rockafellar & Wets, theorem 9.40), if the criterion
    ``D*S(x̄|w̄)(0) = {0}`` holds, and infinite otherwise. For the interpolating map that is
    ``sup_u ‖J_xᵀu‖ / ‖Jᵀu‖``, the largest generalized singular value of ``(J_xᵀ, Jᵀ)``; for one layer, one
    point and one output it is the ratio of Theorem 2. For the others ``‖H⁺B‖₂``.

    Departs from the paper: Theorem 3 chains the moduli of single points into a bound; here the value is exact
    (:func:`modulus_chain` gives both), and several outputs are allowed.

    Args:
        problem: The trained point.
        points: ``K``, whose features move; all by default.
        layer: Name or patterns of the weights that may move; all by default.
        joint: Whether the outputs of all points are constraints, or those of ``K`` alone (the paper's
            setting; interpolating map only).
        optimality: As for :meth:`Problem.graphical_derivative`; with a layer, or without the other points,
            ``"auto"`` takes the interpolating map wherever the training set is fitted.
        solver: ``Dual`` (interpolating) and ``Dense`` (the others) see the spectrum and give exact values;
            ``CG`` or ``MINRES`` keep nothing but products. By default the first where it fits.
        steps: Lanczos vectors, where only products are used.
        probes: Nearby points at which the rank is looked at, where the answer depends on its being constant.
        margin_candidates: Pre-activations of the smallest size that the activation margin looks at; 0 for
            none.

    Returns:
        Value, certificate, the worst data direction and the change of the weights it causes.

    Raises:
        ValueError: If points or layer are not the problem's, or the map does not apply.

    Cost: with ``Dual`` the Gram matrix (kept in the problem and shared with its derivatives), ``c`` backward
    passes over the moved points, and ``O(m³)`` operations; with products alone about ``steps`` solves.

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
        On a selection of rows (a network too large for all of them) the value is a lower bound, and says so.
    """
    part, moved = _part(problem, points, layer, joint=joint)
    is_free = isinstance(solver, CG | MINRES)
    is_part = layer is not None or not joint or is_free
    if optimality == "auto" and is_part and part.is_fitted:
        optimality = "interpolating"
    derivative = part.graphical_derivative(
        points=moved, optimality=optimality, solver=_solver(part, optimality, solver)
    )
    line = derivative.linearisation
    found = None if is_free else by_decomposition(line)
    if found is None:
        found = by_products(line, solver if is_free else CG(), steps)
    found = replace(found, direction=_signed(found.direction))
    names = tuple(problem.check_points(points))
    certificate = _certificate(part, moved, line, found, probes)
    margin = activation_margin(part.risk(), candidates=margin_candidates)
    change, residual = _answer(line, found)
    lower = max(certificate.lower, _measured(line, found, change))
    carriers = _named(certificate.carriers, names, joint=joint)
    return LipschitzModulus(
        value=0.0 if certificate.certainty is Certainty.NO_CONSTRAINT else found.value,
        certificate=replace(
            certificate, carriers=carriers, lower=lower, residual=residual, activation_margin=margin
        ),
        worst_direction=_shaped(part, moved, found.direction),
        weight_direction=None if change is None else _in_all_weights(problem, part, change),
        points=names,
        optimality=derivative.optimality,
        reason=derivative.reason,
    )


def _part(
    problem: Problem, points: Sequence[int] | None, layer: str | Sequence[str] | None, *, joint: bool
) -> tuple[Problem, list[int]]:
    """The problem of the constraints and weights asked for, and where the moved points stand in it."""
    moved = problem.check_points(points)
    patterns = [layer] if isinstance(layer, str) else layer
    if joint:
        return (problem if patterns is None else problem.restrict(parameters=patterns)), moved
    return problem.restrict(points=moved, parameters=patterns), list(range(len(moved)))


def _solver(part: Problem, optimality: Optimality, solver: Solver | None) -> Solver | None:
    """What the linearisation is to solve with; ``None`` for its default."""
    if isinstance(solver, CG | MINRES) and optimality == "interpolating":
        return LSMR()  # the rows are only multiplied with; the solver asked for takes JJᵀ
    is_hessian = optimality == "stationary" or (optimality == "auto" and not part.is_fitted)
    if solver is None and is_hessian and len(part.weights()) <= MOST_DENSE:
        return Dense(rank_tolerance=NOISE_FREE)
    return solver


def _certificate(
    part: Problem, moved: list[int], line: Linearisation, found: Found, probes: int
) -> Certificate:
    rows, ratio = line.constraint.operator.shape[0], found.ratio
    bare = Certificate(
        certainty=Certainty.UNKNOWN,
        reason="",
        criterion_holds=None,
        rows=rows,
        rank=None if ratio is None else ratio.rank,
        joint_rank=None if ratio is None else ratio.joint_rank,
        lower=0.0,
        upper=found.upper,
        residual=0.0,
        activation_margin=float("inf"),
    )
    if ratio is None:
        text = f"{_what(line)} was only multiplied with, so that no rank was seen; exact if it is full"
        return replace(bare, reason=text)
    holds = ratio.value < float("inf")
    bare = replace(bare, criterion_holds=holds)
    if not holds:
        return _infinite(bare, part, line, found)
    if ratio.rank == 0 and ratio.value == 0.0:
        return replace(
            bare,
            certainty=Certainty.NO_CONSTRAINT,
            reason="no constraint: neither these weights nor these features move the outputs (0/0)",
            upper=0.0,
        )
    if line.left_out:
        text = f"a lower bound: {line.left_out} of the constraint's rows are not in use"
        return replace(bare, reason=text, upper=float("inf"))
    return _finite(part, moved, line, bare, probes)


def _finite(
    part: Problem, moved: list[int], line: Linearisation, bare: Certificate, probes: int
) -> Certificate:
    """Exact at full row rank, or where the rank does not change nearby."""
    if line.optimality == "gauss_newton":
        return replace(bare, reason="the Gauss–Newton matrix stands for the Hessian: exact at zero residual")
    full = bare.rank if line.optimality == "interpolating" else bare.joint_rank
    if full == bare.rows:
        text = f"{_what(line)} has full row rank {bare.rows}"
        if line.optimality != "interpolating":
            text = f"[H, B] has full row rank {bare.rows} and the criterion holds"
        return replace(bare, certainty=Certainty.EXACT, reason=text)
    verdict = rank_is_constant(part, moved, line, expected=bare.joint_rank or 0, probes=probes)
    certainty = Certainty.CONSTANT_RANK if verdict.holds else Certainty.UNKNOWN
    text = f"rank {bare.rank} of {bare.rows}; {verdict.reason}"
    return replace(bare, certainty=certainty, reason=text)


def _infinite(bare: Certificate, part: Problem, line: Linearisation, found: Found) -> Certificate:
    """Names the outputs that a combination moves and the weights do not."""
    if found.ratio is None or found.left is None:
        return bare
    u, share = found.left, found.ratio.participation / found.ratio.participation.sum()
    has_rows = line.optimality == "interpolating" and not line.left_out
    c = part.output_count if has_rows else 1
    ranked = share.argsort(descending=True)
    carriers = tuple(
        Carrier(int(i) // c, int(i) % c if has_rows else None, float(share[i]))
        for i in ranked.tolist()
        if float(share[i]) >= SHARE * float(share.max())
    )
    kernel = "Jᵀu = 0 and J_xᵀu ≠ 0" if line.optimality == "interpolating" else "Hu = 0 and Bᵀu ≠ 0"
    return replace(
        bare,
        certainty=Certainty.INFINITE,
        reason=f"a combination u has {kernel}: features move it and the weights do not",
        carriers=carriers if has_rows else (),
        multiplier=u.reshape(-1, c) if has_rows else u,
        upper=float("inf"),
    )


def _what(line: Linearisation) -> str:
    return "J" if line.optimality == "interpolating" else "H"


def _answer(line: Linearisation, found: Found) -> tuple[Tensor | None, float]:
    """``-A⁺ C Δx`` for the worst direction, and its relative residual."""
    if not bool(found.direction.any()):
        return None, 0.0
    solution = line.system.solve(-(line.data @ found.direction))
    return solution.value, solution.residual


def _measured(line: Linearisation, found: Found, change: Tensor | None) -> float:
    """A ratio by products alone: ``‖Cᵀu‖ / ‖Aᵀu‖`` where ``u`` is known, else ``‖A⁺CΔx‖`` as solved."""
    if found.left is None:
        return 0.0 if change is None else float(change.norm())
    pushed = float((line.constraint.operator.T @ found.left).norm())
    moved = float((line.data.T @ found.left).norm())
    return moved / pushed if pushed > 0 else (float("inf") if moved > 0 else 0.0)


def _signed(direction: Tensor) -> Tensor:
    """Of the two signs that attain the modulus, the one whose largest entry is positive."""
    return direction if float(direction[direction.abs().argmax()]) >= 0 else -direction


def _shaped(part: Problem, moved: list[int], direction: Tensor) -> Tensor | None:
    """At the door; nothing if nothing moves."""
    return part.data_space(moved).unflatten(direction) if bool(direction.any()) else None


def _in_all_weights(problem: Problem, part: Problem, change: Tensor) -> Tensor:
    """With zeros for the weights that are held."""
    layout, own = problem.risk().layout, part.risk().layout
    parts = dict(zip(own.shapes, own.split(change), strict=True))
    whole = [parts.get(n, change.new_zeros(shape)) for n, shape in layout.shapes.items()]
    return layout.join(whole)


def _named(carriers: tuple[Carrier, ...], names: tuple[int, ...], *, joint: bool) -> tuple[Carrier, ...]:
    """By the problem's own numbers, where only some points' constraints were in use."""
    return carriers if joint else tuple(replace(one, point=names[one.point]) for one in carriers)
