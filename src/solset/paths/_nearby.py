"""Slopes of the path near a point whose Gram matrix is already factorised."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from solset.courses import Meter
from solset.errors import Status
from solset.linalg import Counted, LinearOperator, NormalOperator, Product
from solset.operators._cost import FORWARD, JACOBIAN_PRODUCT
from solset.paths._fitted import Factor, KeptOutputs
from solset.paths._restricted import Images, Restricted
from solset.paths._switches import ActivationSwitches
from solset.risk import EmpiricalRisk
from solset.solvers import CG


@dataclass(frozen=True)
class Place:
    """A point near the path with the slope there.

    Attributes:
        tau: Place ``τ`` along the perturbation.
        weights: Weights of the point, ``(p,)``.
        slope: Shortest slope that keeps the outputs, and the held activations at their kinks, ``(p,)``.
        dual: Coefficients ``u`` with ``slope = (W P J)ᵀ u`` for the whitened rows, ``(s,)``.
        held: Indices of the activations that are held at their kinks.
        pull: Multiple of each held activation's gradient in the slope, ``(k,)``.
        gradients: Gradients of the held activations' arguments, ``(k, p)``.
        steps: Number of iterations that the slope took.
    """

    tau: float
    weights: Tensor
    slope: Tensor
    dual: Tensor
    held: tuple[int, ...]
    pull: Tensor
    gradients: Tensor
    steps: int


@dataclass(frozen=True)
class _System:
    """Whitened rows at a point, and the same on the directions that leave held activations at their kinks.

    Attributes:
        white: Whitened rows on all directions.
        rows: Whitened rows on the free directions.
        jacobian: Jacobian inside both, which counts its products.
        gradients: Gradients of the held activations' arguments, ``(k, p)``.
        rates: Rates of these arguments along ``Δx``, ``(k,)``.
    """

    white: LinearOperator
    rows: Restricted
    jacobian: Counted
    gradients: Tensor
    rates: Tensor

    def count(self, meter: Meter) -> None:
        """Adds the products so far, and the forward pass that they share."""
        meter.add(FORWARD)
        meter.add(0.5 * JACOBIAN_PRODUCT, times=self.jacobian.products)


class Nearby:
    """Slopes by conjugate gradients, preconditioned by the Gram matrix of another point nearby.

    An activation that switches changes ``J`` by a matrix of rank one, so one factorisation serves many
    switches. In the whitened rows the residual is the error of the slope, in weight units.

    Args:
        constraint: Constraint that the path keeps.
        switches: Activations that may be held at their kinks.
        factor: Factorisation that preconditions the slopes.
        accuracy: Error of a slope relative to its length.
        max_iterations: Limit of the iterations for one slope.
    """

    def __init__(
        self,
        constraint: KeptOutputs,
        switches: ActivationSwitches,
        factor: Factor,
        *,
        accuracy: float,
        max_iterations: int,
    ) -> None:
        self._constraint, self._switches, self._factor = constraint, switches, factor
        self._accuracy, self._max_iterations = accuracy, max_iterations
        self._whitening = factor.prepared.whitening()
        self._images = Images(Product(self._whitening, factor.prepared.operator))

    def start(self, tau: float, weights: Tensor, slope: Tensor, held: tuple[int, ...]) -> Place:
        """A place whose slope is known already. Cost: a product with the rows that are factorised."""
        gradients, _ = self._switches.gradients(self._constraint.risk(tau, weights), held)
        white = Product(self._whitening, self._factor.prepared.operator)
        rows = Restricted(white, gradients, *self._images.near(held, gradients))
        dual = rows.scaled(rows @ slope)  # exact for orthonormal rows
        return Place(tau, weights, slope, dual, held, slope.new_zeros(len(held)), gradients, 0)

    def slope(self, tau: float, weights: Tensor, near: Place, held: tuple[int, ...]) -> Place | None:
        """The slope at a point, from that of a place nearby; ``None`` if the iteration does not converge.

        Cost: two products with ``J`` for each iteration and five more.
        """
        risk = self._constraint.risk(tau, weights)
        system = self._system(risk, held)
        answer = self._whitening @ self._factor.rows_of(self._constraint.answer(risk))
        base = system.rows.base(-system.rates)
        target = -answer - system.white @ base if held else -answer
        dual = system.rows.unscaled(near.dual)
        left = system.rows.scaled(target) - system.rows @ (system.rows.T @ dual)
        size, enough, steps = float(left.norm()), self._accuracy * float(near.slope.norm()), 0
        if size > enough:
            solver = CG(tol=enough / size, max_steps=self._max_iterations)
            solved = solver.solve(NormalOperator(system.rows.T), left)
            if solved.status is not Status.CONVERGED:
                return None
            dual, steps = dual + solved.value, solved.steps
        dual = system.rows.scaled(dual)
        image = system.white.T @ dual
        pull = system.rows.pull(-system.rates, image)
        system.count(self._constraint.meter)
        slope = image + system.gradients.T @ pull
        return Place(tau, weights, slope, dual, held, pull, system.gradients, steps)

    def settled(self, place: Place, output_tol: float) -> Place:
        """The same place moved onto the set, and onto the kinks of held activations, by Newton's method."""
        for _ in range(5):  # from a place near the set two are enough; more find nothing
            risk = self._constraint.risk(place.tau, place.weights)
            error = self._factor.rows_of(self._constraint.outputs(risk) - self._constraint.target)
            values = self._switches.values(place.tau, place.weights)[list(place.held)]
            if float(torch.cat([error, values]).abs().max()) <= output_tol:
                break
            system = self._system(risk, place.held)
            base = system.rows.base(values)
            off = system.rows.scaled(self._whitening @ error - system.white @ base)
            # Three digits of each correction: the next one repairs what it leaves.
            solver = CG(tol=1e-3, max_steps=self._max_iterations)
            dual = solver.solve(NormalOperator(system.rows.T), off).value
            place = replace(place, weights=place.weights - base - system.rows.T @ dual)
            system.count(self._constraint.meter)
        return place

    def switch_rates(self, place: Place, switches: tuple[int, ...]) -> Tensor:
        """How fast the arguments of activations change along the slope of a place, ``(k,)``."""
        rows, rates = self._switches.gradients(self._constraint.risk(place.tau, place.weights), switches)
        return rows @ place.slope + rates

    def _system(self, risk: EmpiricalRisk, held: tuple[int, ...]) -> _System:
        jacobian, picked = Counted(self._constraint.jacobian(risk)), self._factor.picked
        rows_in_use: LinearOperator = jacobian if picked is None else Product(picked, jacobian)
        white = Product(self._whitening, rows_in_use)
        gradients, rates = self._switches.gradients(risk, held)
        rows = Restricted(white, gradients, *self._images.near(held, gradients))
        return _System(white, rows, jacobian, gradients, rates)

    def grips(self, place: Place, values: Tensor) -> list[float]:
        """How firmly each held activation is pushed to its kink by the side that pushes less.

        The slope is ``Jᵀy + μ ∇z`` with the rows of either side, the same ``y``, and a ``μ`` that differs by
        the jump of the derivative of ``yᵀf`` in ``z``. If the activation were not held, ``z`` would change
        at a rate of the opposite sign of ``μ`` on that side. ``values`` are those of all activations there.

        Cost: three forward passes of one point for each held activation.
        """
        white = self._whitening.T @ place.dual
        y = white if self._factor.picked is None else self._factor.picked.T @ white
        grips = []
        for switch, row, multiple in zip(place.held, place.gradients, place.pull.tolist(), strict=True):
            square, value = row @ row, float(values[switch])
            small = torch.finfo(row.dtype).eps ** 0.4 * float(square.sqrt() * place.weights.norm())
            middle, shift = place.weights - value / square * row, small / square * row
            three = [middle - shift, middle, middle + shift]
            jump = self._switches.bend(place.tau, three, switch, y) / small
            over, under = (multiple, multiple + jump) if value > 0 else (multiple - jump, multiple)
            grips.append(min(over, -under))
        return grips
