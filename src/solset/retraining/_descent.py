"""Down the gradient flow of a risk to a minimum, by steps that end at Newton's."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from solset.errors import Status
from solset.linalg import krylov, smallest_eigenpair
from solset.operators import Hessian
from solset.risk import EmpiricalRisk
from solset.solvers import CG, Dense, Solver

SMALL = 1000  # number of weights up to which the Hessian is decomposed
STEPS = 40  # dimension of the Krylov space on which a larger Hessian is decomposed
TRIALS = 30  # limit of the steps that are tried from one place
AGREES = 0.5  # error of a gradient, as a share of it, up to which the model of second order is believed
DRAWS = 4  # number of draws of rounding errors of the weights by which those of the gradient are measured
EXPLAINED = 30  # factor above the measured rounding of an entry of the gradient up to which it explains one
ASIDE = 0.382  # share of a step at which it is looked at too; no simple fraction, which may meet a period


@dataclass(frozen=True)
class _Place:
    """A place on the way."""

    risk: EmpiricalRisk  # Changed risk at the weights reached
    value: float  # Value of the risk
    gradient: Tensor  # Gradient of the risk, ``(p,)``

    @classmethod
    def of(cls, risk: EmpiricalRisk) -> "_Place":
        """The place at the weights of a risk. Cost: one gradient."""
        return cls(risk, *risk.value_and_gradient())

    @cached_property
    def hessian(self) -> Hessian:
        """The Hessian there, with its graph."""
        return Hessian(self.risk)

    @property
    def size(self) -> float:
        """Gradient norm."""
        return float(self.gradient.norm())

    @property
    def weight_norm(self) -> float:
        """Length of the weights, or 1 where they are zero."""
        return float(self.risk.weights.norm()) or 1.0


@dataclass(frozen=True)
class _Quadratic:
    """The risk to second order on a subspace, diagonalised."""

    vectors: Tensor  # Orthonormal eigenvectors of the Hessian on the subspace, ``(p, k)``
    values: Tensor  # Eigenvalues in ascending order, ``(k,)`` in float64
    slopes: Tensor  # Gradient in these coordinates, ``(k,)`` in float64

    @property
    def rounding(self) -> float:
        """Magnitude of an eigenvalue that rounding explains."""
        return float(self.values.abs().max()) * 1e3 * torch.finfo(self.vectors.dtype).eps

    @property
    def lowest(self) -> float:
        """The smallest eigenvalue."""
        return float(self.values[0])

    def step(self, time: float) -> Tensor:
        """The way of the gradient flow in a time: ``-φ(H) g`` with ``φ(s) = (1 - e^{-ts})/s``, ``(p,)``.

        In an infinite time it is Newton's step, without the directions along which nothing curves.
        """
        is_flat = self.values.abs() <= self.rounding
        safe = torch.where(is_flat, 1.0, self.values)
        if math.isinf(time):
            factors = torch.where(is_flat, 0.0, 1 / safe)
        else:
            factors = torch.where(is_flat, time, -torch.expm1(-time * safe) / safe)
        return -(self.vectors @ (factors * self.slopes).to(self.vectors))

    def image(self, step: Tensor) -> Tensor:
        """The product of the Hessian with a step inside the subspace, ``(p,)``."""
        return self.vectors @ (self.values.to(step.dtype) * (self.vectors.T @ step))

    @property
    def slowest(self) -> float:
        """The longest time scale of the flow."""
        return 1 / max(float(self.values.abs().min()), self.rounding, 1e-300)


class Descent:
    """One descent from the weights of a risk.

    Args:
        start: Risk at the weights to begin with.
        gradient_tol: Gradient norm at which to stop.
        max_steps: Limit of the steps.
        solver: Solver of systems with a positive definite Hessian; ``None`` for the default.
    """

    def __init__(
        self, start: EmpiricalRisk, gradient_tol: float, max_steps: int, solver: Solver | None
    ) -> None:
        self._gradient_tol, self._max_steps, self._solver = gradient_tol, max_steps, solver
        self._is_dense = isinstance(solver, Dense) or (solver is None and start.layout.size <= SMALL)
        self._here, self._time = _Place.of(start), math.inf
        self._first, self._last_step, self._last_lowest = self._here.size, math.inf, -math.inf
        self.passes, self.smallest = 1, math.nan

    @property
    def end(self) -> EmpiricalRisk:
        """The risk at the weights reached."""
        return self._here.risk

    def run(self) -> Status:
        """Goes down until the place is a minimum, and says how it ended."""
        for count in range(self._max_steps + 1):
            if not self._here.size < math.inf:
                return Status.NONFINITE
            is_met = self._here.size <= self._gradient_tol
            if not is_met and count < self._max_steps and self._advance():
                continue
            if not is_met and count == self._max_steps:
                return Status.MAX_STEPS
            lowest = self._negative_direction()
            if lowest is None:
                return Status.CONVERGED if is_met or self._is_at_rounding() else Status.MAX_STEPS
            if count == self._max_steps or not self._leave(lowest):
                return Status.INDEFINITE
        return Status.MAX_STEPS

    def _is_at_rounding(self) -> bool:
        """Whether rounding explains how short the last steps were, and all of the gradient that is left."""
        here, eps = self._here, torch.finfo(self._here.gradient.dtype).eps
        if not self._last_step <= eps**0.5 * here.weight_norm:
            return False
        # Over the length of all weights such an entry changes the risk by less than its rounding.
        idle = 100 * eps * abs(here.value) / here.weight_norm
        return bool((here.gradient.abs() <= (EXPLAINED * self._rounding()).clamp_min(idle)).all())

    def _rounding(self) -> Tensor:
        """The rounding of each entry of the gradient, ``(p,)``. Cost: four gradients.

        It is the largest change of the entry where the weights change by their rounding. One bound for all
        entries would be that of the largest column of the data, which hides the slopes along the others.
        """
        gradient, weights = self._here.gradient, self._here.risk.weights
        generator, largest = torch.Generator().manual_seed(0), torch.zeros_like(gradient)
        for _ in range(DRAWS):
            signs = torch.randint(0, 2, weights.shape, generator=generator).to(weights) * 2 - 1
            there = self._at(torch.finfo(weights.dtype).eps * signs * weights)
            largest = torch.maximum(largest, (there.gradient - gradient).abs())
        return largest

    def _whole(self) -> _Quadratic:
        """The quadratic on the whole space. Cost: a Hessian."""
        matrix = self._here.hessian.to_dense().to(torch.float64)
        self.passes += 2 * len(matrix)
        values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
        vectors = vectors.to(self._here.gradient.dtype)
        return _Quadratic(vectors, values, (vectors.T @ self._here.gradient).to(torch.float64))

    def _on_krylov_space(self) -> _Quadratic:
        """The quadratic on the Krylov space of the gradient. Cost: 40 products."""
        space = krylov(self._here.hessian, self._here.gradient, STEPS)
        self.passes += 2 * space.vectors.shape[1]
        values, turn = torch.linalg.eigh(space.matrix)
        slopes = turn[0] * float(self._here.gradient.norm())
        turned = space.vectors @ turn.to(space.vectors)
        return _Quadratic(turned, values.to(turned.device), slopes.to(turned.device))

    def _advance(self) -> bool:
        """One step down; ``False`` where rounding allows none."""
        if not self._is_dense and math.isinf(self._time):
            solver = self._solver or CG(tol=min(0.1, max(1e-10, 0.1 * self._here.size / self._first)))
            solved = solver.solve(self._here.hessian, -self._here.gradient)
            self.passes += 2 * (solved.steps + 1)
            is_usable = solved.status not in {Status.INDEFINITE, Status.NONFINITE, Status.DIVERGED}
            if (
                is_usable
                and (is_taken := self._try(solved.value, self._here.hessian @ solved.value)) is not False
            ):
                return bool(is_taken)
        quadratic = self._whole() if self._is_dense else self._on_krylov_space()
        self._last_lowest = quadratic.lowest if self._is_dense else -math.inf
        for time in self._times(quadratic):
            step = quadratic.step(time)
            image = quadratic.image(step) if self._is_dense else self._here.hessian @ step
            self.passes += 0 if self._is_dense else 2
            is_taken = self._try(step, image)
            if is_taken is None:
                return False
            if is_taken:
                self._time = time
                return True
        return False

    def _times(self, quadratic: _Quadratic) -> Iterator[float]:
        """The times of flow to try, the longest first."""
        is_convex = quadratic.lowest >= -quadratic.rounding
        longest = math.inf if is_convex else 3 / -quadratic.lowest  # the step grows by e³ at most
        time = min(4 * self._time, longest)
        if is_convex and time >= 4 * quadratic.slowest:
            yield math.inf
            time = quadratic.slowest
        for _ in range(TRIALS):
            yield time
            time /= 4

    def _try(self, step: Tensor, image: Tensor) -> bool | None:
        """Takes a step ``s`` if gradients agree with the model there and on the way; ``None`` at rounding.

        ``image`` is ``H s``. Cost: one gradient, or two for a step that is not short.
        """
        here, length = self._here, float(step.norm())
        new = self._at(step)
        eps = torch.finfo(step.dtype).eps
        is_down = new.value <= here.value + 100 * eps * abs(here.value)
        if is_down and self._is_believed(new, step, image, 1.0):
            is_short = length <= 1e-3 * here.weight_norm
            if is_short or self._is_believed(self._at(ASIDE * step), step, image, ASIDE):
                self._here, self._last_step = new, length
                return True
        is_rounding = abs(float(here.gradient @ step)) <= 100 * eps * abs(here.value)
        if is_rounding and length <= eps**0.5 * here.weight_norm:
            self._last_step = length
            return None
        return False

    def _is_believed(self, new: _Place, step: Tensor, image: Tensor, share: float) -> bool:
        """Whether the gradient or the fall of the risk after a share of a step is that of the model."""
        here, model = self._here, self._here.gradient + share * image
        largest = max(here.size, float(model.norm()))
        if float((new.gradient - model).norm()) <= AGREES * largest:
            return True
        fall = share * float(step @ here.gradient) + 0.5 * share**2 * float(step @ image)
        return 2 * fall <= new.value - here.value <= 0.25 * fall

    def _negative_direction(self) -> Tensor | None:
        """The direction of the lowest eigenvalue if it is negative; ``None`` at a minimum."""
        here = self._here
        # By how much the lowest eigenvalue may have changed since the Hessian before the last step.
        changed = 20 * here.size / self._last_step if self._last_step > 0 else math.inf
        if self._last_lowest > changed:
            self.smallest = self._last_lowest
            return None
        if self._is_dense:
            quadratic = self._whole()
            self.smallest, vector, rounding = quadratic.lowest, quadratic.vectors[:, 0], quadratic.rounding
        else:
            pair = smallest_eigenpair(self._here.hessian, start=here.gradient)
            self.passes += 2 * pair.products
            self.smallest, vector = pair.value, pair.vector
            rounding = 1e3 * torch.finfo(vector.dtype).eps * abs(pair.value / pair.relative or 0.0)
        # On an orbit of solutions the leftover gradient gives the Hessian an eigenvalue of its own size.
        return vector if self.smallest < -(rounding + 10 * here.size / here.weight_norm) else None

    def _leave(self, direction: Tensor) -> bool:
        """Goes from a saddle along a direction of negative curvature, as far as the curvature holds."""
        here, length, signs = self._here, 1e-3 * self._here.weight_norm, (1.0, -1.0)
        farthest: _Place | None = None
        for _ in range(12):
            reached = {sign: self._at(sign * length * direction) for sign in signs}
            sign = min(reached, key=lambda one: reached[one].value)
            if (
                reached[sign].value <= here.value + 0.25 * self.smallest * length**2
            ):  # half of the model's fall
                farthest, signs, length = reached[sign], (sign,), 2 * length
            elif farthest is None:
                length /= 10
            else:
                break
        if farthest is None:
            return False
        self._here, self._time, self._last_lowest = farthest, -1 / self.smallest, -math.inf
        return True

    def _at(self, step: Tensor) -> _Place:
        """The place after a step. Cost: one gradient."""
        self.passes += 1
        return _Place.of(self._here.risk.at(self._here.risk.weights + step))
