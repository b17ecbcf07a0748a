"""The kernel of a Hessian at trained weights, told from eigenvalues that the leftover gradient explains.

At a solution ``w*`` of a training with continuous symmetries the Hessian is exactly zero along them. The
trained weights are near ``w*`` and not on it, so that the zeros are blurred to the size of the gradient.
A few Newton steps towards ``w*`` take the gradient down to rounding: the zeros fall with it, and every
eigenvalue of the problem itself stays.
"""

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from solset.errors import SolsetWarning
from solset.linalg import Deflated, Spectrum, default_tolerance, spectrum
from solset.operators import Hessian
from solset.risk import EmpiricalRisk, in_double
from solset.solvers import DeflatedPrepared, Prepared, Solver, SymmetricPrepared

# Sizes of eigenvalues, relative to the spectrum, that a step leaves out.
CUTS = (0.0, 1e-10, 1e-8, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
GOOD = 0.03  # factor by which a Newton step lowers the gradient where no better one is looked for
FAR = 0.1  # distance from the trained weights, relative to their length, beyond which steps prove nothing
ROUNDS = 4  # largest number of Hessians that are written out at weights nearer to a solution
PROBES = 4  # random products that estimate how far two Hessians are apart
DRIFT = 1e-2  # drift along the solutions that is let be, in units of the root of rounding
SAFETY = 4  # factor above the measured change of the Hessian up to which it explains an eigenvalue


@dataclass(frozen=True)
class _Station:
    """Weights on the way to a solution."""

    risk: EmpiricalRisk  # Empirical risk at these weights
    gradient: Tensor  # Gradient there in float64, ``(p,)``

    @property
    def size(self) -> float:
        """The norm of the gradient."""
        return float(self.gradient.norm())

    def hessian(self) -> Hessian:
        """The Hessian at these weights."""
        return Hessian(self.risk)

    def away_from(self, other: "_Station") -> float:
        """The distance between the weights of two stations."""
        return float((self.risk.weights - other.risk.weights).norm())


def settled(risk: EmpiricalRisk, gradient: Tensor, prepared: Prepared, *, warns: bool) -> Prepared:
    """The prepared Hessian, whose kernel is that of the solution nearby.

    An eigenvalue counts as kernel where the leftover gradient or the dtype explains it. Where nothing can be
    decided, the eigenvalue is kept, and the preparation says so in ``doubt``.

    Args:
        risk: Empirical risk at the trained weights.
        gradient: Gradient of the risk there, ``(p,)``.
        prepared: Hessian as a solver prepared it.
        warns: Whether a rank that cannot be decided gives a warning.

    Warns:
        SolsetWarning: If the leftover gradient explains eigenvalues, and no step removes it; or if rounding
            explains eigenvalues as large as the weight decay.

    Cost: one to eight gradients and four products; where the kernel is blurred, up to four more Hessians, and
    one in float64 where eigenvalues drown in the rounding of float32.
    """
    decomposed = prepared.symmetric_side()
    if decomposed is None:
        return prepared
    if risk.weights.dtype != torch.float64:
        risk, gradient, decomposed = _resolved(risk, gradient, decomposed, warns=warns)
    decomposed = against_decay(risk, decomposed)
    if decomposed.doubt or not bool((gradient != 0).any()):
        return decomposed
    start = _Station(risk, gradient.to(torch.float64))
    values = decomposed.spectrum
    floor = _floor(values)
    above = values.values.abs()[values.kept]
    if not len(above):
        return decomposed
    there = _newton(start, values)
    explained = SAFETY * _change(start, there)
    if float(above.min()) > explained:
        return decomposed
    here, values, explained = _nearer(start, there, values, explained)
    kernel = values.values.abs() <= floor
    unclear = int((~kernel & (values.values.abs() <= explained)).sum())
    if not unclear:
        return decomposed.deflated(_kernel_near(start, here, values.vectors[:, kernel], values.tolerance))
    doubt = _doubt(unclear, explained, start)
    if warns:
        warnings.warn(doubt, SolsetWarning, stacklevel=2)
    return decomposed.doubted(doubt)


def _nearer(
    start: _Station, there: _Station, values: Spectrum, explained: float
) -> tuple[_Station, Spectrum, float]:
    """The station nearest to a solution, the spectrum there, and the size of eigenvalues explained there."""
    here, floor = start, _floor(values)
    for _ in range(ROUNDS):
        far = FAR * float(start.risk.weights.norm())
        if not there.size <= 0.5 * here.size or there.away_from(start) > far:
            break
        here, values = there, _spectrum(there, values.tolerance)
        there = _newton(here, values)
        explained = SAFETY * _change(here, there)
        if explained <= floor:
            break
    return here, values, explained


def _resolved(
    risk: EmpiricalRisk, gradient: Tensor, prepared: SymmetricPrepared, *, warns: bool
) -> tuple[EmpiricalRisk, Tensor, SymmetricPrepared]:
    """The same in float64 where the rounding of float32 hides eigenvalues; with a doubt if it cannot be."""
    values = prepared.spectrum
    hidden = int((values.values.abs() <= SAFETY * _floor(values)).sum())
    if not hidden:
        return risk, gradient, prepared
    double = in_double(risk)
    if double.weights.dtype == torch.float64:
        exact = double.gradient()
        values = _spectrum(_Station(double, exact), default_tolerance(prepared.operator.shape, torch.float64))
        return double, exact, SymmetricPrepared(prepared.operator, values, prepared.tol)
    doubt = (
        f"the rank of the Hessian is not known: {hidden} eigenvalues are within the rounding of "
        f"{str(risk.weights.dtype).removeprefix('torch.')}; build the problem in float64"
    )
    if warns:
        warnings.warn(doubt, SolsetWarning, stacklevel=3)
    return risk, gradient, prepared.doubted(doubt)


def against_decay(risk: EmpiricalRisk, prepared: SymmetricPrepared) -> SymmetricPrepared:
    """The prepared curvature, with a doubt where its rank cut takes what the weight decay makes for zeros.

    Warns:
        SolsetWarning: If eigenvalues were cut, and the cut is at or above the smallest weight decay.
    """
    values = prepared.spectrum
    if prepared.doubt or bool(values.kept.all()):
        return prepared
    doubt = hidden_decay(risk, _floor(values))
    if not doubt:
        return prepared
    warnings.warn(doubt, SolsetWarning, stacklevel=3)
    return prepared.doubted(doubt, is_blind=True)


def in_products(risk: EmpiricalRisk, prepared: Prepared) -> Prepared:
    """The prepared curvature of a solver without a spectrum, with a doubt where rounding hides the decay.

    Products round by the rounding unit times the size of the matrix: its Frobenius norm, which is the root
    of the mean of ``‖A v‖²`` over standard normal vectors ``v``. A residual does not show what they hide.

    Args:
        risk: Empirical risk at the trained weights.
        prepared: Curvature as a solver prepared it.

    Warns:
        SolsetWarning: If this is at or above the smallest weight decay.

    Cost: one product where weights decay.
    """
    operator = prepared.operator
    if prepared.doubt or not risk.has_decay:
        return prepared
    normal = torch.randn(operator.shape[1], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    size = float((operator @ normal.to(operator.device, operator.dtype)).norm())
    doubt = hidden_decay(risk, torch.finfo(operator.dtype).eps * size)
    if doubt:
        prepared.doubt, prepared.is_blind = doubt, True
        warnings.warn(doubt, SolsetWarning, stacklevel=3)
    return prepared


def hidden_decay(risk: EmpiricalRisk, cut: float) -> str:
    """A sentence where rounding hides eigenvalues as small as the least weight decay; empty elsewhere."""
    decays = torch.as_tensor(risk.weight_decay).reshape(-1)
    least = min(decays[decays > 0].tolist(), default=float("inf"))
    if cut < least:
        return ""
    return (
        f"the rank of the Hessian is not known: rounding hides eigenvalues up to {cut:.2g}, and so those "
        f"that come from a weight decay of {least:.2g}: answers may miss the directions that matter most; "
        f"scale the columns of the data (standardise the features)"
    )


def without(directions: Tensor, prepared: Prepared, solver: Solver) -> Prepared:
    """The prepared curvature with some directions as its kernel, so that none of them is inverted.

    Args:
        directions: Orthonormal directions along which solutions stay solutions, ``(p, k)``.
        prepared: Curvature as the solver prepared it.
        solver: Solver that prepared it.
    """
    decomposed = prepared.symmetric_side()
    if decomposed is not None:
        return decomposed.deflated(directions)
    operator = Deflated(prepared.operator, directions)
    inner = prepared if prepared.rank is not None else solver.prepare(operator)
    return DeflatedPrepared(operator, inner)


def _kernel_near(start: _Station, here: _Station, kernel: Tensor, tolerance: float) -> Tensor:
    """The kernel at the solution nearest to the trained weights, from the one at another solution.

    A Newton step divides by eigenvalues that are zero but for the leftover gradient, and so may drift along
    the set of solutions, on which the kernel turns. The drift lies in the kernel, and is taken back.

    Args:
        start: Station at the trained weights.
        here: Station at another solution, where training would have ended.
        kernel: Orthonormal kernel there, ``(p, k)``.
        tolerance: Relative size of eigenvalues that count as zero.

    Cost: one more Hessian, where the weights drifted by more than rounding.
    """
    moved = (here.risk.weights - start.risk.weights).to(kernel.dtype)
    drift = kernel @ (kernel.T @ moved)
    rounding = torch.finfo(start.risk.weights.dtype).eps ** 0.5
    if float(drift.norm()) <= DRIFT * rounding * float(start.risk.weights.norm()):
        return kernel
    near = here.risk.at(here.risk.weights - drift.to(start.risk.weights.dtype))
    values = _spectrum(_Station(near, here.gradient), tolerance)
    smallest = values.values.abs().argsort()[: kernel.shape[1]]
    return values.vectors[:, smallest]


def _floor(values: Spectrum) -> float:
    """The size of an eigenvalue that rounding explains."""
    return values.tolerance * float(values.values.abs().max())


def _spectrum(station: _Station, tolerance: float) -> Spectrum:
    matrix = station.hessian().to_dense().to(torch.float64)
    return spectrum((matrix + matrix.T) / 2, tolerance)


def _newton(station: _Station, values: Spectrum) -> _Station:
    """The weights after the Newton step that lowers the gradient most, over several cuts of the spectrum."""
    inside = values.vectors.T @ station.gradient
    largest = values.values.abs().max()
    best: _Station | None = None
    for cut in CUTS:
        used = values.values.abs() > max(cut, values.tolerance) * largest
        step = -values.vectors[:, used] @ (inside[used] / values.values[used])
        risk = station.risk.at(station.risk.weights + step.to(station.risk.weights.dtype))
        tried = _Station(risk, risk.gradient().to(torch.float64))
        if best is None or not tried.size >= best.size:
            best = tried
        if best.size <= GOOD * station.size:
            break
    return best if best is not None else station


def _change(first: _Station, second: _Station) -> float:
    """The size of the difference of two Hessians: an estimate of its Frobenius norm by random products."""
    like = first.risk.weights
    generator = torch.Generator().manual_seed(0)
    draw = torch.randn(len(like), PROBES, generator=generator, dtype=torch.float64).to(like)
    difference = second.hessian() @ draw - first.hessian() @ draw
    size = float(difference.norm()) / PROBES**0.5
    return size if size == size else float("inf")


def _doubt(count: int, explained: float, start: _Station) -> str:
    return (
        f"the weights are not stationary enough to know the rank of the Hessian: the leftover gradient "
        f"({start.size:.2g}) explains {count} eigenvalues up to {explained:.2g}; train further to decide it"
    )
