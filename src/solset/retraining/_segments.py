"""One segment of retraining: gradient descent on the linearised risk."""

from dataclasses import dataclass

import torch
from torch import Tensor

from solset.courses import Meter
from solset.linalg import BlockDiagonal, NormalOperator, Product
from solset.operators import FORWARD, JACOBIAN_PRODUCT, ROW, Jacobian, loss_curvature, regularisation_of
from solset.risk import EmpiricalRisk, slopes_at
from solset.solvers import Dense, Dual, GramPrepared, Prepared
from solset.solvers.filters import GradientFlow

FLAT = 1e-12  # share of the loss's largest curvature below which a direction counts as one without curvature
NEGLIGIBLE = 1e-10  # share of the loss's slopes below which the rest is rounding


@dataclass(frozen=True)
class Segment:
    """The risk linearised at ``w_k``: ``A = √α Λ^{1/2} J`` there, with the spectrum of ``AAᵀ``."""

    rows: GramPrepared  # Rows ``A`` with their Gram matrix ``AAᵀ``
    roots: BlockDiagonal  # Roots ``√α Λ^{1/2}`` of the loss's curvature, a block for each point
    slopes: Tensor  # Slopes ``α ∇_f L`` of the loss at ``w_k``, ``(n, c)``
    # Residual ``r``, with ``Aᵀr`` the part of the gradient along the loss's curvature, ``(m,)``
    force: Tensor
    gradient: Tensor  # Gradient of the risk, ``(p,)``
    # Rest of the gradient, from weight decay and slopes without curvature; ``None`` if it is zero
    drift: Tensor | None
    damped: Prepared | None  # Operator ``AᵀA + λI`` if there is a drift, with unequal decays on the diagonal

    @classmethod
    def at(cls, risk: EmpiricalRisk, solver: Dual, meter: Meter) -> "Segment | None":
        """The linearisation at the weights of a risk; ``None`` where outputs or inner products overflow.

        Cost: all rows of ``J`` and a forward pass; a product with ``Jᵀ`` where slopes have no curvature.
        """
        outputs = risk.outputs()
        meter.add(FORWARD)
        curvature, slopes = loss_curvature(risk, outputs).to(torch.float64), slopes_at(risk, outputs)
        if not _are_finite(outputs, curvature, slopes):
            return None
        values, vectors = torch.linalg.eigh(curvature)
        values = torch.where(values > FLAT * values.max(), values, 0.0)
        along = torch.einsum("nij,ni->nj", vectors, slopes.to(torch.float64))
        curved = values > 0
        safe = torch.where(curved, values, 1.0).sqrt()
        force = torch.einsum("nij,nj->ni", vectors, torch.where(curved, along / safe, 0.0))
        rest = torch.einsum("nij,nj->ni", vectors, torch.where(curved, 0.0, along)).to(outputs.dtype)
        roots = BlockDiagonal(((vectors * values.sqrt().unsqueeze(1)) @ vectors.mT).to(outputs.dtype))
        jacobian = Jacobian(risk, memory_budget=0)
        prepared = solver.prepare_rows(Product(roots, jacobian))
        meter.add_points(ROW, jacobian.shape[0])
        if not prepared.is_finite:
            return None
        force = force.flatten().to(outputs.dtype)
        curvature_part = prepared.operator.T @ force
        drift = risk.regularisation_gradient()
        if float(rest.norm()) > NEGLIGIBLE * float(slopes.norm()):
            drift = drift + jacobian.T @ rest.flatten()
            meter.add(JACOBIAN_PRODUCT)
        has_drift = risk.has_decay or risk.penalty is not None or bool(drift.any())
        damped = _damped(prepared, risk, solver) if has_drift else None
        total = curvature_part + drift
        drift = drift if has_drift else None
        return cls(prepared, roots, slopes, force, total, drift, damped)

    def change(self, flow: GradientFlow) -> Tensor:
        """``w - w_k`` after some steps: ``-Aᵀ φ(AAᵀ) r``, or ``-φ(AᵀA + λI) ∇E`` if there is a drift."""
        if self.damped is None:
            return -self.rows.filtered(flow, self.force).value
        return -self.damped.filtered(flow, self.gradient).value

    def defect(
        self, flow: GradientFlow, change: Tensor, slopes: Tensor, gradient: Tensor, travelled: float
    ) -> float:
        """How far the linearisation is off at the end of a segment, the largest of three shares.

        The first is the distance of the slopes ``α ∇_f L`` of the loss from their linearisation, relative to
        those at ``w_k``: it sees ``Λ`` and the outputs. The second is the same of the gradient, and sees the
        change of ``J`` too. The third is the length that the flow makes of this distance ``d`` of the
        gradient, ``‖φ_k(AᵀA + λI) d‖``, relative to the way of the weights: in directions of little
        curvature a small distance goes far.

        Args:
            flow: Number of steps since ``w_k``, and learning rate.
            change: Change of the weights in these steps, ``(p,)``.
            slopes: Slopes of the loss after the change, ``(n, c)``.
            gradient: Gradient of the risk after the change, ``(p,)``.
            travelled: Length of the course up to ``w_k``, in weight units.
        """
        pushed = self.rows.operator @ change
        answer = (self.roots @ pushed).view_as(slopes)
        system = self.rows.curvature() if self.damped is None else self.damped
        distance = gradient - self.gradient - system.operator @ change
        drifted = system.filtered(flow, distance).value
        pairs = (
            (slopes - self.slopes - answer, float(self.slopes.norm())),
            (distance, float(self.gradient.norm())),
            (drifted, travelled + float(change.norm())),
        )
        return max(float(left.norm()) / size if size > 0 else 0.0 for left, size in pairs)

    @property
    def smallest(self) -> float:
        """The smallest singular value of ``A``."""
        return self.rows.smallest**0.5


def _damped(rows: GramPrepared, risk: EmpiricalRisk, solver: Dual) -> Prepared:
    """``AᵀA + λI`` through the Gram matrix; with unequal decays written out, within the solver's budget."""
    damping, rest = regularisation_of(risk)
    if rest is None:
        return rows.curvature(damping)
    dense = Dense(memory_budget=solver.memory_budget)
    return dense.prepare(NormalOperator(rows.operator, damping, rest))


def _are_finite(*tensors: Tensor) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)
