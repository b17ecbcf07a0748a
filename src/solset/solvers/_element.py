"""The element that a filter picks, for filters that are no function of the matrix alone too."""

import warnings
from dataclasses import replace

import torch
from torch import Tensor

from solset.errors import SolsetWarning, Status, bad_value
from solset.linalg import DenseOperator, LinearOperator, NormalOperator, function_times_vector, krylov
from solset.solvers._base import Prepared, Solution, judge
from solset.solvers._direct import SymmetricPrepared
from solset.solvers.filters import Filter, GradientFlow, Recipe

MAX_PRODUCTS = 400  # largest number of products for one element of a recipe
LOOKS = 12  # products that look for the eigenvalue along which a descent diverged


def element_of(system: Prepared, choice: Filter, rhs: Tensor) -> Solution:
    """The element that a filter picks from a prepared system.

    ``φ(A) b`` for a symmetric operator, ``Aᵀ φ(AAᵀ) b`` for any other; a recipe with its own metric acts on
    ``A`` or ``AᵀA`` by Lanczos' method, or by the decomposition of a matrix that was written out.

    Args:
        system: Matrix ``A`` as a solver prepared it.
        choice: Filter ``φ`` that picks the element.
        rhs: Right-hand side ``b``, ``(m,)``.

    Raises:
        ValueError: If a recipe has a scale for another number of weights.
    """
    if not (isinstance(choice, Recipe) and choice.is_diagonal):
        return system.filtered(choice, rhs)
    if isinstance(system, SymmetricPrepared):
        s = system.spectrum
        matrix = ((s.vectors * s.values) @ s.vectors.T).to(rhs)
        return recipe_element(DenseOperator((matrix + matrix.T) / 2), choice, rhs)
    return recipe_element(system.operator, choice, rhs)


def refuse_divergence(system: Prepared, flow: GradientFlow, rhs: Tensor, element: Solution) -> None:
    """Refuses an element of gradient descent that moved away from the solutions, and says why it did.

    Args:
        system: Matrix ``A`` as a solver prepared it.
        flow: Duration and learning rate of the descent.
        rhs: Right-hand side ``b``, ``(m,)``.
        element: Element of the descent; one whose residual is at most that of zero is left alone.

    Raises:
        ValueError: If the learning rate is too large, or the descent left along negative curvature.

    Cost: nothing for an element that is left alone, else up to twelve products.
    """
    if element.residual <= 1 + 1e-6 or not bool(rhs.any()):
        return
    matrix = system.curvature().operator
    force = rhs if system.operator.is_symmetric else system.operator.T @ rhs
    values = torch.linalg.eigvalsh(krylov(matrix, force, LOOKS).matrix)
    largest, lowest = float(values[-1]), float(values[0])
    if flow.learning_rate * largest > 2:
        raise bad_value(
            "learning_rate",
            expected=f"at most {2 / largest:.3g}, which is 2 / the largest eigenvalue ({largest:.3g})",
            got=f"{flow.learning_rate:.3g}, at which gradient descent on this curvature diverges",
            cure="Take the rate for the loss as reduced, or filters.Recipe, which every rate leaves stable.",
        )
    if lowest < 0:
        raise bad_value(
            "choice",
            expected="a descent that does not leave along negative curvature",
            got=f"one that grows {(1 - flow.learning_rate * lowest) ** flow.steps:.3g}-fold along an "
            f"eigenvalue of {lowest:.3g}",
            cure='Take filters.Recipe, which counts such curvature as none, or optimality="proximal".',
        )


def recipe_element(operator: LinearOperator, choice: Recipe, rhs: Tensor) -> Solution:
    """The element of a recipe by products alone, ``P^½ φ_t(P^½ H P^½ + λ) P^½ b``.

    Args:
        operator: Symmetric matrix ``H``, or rows ``A`` with ``H = AᵀA``.
        choice: Recipe with duration, decay and metric.
        rhs: Right-hand side ``b``, ``(p,)``, or ``(m,)`` for rows.

    Warns:
        SolsetWarning: If the answer still moves after the largest number of products; it says how much.

    Cost: one product with ``H`` a step (two for rows), some tens of them, and as many vectors.
    """
    matrix, force = operator, rhs
    if not operator.is_symmetric:
        matrix, force = NormalOperator(operator), operator.T @ rhs
    inside = _InMetric(matrix, choice)
    answer = function_times_vector(
        inside,
        inside.root * force,
        lambda projected: _first_column(choice, projected),
        max_steps=MAX_PRODUCTS,
    )
    solution = judge(operator, inside.root * answer.value, rhs, 0.0, answer.steps, chosen=choice)
    if answer.has_converged or solution.status is not Status.CONVERGED:
        return solution
    warnings.warn(
        f"the element of the recipe still moved by {answer.error:.2g} of its length in the last steps, when "
        f"the limit of {answer.steps} products was reached",
        SolsetWarning,
        stacklevel=4,
    )
    return replace(solution, status=Status.MAX_STEPS)


def _first_column(choice: Recipe, projected: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(projected)
    return vectors @ (choice.flow_at(values) * vectors[0])


class _InMetric(LinearOperator):
    """``P^½ H P^½ + λ``, a matrix in the metric of an optimizer with its decoupled decay."""

    is_symmetric = True

    def __init__(self, matrix: LinearOperator, choice: Recipe) -> None:
        super().__init__(matrix.shape, matrix.dtype, matrix.device)
        self._matrix = matrix
        like = torch.ones(matrix.shape[0], dtype=matrix.dtype, device=matrix.device)
        given = {"scale": choice.scale, "decay": choice.decay}
        for name, value in given.items():
            if isinstance(value, Tensor) and value.shape != like.shape:
                raise bad_value(
                    name,
                    expected=f"one number for each of the {len(like)} weights",
                    got=f"shape {tuple(value.shape)}",
                    cure="Pass the module whose weights the problem moves to Recipe.of.",
                )
        self.root = like if choice.scale is None else choice.scale.sqrt().to(like)
        self._decay = choice.decay.to(like) if isinstance(choice.decay, Tensor) else choice.decay * like

    def _apply(self, block: Tensor) -> Tensor:
        root, decay = self.root.unsqueeze(1), self._decay.unsqueeze(1)
        return root * (self._matrix @ (root * block)) + decay * block
