"""Slopes of the path near a point whose Gram matrix is factorised already."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from solset.errors import Status
from solset.linalg import Counted, LinearOperator, NormalOperator, Product
from solset.operators._cost import FORWARD, JACOBIAN_PRODUCT
from solset.paths._cost import Meter
from solset.paths._fitted import Factor, KeptOutputs
from solset.risk import EmpiricalRisk
from solset.solvers import CG

MOST_PRODUCTS = 200
NEAR = 1e-2  # relative change of a gradient up to which the image of one before serves
NEWTON = 1e-3  # relative residual of a correction onto the set
CORRECTIONS = 5


@dataclass(frozen=True)
class Place:
    """A point near the path with the slope there.

    Attributes:
        tau: ``τ``.
        weights: ``(p,)``.
        slope: The shortest that keeps the outputs, and the activations held at their kinks, ``(p,)``.
        dual: ``u`` with ``slope = (W P J)ᵀ u`` for the whitened rows, ``(s,)``.
        held: Which activations are held at their kinks.
        pull: The multiple of each one's gradient that is in the slope, ``(k,)``.
        gradients: Of their arguments, ``(k, p)``.
        steps: Of conjugate gradients that it took.
    """

    tau: float
    weights: Tensor
    slope: Tensor
    dual: Tensor
    held: tuple[int, ...]
    pull: Tensor
    gradients: Tensor
    steps: int


class Restricted(LinearOperator):
    """``S A (I - QᵀQ)``: rows ``A`` that are nearly orthonormal, on the directions that ``H`` does not see.

    ``Q = L⁻¹H`` is orthonormal, and ``S`` makes the rows nearly orthonormal again. A row of ``A`` may change
    by a multiple of one of ``H``, as with the side of a kink, and the operator does not.

    Args:
        inner: ``A``, ``(s, p)``.
        rows: ``H``, ``(k, p)``.
        known: Rows nearly those, ``(k, p)``.
        images: ``A`` times these where the rows of ``A`` are orthonormal, ``(s, k)``.
    """

    def __init__(self, inner: LinearOperator, rows: Tensor, known: Tensor, images: Tensor) -> None:
        super().__init__(inner.shape, inner.dtype, inner.device)
        self._inner, least = inner, torch.finfo(rows.dtype).eps ** 0.75
        self._root = _root(rows)
        self._unit = torch.linalg.solve_triangular(self._root, rows, upper=False)
        cross = torch.linalg.solve_triangular(_root(known), images.T, upper=False).T
        self._basis, sines, _ = torch.linalg.svd(cross, full_matrices=False)
        self._cosines = (1 - sines.square()).clamp(min=least).sqrt()

    def base(self, arguments: Tensor) -> Tensor:
        """The shortest ``v`` with ``H v`` as given, ``(p,)``."""
        return self._unit.T @ self._solved(arguments)

    def scaled(self, block: Tensor) -> Tensor:
        """``S`` times a block or a vector."""
        return self._stretched(block, 1 / self._cosines)

    def unscaled(self, block: Tensor) -> Tensor:
        """``S⁻¹`` times a block or a vector."""
        return self._stretched(block, self._cosines)

    def pull(self, arguments: Tensor, image: Tensor) -> Tensor:
        """``μ`` of the ``v = image + Hᵀμ`` that has ``H v`` as given, ``(k,)``."""
        rest = (self._solved(arguments) - self._unit @ image).unsqueeze(1)
        return torch.linalg.solve_triangular(self._root.T, rest, upper=True)[:, 0]

    def _solved(self, arguments: Tensor) -> Tensor:
        return torch.linalg.solve_triangular(self._root, arguments.unsqueeze(1), upper=False)[:, 0]

    def _stretched(self, block: Tensor, by: Tensor) -> Tensor:
        along = self._basis.T @ block
        return block + self._basis @ ((by - 1).reshape(-1, *[1] * (block.ndim - 1)) * along)

    def _free(self, block: Tensor) -> Tensor:
        return block - self._unit.T @ (self._unit @ block)

    def _apply(self, block: Tensor) -> Tensor:
        return self.scaled(self._inner @ self._free(block))

    def _apply_transposed(self, block: Tensor) -> Tensor:
        return self._free(self._inner.T @ self.scaled(block))


def _root(rows: Tensor) -> Tensor:
    """``L`` with ``LLᵀ = HHᵀ``, of which two rows may be alike."""
    square = rows @ rows.T
    least = torch.finfo(rows.dtype).eps ** 0.75
    return torch.linalg.cholesky(square + least * torch.diag(square.diagonal()))


class _Images:
    """``A`` times the gradients of held activations, where the rows of ``A`` are orthonormal.

    They only scale an iteration, and gradients hardly change from one place to the next: those of a place
    nearby will do.

    Args:
        rows: ``A``.
    """

    def __init__(self, rows: LinearOperator) -> None:
        self._rows = rows
        self._known: dict[int, tuple[Tensor, Tensor]] = {}

    def near(self, held: tuple[int, ...], gradients: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients near the given ones, ``(k, p)``, and their images, ``(s, k)``.

        Args:
            held: Which activations.
            gradients: Of their arguments, ``(k, p)``.
        """
        if not held:
            return gradients, gradients.new_zeros(self._rows.shape[0], 0)
        new = [place for place, switch in enumerate(held) if not self._serves(switch, gradients[place])]
        if new:
            images = (self._rows @ gradients[new].T.contiguous()).T
            for place, image in zip(new, images, strict=True):
                # Copies: a view would keep the whole block that it is part of.
                self._known[held[place]] = (gradients[place].clone(), image.clone())
        self._known = {switch: self._known[switch] for switch in held}
        pairs = list(self._known.values())
        return torch.stack([pair[0] for pair in pairs]), torch.stack([pair[1] for pair in pairs], dim=1)

    def _serves(self, switch: int, gradient: Tensor) -> bool:
        if switch not in self._known:
            return False
        return bool((self._known[switch][0] - gradient).norm() <= NEAR * gradient.norm())


