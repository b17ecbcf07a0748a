"""Krylov iterations on blocks: the columns share each product and stop one by one.

Vectors are kept in float64 wherever the device has it, whatever the dtype of the products, since recurrences
lose orthogonality in lower precision long before the products do.
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import Tensor
from torch.linalg import vector_norm

from solset.linalg import LinearOperator

Product = Callable[[Tensor], Tensor]
Pair = tuple[Tensor, Tensor]


@dataclass
class Iterates:
    """Where the columns of a block ended."""

    value: Tensor  # Last iterate of each column, ``(p, k)``
    steps: Tensor  # Number of steps that each column took, ``(k,)``
    is_stopped: Tensor  # Whether the column stopped for a reason other than its limit of steps, ``(k,)``
    is_indefinite: Tensor  # Whether the column met negative curvature, ``(k,)``

    @classmethod
    def like(cls, rhs: Tensor, size: int) -> "Iterates":
        """Zeros for the columns of a right-hand side ``(m, k)`` and iterates of a size ``p``."""
        steps = torch.zeros(rhs.shape[1], dtype=torch.long, device=rhs.device)
        return cls(rhs.new_zeros(size, rhs.shape[1]), steps, steps > 0, steps > 0)

    def settle(self, state: "_Columns", is_over: Tensor, step: int, limits: Tensor) -> "_Columns":
        """Files the columns that are over or at their limit, and returns the state of the others.

        Args:
            state: State of the columns that still iterate.
            is_over: Mask of those that have ended, over the columns of the state.
            step: Number of steps taken.
            limits: Largest number of steps of every column, ``(k,)``.
        """
        ends = is_over | (step >= limits[state.at])
        if not bool(ends.any()):
            return state
        columns = state.at[ends]
        self.value[:, columns] = state.value[:, ends]
        self.steps[columns] = step
        self.is_stopped[columns] = is_over[ends]
        return state.narrowed(~ends)


class _Columns(SimpleNamespace):
    """Vectors ``(p, k)`` and numbers ``(k,)`` of the columns that still iterate, by name."""

    at: Tensor
    value: Tensor

    def __len__(self) -> int:
        return len(self.at)

    def narrowed(self, mask: Tensor) -> "_Columns":
        """The state of the columns in a mask."""
        return _Columns(**{name: entry[..., mask] for name, entry in vars(self).items()})


def working_dtype(device: torch.device) -> torch.dtype:
    """The dtype of the recurrences: float64, or float32 on a device without it."""
    return torch.float32 if device.type == "mps" else torch.float64


def conjugate_gradients(
    operator: LinearOperator, rhs: Tensor, tol: float, limits: Tensor, inverse: LinearOperator | None = None
) -> Iterates:
    """Conjugate gradients (Hestenes & Stiefel 1952), which watch the curvature of every direction.

    A column stops at a direction with ``dᵀAd ≤ 0`` up to rounding, where no further step is defined.

    Args:
        operator: Symmetric matrix ``A``, ``(p, p)``.
        rhs: Right-hand sides, ``(p, k)``.
        tol: Norm of the residual, relative to that of the right-hand side, at which a column stops.
        limits: Largest number of steps of each column, ``(k,)``.
        inverse: Positive definite approximation of the inverse; none by default.
    """
    apply, b = _product(operator), rhs.to(working_dtype(rhs.device))
    precondition = _product(inverse) if inverse is not None else torch.clone
    ends, rounding = Iterates.like(b, len(b)), torch.finfo(operator.dtype).eps
    direction = precondition(b)
    s = _Columns(
        at=torch.arange(b.shape[1], device=b.device),
        value=torch.zeros_like(b),
        residual=b.clone(),
        direction=direction,
        weight=_dot(b, direction),
        goal=tol * vector_norm(b, dim=0),
        norm=torch.zeros_like(b[0]),
    )
    step = 0
    while len(s := ends.settle(s, vector_norm(s.residual, dim=0) <= s.goal, step, limits)):
        image = apply(s.direction)
        size = _dot(s.direction, s.direction)
        curvature = _dot(s.direction, image) / size
        # Rounding is relative to the norm of A, not to A d, which vanishes towards the kernel.
        s.norm = torch.maximum(s.norm, vector_norm(image, dim=0) / size.sqrt())
        ends.is_indefinite[s.at] = curvature < -100 * rounding * s.norm
        is_flat = ~(curvature > rounding * s.norm)  # or not a number
        s.image, s.curvature = image, curvature * size
        if not len(s := ends.settle(s, is_flat, step, limits)):
            break
        length = s.weight / s.curvature
        s.value = s.value + length * s.direction
        s.residual = s.residual - length * s.image
        conditioned, previous = precondition(s.residual), s.weight
        s.weight = _dot(s.residual, conditioned)
        s.direction = conditioned + (s.weight / previous) * s.direction
        step += 1
    return ends


def minres(operator: LinearOperator, rhs: Tensor, tol: float, limits: Tensor) -> Iterates:
    """MINRES (Paige & Saunders 1975, section 6): Lanczos vectors and one Givens rotation a step.

    A column stops where its residual, or ``‖Ar‖`` for one that no iterate removes, is small, and where
    rounding ends the recurrence.

    Args:
        operator: Symmetric matrix ``A``, ``(p, p)``.
        rhs: Right-hand sides, ``(p, k)``.
        tol: Norm of the residual relative to the right-hand side, and of ``Ar`` relative to ``‖A‖‖r‖``, at
            which a column stops.
        limits: Largest number of steps of each column, ``(k,)``.
    """
    apply, b = _product(operator), rhs.to(working_dtype(rhs.device))
    ends, rounding = Iterates.like(b, len(b)), torch.finfo(b.dtype).eps
    s = _minres_start(b)
    step, is_over = 0, s.beta == 0
    while len(s := ends.settle(s, is_over, step, limits)):
        vector = s.newer / s.beta
        image = apply(vector)
        if step:
            image = image - (s.beta / s.older_beta) * s.older
        alpha = _dot(vector, image)
        image = image - (alpha / s.beta) * s.newer
        s.older, s.newer = s.newer, image
        s.older_beta, s.beta = s.beta, vector_norm(image, dim=0)
        s.norm2 = s.norm2 + alpha**2 + s.older_beta**2 + s.beta**2
        above, beside = s.corner, s.cosine * s.diagonal + s.sine * alpha
        reduced = s.sine * s.diagonal - s.cosine * alpha
        s.corner, s.diagonal = s.sine * s.beta, -s.cosine * s.beta
        slope = torch.hypot(reduced, s.diagonal)  # ‖Ar‖ / ‖r‖ before this step
        pivot = torch.hypot(reduced, s.beta).clamp_min(rounding)
        s.cosine, s.sine = reduced / pivot, s.beta / pivot
        length, s.residual = s.cosine * s.residual, s.sine * s.residual
        search = (vector - above * s.older_search - beside * s.search) / pivot
        s.older_search, s.search = s.search, search
        s.value = s.value + length * search
        s.largest_pivot = torch.maximum(s.largest_pivot, pivot)
        s.smallest_pivot = torch.minimum(s.smallest_pivot, pivot)
        is_over = _minres_is_over(s, slope, tol, rounding)
        step += 1
    return ends


def _minres_start(b: Tensor) -> _Columns:
    """The columns before the first step of MINRES, with the right-hand sides as their residuals."""
    zero, beta = torch.zeros_like(b[0]), vector_norm(b, dim=0)
    return _Columns(
        at=torch.arange(b.shape[1], device=b.device),
        value=torch.zeros_like(b),
        older=torch.zeros_like(b),  # the last two Lanczos vectors, not normalised
        newer=b.clone(),
        beta=beta,
        older_beta=torch.ones_like(beta),
        diagonal=zero,  # the entries of the triangular factor that the next rotation meets
        corner=zero,
        cosine=-torch.ones_like(beta),
        sine=zero,
        residual=beta,
        older_search=torch.zeros_like(b),
        search=torch.zeros_like(b),
        norm2=zero,
        largest_pivot=zero,
        smallest_pivot=torch.full_like(beta, torch.inf),
        size=beta,
    )


def _minres_is_over(s: _Columns, slope: Tensor, tol: float, rounding: float) -> Tensor:
    """The mask of columns whose residual or slope is small, or whose recurrence rounding ends."""
    norm, reach = s.norm2.sqrt(), vector_norm(s.value, dim=0)
    is_over = (s.residual <= tol * s.size) | (slope <= tol * norm) | (s.beta <= rounding * norm)
    is_over |= s.residual <= rounding * norm * reach
    is_over |= rounding * norm * reach >= s.size
    is_over |= s.largest_pivot >= 0.1 / rounding * s.smallest_pivot
    return is_over | ~s.beta.isfinite()


def lsmr(  # noqa: PLR0914 - the rotations of the paper, each with its name
    operator: LinearOperator, rhs: Tensor, tol: float, normal_tol: float, damping: float, limits: Tensor
) -> Iterates:
    """LSMR (Fong & Saunders 2011, section 2 and 5): MINRES on the normal equations without forming them.

    Args:
        operator: Matrix ``A``, ``(m, p)``.
        rhs: Right-hand sides, ``(m, k)``.
        tol: Norm of the residual, relative to that of the right-hand side, at which a column stops.
        normal_tol: Norm of ``Aᵀr``, relative to ``‖A‖‖r‖``, at which a column stops.
        damping: Number ``δ`` in ``min ‖Av - b‖² + δ²‖v‖²``.
        limits: Largest number of steps of each column, ``(k,)``.
    """
    apply, pull = _product(operator), _product(operator.T)
    b = rhs.to(working_dtype(rhs.device))
    ends, rounding = Iterates.like(b, operator.shape[1]), torch.finfo(b.dtype).eps
    delta = torch.as_tensor(damping, dtype=b.dtype, device=b.device)
    s = _lsmr_start(b, pull)
    step, is_over = 0, s.zeta_bar == 0
    while len(s := ends.settle(s, is_over, step, limits)):
        s.u, beta = _normalised(apply(s.v) - s.alpha * s.u)
        s.v, s.alpha = _normalised(pull(s.u) - beta * s.v)
        # The rotations of section 2.3 and, with the damping, of section 5.
        alpha_hat = torch.hypot(s.alpha_bar, delta)
        c_hat, s_hat = _ratio(s.alpha_bar, alpha_hat), _ratio(delta, alpha_hat)
        older_rho, s.rho = s.rho, torch.hypot(alpha_hat, beta)
        c, sine = _ratio(alpha_hat, s.rho), _ratio(beta, s.rho)
        theta_new, s.alpha_bar = sine * s.alpha, c * s.alpha
        older_bar, older_zeta = s.rho_bar, s.zeta
        theta_bar, rho_temp = s.s_bar * s.rho, s.c_bar * s.rho
        s.rho_bar = torch.hypot(rho_temp, theta_new)
        s.c_bar, s.s_bar = _ratio(rho_temp, s.rho_bar), _ratio(theta_new, s.rho_bar)
        s.zeta, s.zeta_bar = s.c_bar * s.zeta_bar, -s.s_bar * s.zeta_bar
        s.h_bar = s.h - theta_bar * _ratio(s.rho, older_rho * older_bar) * s.h_bar
        s.value = s.value + _ratio(s.zeta, s.rho * s.rho_bar) * s.h_bar
        s.h = s.v - _ratio(theta_new, s.rho) * s.h
        residual = _lsmr_residual(s, (c, sine), (c_hat, s_hat), theta_bar, older_zeta)
        s.norm2 = s.norm2 + beta**2
        norm = s.norm2.sqrt()
        s.norm2 = s.norm2 + s.alpha**2
        is_over = (residual <= tol * s.size) | (s.zeta_bar.abs() <= normal_tol * norm * residual)
        is_over |= residual <= rounding * (s.size + norm * vector_norm(s.value, dim=0))
        is_over |= ~residual.isfinite()
        step += 1
    return ends


def _lsmr_start(b: Tensor, pull: Product) -> _Columns:
    """The columns before the first step of LSMR, by the names of section 2."""
    u, beta = _normalised(b)
    v, alpha = _normalised(pull(u))
    zero, one = torch.zeros_like(beta), torch.ones_like(beta)
    return _Columns(
        at=torch.arange(b.shape[1], device=b.device), value=torch.zeros_like(v), u=u, v=v, h=v,
        h_bar=torch.zeros_like(v), alpha=alpha, alpha_bar=alpha, zeta=zero, zeta_bar=alpha * beta, rho=one,
        rho_bar=one, c_bar=one, s_bar=zero, beta_dd=beta, beta_d=zero, rho_d=one, tau=zero, theta=zero,
        leak=zero, norm2=alpha**2, size=beta,
    )  # fmt: skip


def _lsmr_residual(s: _Columns, rotation: Pair, damped: Pair, theta_bar: Tensor, zeta: Tensor) -> Tensor:
    """The estimate of ``‖r‖`` of section 3.2 of LSMR after a step.

    Args:
        s: Columns after the rotations of the step.
        rotation: Cosine and sine of the rotation of the step.
        damped: Cosine and sine of the rotation of the damping.
        theta_bar: Entry ``θ̄`` of the step.
        zeta: Entry ``ζ`` of the step before.
    """
    (c, sine), (c_hat, s_hat) = rotation, damped
    acute, check = c_hat * s.beta_dd, -s_hat * s.beta_dd
    beta_hat, s.beta_dd = c * acute, -sine * acute
    older_theta, rho_tilde = s.theta, torch.hypot(s.rho_d, theta_bar)
    c_tilde, s_tilde = _ratio(s.rho_d, rho_tilde), _ratio(theta_bar, rho_tilde)
    s.theta, s.rho_d = s_tilde * s.rho_bar, c_tilde * s.rho_bar
    s.beta_d = -s_tilde * s.beta_d + c_tilde * beta_hat
    s.tau = _ratio(zeta - older_theta * s.tau, rho_tilde)
    tau_d = _ratio(s.zeta - s.theta * s.tau, s.rho_d)
    s.leak = s.leak + check**2
    return (s.leak + (s.beta_d - tau_d) ** 2 + s.beta_dd**2).sqrt()


def _product(operator: LinearOperator) -> Product:
    """Products in the operator's dtype, from and to the dtype of the recurrences."""
    working = working_dtype(operator.device)
    return lambda block: (operator @ block.to(operator.dtype)).to(working)


def _dot(first: Tensor, second: Tensor) -> Tensor:
    return (first * second).sum(dim=0)


def _normalised(block: Tensor) -> tuple[Tensor, Tensor]:
    """The columns over their norms, and the norms; a zero column stays as it is."""
    size = vector_norm(block, dim=0)
    return block / torch.where(size > 0, size, 1.0), size


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    """A quotient of rotations, which is 0 where both sides vanish."""
    return torch.where(below == 0, 0.0, above / torch.where(below == 0, 1.0, below))
