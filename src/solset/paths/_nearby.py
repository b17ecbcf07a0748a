"""Slopes of the path near a point whose Gram matrix is already factorised."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from solset.courses import Meter
from solset.errors import Status
from solset.linalg import Counted, LinearOperator, NormalOperator, Product
from solset.operators import FORWARD, JACOBIAN_PRODUCT, ROW, switch_gradients, switch_values
from solset.paths._fitted import Factor, KeptOutputs
from solset.risk import EmpiricalRisk, flat_rows
from solset.solvers import CG

SAME = 1e-2  # largest relative change of a gradient up to which its earlier image is used again


class ActivationSwitches:
    """Arguments of piecewise linear activations, relative to their kinks, one for every point and unit.

    An activation is named by its place among these values.
    """

    def __init__(self, constraint: KeptOutputs) -> None:
        self._constraint = constraint

    @cached_property
    def count(self) -> int:
        """Number of activations, 0 if none are seen. Cost: a forward pass of one point."""
        risk = self._constraint.risk(0.0)
        values = switch_values(risk.select([0]))
        return 0 if values is None else len(values) * len(risk.points)

    @property
    def _units(self) -> int:
        """Number of activations of each point."""
        return self.count // len(self._constraint.risk(0.0).points)

    def values(self, tau: float, weights: Tensor) -> Tensor:
        """Distances to the kinks with their signs, ``(n · units,)``; empty if none are seen."""
        self._constraint.meter.add(FORWARD)
        values = switch_values(self._constraint.risk(tau, weights))
        return weights.new_empty(0) if values is None else values

    def gradients(self, risk: EmpiricalRisk, switches: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Gradients of activations' arguments in the weights, ``(k, p)``, and their rates along ``Δx``."""
        if not switches:
            none = risk.weights.new_empty(0)
            return none.reshape(0, risk.layout.size), none
        self._constraint.meter.add_points(ROW, len(switches))
        owners = [switch // self._units for switch in switches]
        rows, by_inputs = switch_gradients(risk, owners, [switch % self._units for switch in switches])
        change = torch.zeros_like(by_inputs)
        for k, owner in enumerate(owners):
            if owner in self._constraint.points:
                change[k] = self._constraint.dx[self._constraint.points.index(owner)]
        return rows, flat_rows(by_inputs * change).sum(dim=1)

    def bend(self, tau: float, three: Sequence[Tensor], switch: int, cotangent: Tensor) -> float:
        """The second difference of ``uᵀf`` over three weight vectors on a line, for the point of a switch.

        ``cotangent`` holds ``u`` for the outputs of all points, ``(n·c,)``.
        """
        point, count = switch // self._units, len(self._constraint.risk(0.0).points)
        self._constraint.meter.add_points(FORWARD, 3)
        risk = self._constraint.risk(tau).select([point])
        low, middle, high = (risk.at(weights).outputs().flatten() for weights in three)
        return float((low - 2 * middle + high) @ cotangent.reshape(count, -1)[point])


class Restricted(LinearOperator):
    """``S A (I - QᵀQ)``: nearly orthonormal rows ``A`` on the directions that ``H`` maps to zero.

    ``Q = L⁻¹H`` is orthonormal, and ``S`` makes the rows nearly orthonormal again. The operator does not
    change if a multiple of a row of ``H`` is added to a row of ``A``, and only that differs between the two
    sides of a kink.

    Args:
        inner: Rows ``A``, ``(s, p)``.
        rows: Gradients ``H`` of the held activations' arguments, ``(k, p)``.
        nearby: Gradients close to those, ``(k, p)``.
        images: Products of the orthonormal rows with the nearby gradients, ``(s, k)``.
    """

    def __init__(self, inner: LinearOperator, rows: Tensor, nearby: Tensor, images: Tensor) -> None:
        super().__init__(inner.shape, inner.dtype, inner.device)
        self._inner, least = inner, torch.finfo(rows.dtype).eps ** 0.75
        self._root = _root(rows)
        self._unit = torch.linalg.solve_triangular(self._root, rows, upper=False)
        cross = torch.linalg.solve_triangular(_root(nearby), images.T, upper=False).T
        self._basis, sines, _ = torch.linalg.svd(cross, full_matrices=False)
        self._cosines = (1 - sines.square()).clamp(min=least).sqrt()

    def base(self, arguments: Tensor) -> Tensor:
        """The shortest ``v`` such that ``H v`` are the given arguments, ``(p,)``."""
        return self._unit.T @ self._solved(arguments)

    def scaled(self, block: Tensor) -> Tensor:
        """``S`` times a block or a vector."""
        return self._stretched(block, 1 / self._cosines)

    def unscaled(self, block: Tensor) -> Tensor:
        """``S⁻¹`` times a block or a vector."""
        return self._stretched(block, self._cosines)

    def pull(self, arguments: Tensor, image: Tensor) -> Tensor:
        """The ``μ`` with ``H (image + Hᵀμ)`` equal to the given arguments, ``(k,)``."""
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
    """``L`` with ``LLᵀ = HHᵀ``, also where two rows of ``H`` are equal."""
    square = rows @ rows.T
    least = torch.finfo(rows.dtype).eps ** 0.75
    return torch.linalg.cholesky(square + least * torch.diag(square.diagonal()))


class Images:
    """Products of orthonormal rows ``A`` with the gradients of held activations, kept from place to place.

    The products only scale an iteration, and gradients change little between places, so a product with a
    gradient nearby is good enough.

    Args:
        rows: Orthonormal rows ``A``, ``(s, p)``.
    """

    def __init__(self, rows: LinearOperator) -> None:
        self._rows = rows
        self._pairs: dict[int, tuple[Tensor, Tensor]] = {}

    def near(self, held: tuple[int, ...], gradients: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients near those of the held activations, ``(k, p)``, and their images, ``(s, k)``."""
        if not held:
            return gradients, gradients.new_zeros(self._rows.shape[0], 0)
        new = [place for place, switch in enumerate(held) if not self._serves(switch, gradients[place])]
        if new:
            images = (self._rows @ gradients[new].T.contiguous()).T
            for place, image in zip(new, images, strict=True):
                # Copies: a view would keep the whole block that it is part of.
                self._pairs[held[place]] = (gradients[place].clone(), image.clone())
        self._pairs = {switch: self._pairs[switch] for switch in held}
        pairs = list(self._pairs.values())
        return torch.stack([pair[0] for pair in pairs]), torch.stack([pair[1] for pair in pairs], dim=1)

    def _serves(self, switch: int, gradient: Tensor) -> bool:
        if switch not in self._pairs:
            return False
        return bool((self._pairs[switch][0] - gradient).norm() <= SAME * gradient.norm())


@dataclass(frozen=True)
class Place:
    """A point near the path with the slope there."""

    tau: float  # Place ``τ`` along the perturbation
    weights: Tensor  # Weights of the point, ``(p,)``
    slope: Tensor  # Shortest slope that keeps the outputs, and the held activations at their kinks, ``(p,)``
    dual: Tensor  # Coefficients ``u`` with ``slope = (W P J)ᵀ u`` for the whitened rows, ``(s,)``
    held: tuple[int, ...]  # Indices of the activations that are held at their kinks
    pull: Tensor  # Multiple of each held activation's gradient in the slope, ``(k,)``
    gradients: Tensor  # Gradients of the held activations' arguments, ``(k, p)``
    steps: int  # Number of iterations that the slope took


@dataclass(frozen=True)
class _System:
    """Whitened rows at a point, and the same on the directions that leave held activations at their kinks."""

    white: LinearOperator  # Whitened rows on all directions
    rows: Restricted  # Whitened rows on the free directions
    jacobian: Counted  # Jacobian inside both, which counts its products
    gradients: Tensor  # Gradients of the held activations' arguments, ``(k, p)``
    rates: Tensor  # Rates of these arguments along ``Δx``, ``(k,)``

    def count(self, meter: Meter) -> None:
        """Adds the products so far, and the forward pass that they share."""
        meter.add(FORWARD)
        meter.add(0.5 * JACOBIAN_PRODUCT, times=self.jacobian.products)


@dataclass(frozen=True)
class Nearby:
    """Slopes by conjugate gradients, preconditioned by the Gram matrix of another point nearby.

    An activation that switches changes ``J`` by a matrix of rank one, so one factorisation serves many
    switches. In the whitened rows the residual is the error of the slope, in weight units.
    """

    constraint: KeptOutputs  # Constraint that the path keeps
    switches: ActivationSwitches  # Activations that may be held at their kinks
    factor: Factor  # Factorisation that preconditions the slopes
    accuracy: float  # Error of a slope relative to its length
    max_iterations: int  # Limit of the iterations for one slope

    @cached_property
    def _whitening(self) -> LinearOperator:
        return self.factor.prepared.whitening()

    @cached_property
    def _images(self) -> Images:
        return Images(Product(self._whitening, self.factor.prepared.operator))

    def start(self, tau: float, weights: Tensor, slope: Tensor, held: tuple[int, ...]) -> Place:
        """A place whose slope is known already. Cost: a product with the rows that are factorised."""
        gradients, _ = self.switches.gradients(self.constraint.risk(tau, weights), held)
        white = Product(self._whitening, self.factor.prepared.operator)
        rows = Restricted(white, gradients, *self._images.near(held, gradients))
        dual = rows.scaled(rows @ slope)  # exact for orthonormal rows
        return Place(tau, weights, slope, dual, held, slope.new_zeros(len(held)), gradients, 0)

    def slope(self, tau: float, weights: Tensor, near: Place, held: tuple[int, ...]) -> Place | None:
        """The slope at a point, from that of a place nearby; ``None`` if the iteration does not converge.

        Cost: two products with ``J`` for each iteration and five more.
        """
        risk = self.constraint.risk(tau, weights)
        system = self._system(risk, held)
        answer = self._whitening @ self.factor.rows_of(self.constraint.answer(risk))
        base = system.rows.base(-system.rates)
        target = -answer - system.white @ base if held else -answer
        dual = system.rows.unscaled(near.dual)
        left = system.rows.scaled(target) - system.rows @ (system.rows.T @ dual)
        size, enough, steps = float(left.norm()), self.accuracy * float(near.slope.norm()), 0
        if size > enough:
            solver = CG(tol=enough / size, max_steps=self.max_iterations)
            solved = solver.solve(NormalOperator(system.rows.T), left)
            if solved.status is not Status.CONVERGED:
                return None
            dual, steps = dual + solved.value, solved.steps
        dual = system.rows.scaled(dual)
        image = system.white.T @ dual
        pull = system.rows.pull(-system.rates, image)
        system.count(self.constraint.meter)
        slope = image + system.gradients.T @ pull
        return Place(tau, weights, slope, dual, held, pull, system.gradients, steps)

    def settled(self, place: Place, output_tol: float) -> Place:
        """The same place moved onto the set, and onto the kinks of held activations, by Newton's method."""
        for _ in range(5):  # from a place near the set two are enough; more find nothing
            risk = self.constraint.risk(place.tau, place.weights)
            error = self.factor.rows_of(self.constraint.outputs(risk) - self.constraint.target(place.tau))
            values = self.switches.values(place.tau, place.weights)[list(place.held)]
            if float(torch.cat([error, values]).abs().max()) <= output_tol:
                break
            system = self._system(risk, place.held)
            base = system.rows.base(values)
            off = system.rows.scaled(self._whitening @ error - system.white @ base)
            # Three digits of each correction: the next one repairs what it leaves.
            solver = CG(tol=1e-3, max_steps=self.max_iterations)
            dual = solver.solve(NormalOperator(system.rows.T), off).value
            place = replace(place, weights=place.weights - base - system.rows.T @ dual)
            system.count(self.constraint.meter)
        return place

    def switch_rates(self, place: Place, switches: tuple[int, ...]) -> Tensor:
        """How fast the arguments of activations change along the slope of a place, ``(k,)``."""
        rows, rates = self.switches.gradients(self.constraint.risk(place.tau, place.weights), switches)
        return rows @ place.slope + rates

    def _system(self, risk: EmpiricalRisk, held: tuple[int, ...]) -> _System:
        jacobian, picked = Counted(self.constraint.jacobian(risk)), self.factor.picked
        rows_in_use: LinearOperator = jacobian if picked is None else Product(picked, jacobian)
        white = Product(self._whitening, rows_in_use)
        gradients, rates = self.switches.gradients(risk, held)
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
        y = white if self.factor.picked is None else self.factor.picked.T @ white
        grips = []
        for switch, row, multiple in zip(place.held, place.gradients, place.pull.tolist(), strict=True):
            square, value = row @ row, float(values[switch])
            small = torch.finfo(row.dtype).eps ** 0.4 * float(square.sqrt() * place.weights.norm())
            middle, shift = place.weights - value / square * row, small / square * row
            three = [middle - shift, middle, middle + shift]
            jump = self.switches.bend(place.tau, three, switch, y) / small
            over, under = (multiple, multiple + jump) if value > 0 else (multiple - jump, multiple)
            grips.append(min(over, -under))
        return grips