@dataclass(frozen=True)
class _System:
    """Whitened rows at a point, on the directions that leave held activations as they are.

    Attributes:
        white: All of the rows.
        rows: On those directions.
        jacobian: In them.
        gradients: Of the held activations' arguments, ``(k, p)``.
        rates: Of these along ``Δx``, ``(k,)``.
    """

    white: LinearOperator
    rows: Restricted
    jacobian: Counted
    gradients: Tensor
    rates: Tensor

    def count(self, meter: Meter) -> None:
        """Adds what was computed: a graph that the products share, and these."""
        meter.add(FORWARD)
        meter.add(0.5 * JACOBIAN_PRODUCT, times=self.jacobian.products)


class Nearby:
    """Slopes by conjugate gradients on the rows there, preconditioned by the Gram matrix of another point.

    An activation that switches changes ``J`` by rank one, so that a factorisation serves many switches. In
    the whitened rows the residual is the error of the slope, in weight units.

    Args:
        kept: The constraint.
        factor: The factorisation to use.
        accuracy: Error of a slope relative to its length.
    """

    def __init__(self, kept: KeptOutputs, factor: Factor, accuracy: float) -> None:
        self._kept, self._factor, self._accuracy = kept, factor, accuracy
        self._whitening = factor.prepared.whitening()
        self._images = _Images(Product(self._whitening, factor.prepared.operator))

    def known(self, tau: float, weights: Tensor, slope: Tensor, held: tuple[int, ...]) -> Place:
        """A place whose slope is known, to start from. Cost: a product with the rows that are factorised.

        Args:
            tau: ``τ``.
            weights: ``(p,)``.
            slope: There, ``(p,)``.
            held: Activations at their kinks.
        """
        gradients, _ = self._gradients(self._kept.risk(tau, weights), held)
        white = Product(self._whitening, self._factor.prepared.operator)
        rows = Restricted(white, gradients, *self._images.near(held, gradients))
        dual = rows.scaled(rows @ slope)  # exact for orthonormal rows
        return Place(tau, weights, slope, dual, held, slope.new_zeros(len(held)), gradients, 0)

    def slope(self, tau: float, weights: Tensor, near: Place, held: tuple[int, ...]) -> Place | None:
        """The slope at a point, or nothing where the iteration does not get there.

        Args:
            tau: ``τ``.
            weights: ``(p,)``.
            near: Where the slope is known and alike.
            held: Activations to hold at their kinks.

        Cost: two products with ``J`` for each iteration and five more.
        """
        risk = self._kept.risk(tau, weights)
        system = self._system(risk, held)
        answer = self._whitening @ self._factor.rows_of(self._kept.answer(risk))
        base = system.rows.base(-system.rates)
        given = -answer - system.white @ base if held else -answer
        dual = system.rows.unscaled(near.dual)
        left = system.rows.scaled(given) - system.rows @ (system.rows.T @ dual)
        size, target, steps = float(left.norm()), self._accuracy * float(near.slope.norm()), 0
        if size > target:
            found = CG(tol=target / size, max_steps=MOST_PRODUCTS).solve(NormalOperator(system.rows.T), left)
            if found.status is not Status.CONVERGED:
                return None
            dual, steps = dual + found.value, found.steps
        dual = system.rows.scaled(dual)
        image = system.white.T @ dual
        pull = system.rows.pull(-system.rates, image)
        system.count(self._kept.meter)
        slope = image + system.gradients.T @ pull
        return Place(tau, weights, slope, dual, held, pull, system.gradients, steps)

    def settled(self, place: Place, output_tol: float) -> Place:
        """The same place on the set and on the kinks of the activations that are held, by Newton's method.

        Args:
            place: Near it.
            output_tol: Error of an output that is near enough.
        """
        for _ in range(CORRECTIONS):
            risk = self._kept.risk(place.tau, place.weights)
            error = self._factor.rows_of(self._kept.outputs(risk) - self._kept.target)
            values = self._kept.switches(place.tau, place.weights)[list(place.held)]
            if float(torch.cat([error, values]).abs().max()) <= output_tol:
                break
            system = self._system(risk, place.held)
            base = system.rows.base(values)
            off = system.rows.scaled(self._whitening @ error - system.white @ base)
            found = CG(tol=NEWTON, max_steps=MOST_PRODUCTS).solve(NormalOperator(system.rows.T), off)
            place = replace(place, weights=place.weights - base - system.rows.T @ found.value)
            system.count(self._kept.meter)
        return place

    def _system(self, risk: EmpiricalRisk, held: tuple[int, ...]) -> _System:
        jacobian, picked = Counted(self._kept.jacobian(risk)), self._factor.picked
        white: LinearOperator = Product(
            self._whitening, jacobian if picked is None else Product(picked, jacobian)
        )
        gradients, rates = self._gradients(risk, held)
        rows = Restricted(white, gradients, *self._images.near(held, gradients))
        return _System(white, rows, jacobian, gradients, rates)

    def _gradients(self, risk: EmpiricalRisk, held: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        if held:
            return self._kept.switch_rows(risk, held)
        none = self._factor.slope.new_empty(0)
        return none.reshape(0, risk.layout.size), none

    def grips(self, place: Place, values: Tensor) -> list[float]:
        """How firmly each held activation is pushed to its kink from the side that pushes less.

        The slope is ``Jᵀy + μ ∇z`` with the rows of either side, the same ``y``, and a ``μ`` that differs by
        the jump of the derivative of ``yᵀf`` in ``z``. Without holding it, ``z`` would change at a rate of
        the opposite sign of ``μ`` on that side.

        Args:
            place: With the slope.
            values: Of all activations there.

        Cost: three forward passes of its point for each.
        """
        above = self._whitening.T @ place.dual
        y = above if self._factor.picked is None else self._factor.picked.T @ above
        grips = []
        for switch, row, own in zip(place.held, place.gradients, place.pull.tolist(), strict=True):
            square, value = row @ row, float(values[switch])
            small = torch.finfo(row.dtype).eps ** 0.4 * float(square.sqrt() * place.weights.norm())
            middle, shift = place.weights - value / square * row, small / square * row
            three = [middle - shift, middle, middle + shift]
            jump = self._kept.bend(place.tau, three, switch, y) / small
            over, under = (own, own + jump) if value > 0 else (own - jump, own)
            grips.append(min(over, -under))
        return grips
