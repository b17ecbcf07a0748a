"""The linear map from data to the chosen element of the graphical derivative, and its adjoint."""

from dataclasses import dataclass

from torch import Tensor

from solset.derivatives._linearisation import Linearisation
from solset.errors import bad_value
from solset.solvers import Solution
from solset.solvers.filters import Filter, GradientFlow, MinimumNorm, Recipe, Tikhonov


@dataclass(frozen=True)
class Response:
    """The linear map ``Δx ↦ v`` from data to the chosen element of the graphical derivative, and its adjoint.

    ``v = -A⁺ C Δx`` for the minimum norm; ``v = -Aᵀ_W φ(A_W Aᵀ_W) W C Δx`` with the weighted rows
    ``A_W = W A`` for a filter that follows training (``-φ(H) B Δx`` for a symmetric ``A``).

    Attributes:
        linearisation: Pair ``(A, C)`` of constraint and data operator.
        element: Filter that chooses the element; ``None`` or ``MinimumNorm`` for the nearest one.
    """

    linearisation: Linearisation
    element: Filter | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.element, MinimumNorm | GradientFlow | Recipe | Tikhonov | None):
            raise bad_value(
                "element",
                expected="None, MinimumNorm, GradientFlow, Recipe or Tikhonov",
                got=self.element,
                cure="A rank cut is a choice of the solver: Dual(rank_tolerance=...).",
            )

    def push(self, dx: Tensor) -> Tensor:
        """The weight change ``v``, ``(p,)``, for ``dx`` of shape ``(|K|, *input)``.

        Cost: one product with ``C`` and one solve.
        """
        line = self.linearisation
        rhs = -(line.data @ line.data_space.flatten(dx))
        if self.follows_training:
            return line.filtered(self._filter, rhs)
        return line.solve(rhs).value

    def pull(self, q: Tensor) -> tuple[Tensor, Solution]:
        """The adjoint ``-Cᵀ (Aᵀ)⁺ q`` of a weight direction ``q``, shaped like ``dx``, and the solve for it.

        The residual of the solve is ``‖(I - A⁺A) q‖ / ‖q‖`` for every element: the share of ``q`` along which
        the set is unbounded.

        Cost: one solve with ``Aᵀ`` (two for a filter), one product with ``Cᵀ``.
        """
        line, adjoint = self.linearisation, self.adjoint(q)
        solved = line.system.solve_transposed(q) if self.follows_training else adjoint
        return line.data_space.unflatten(-(line.data.T @ adjoint.value)), solved

    def adjoint(self, q: Tensor) -> Solution:
        """The vector ``y`` for which ``-Cᵀ y`` is the adjoint of ``q``, whatever the data operator ``C``.

        ``y = (Aᵀ)⁺ q`` for the minimum norm.

        Args:
            q: Direction in the space of the weights, ``(p,)``, or a block ``(p, k)``.

        Cost: one solve with ``Aᵀ`` for each column.
        """
        line = self.linearisation
        if self.follows_training:
            return line.filtered_transposed(self._filter, q)
        return line.system.solve_transposed(q)

    @property
    def _filter(self) -> Filter:
        return self.element or MinimumNorm()

    @property
    def follows_training(self) -> bool:
        """Whether the element is one that training of a finite duration reaches."""
        return isinstance(self.element, GradientFlow | Recipe | Tikhonov)
