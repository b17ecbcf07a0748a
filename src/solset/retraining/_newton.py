"""The minimum that the gradient flow from the trained weights ends at, by steps of Newton's kind."""

from dataclasses import dataclass, replace

from torch import Tensor

from solset.checks import checked, positive, within
from solset.courses import Retrained
from solset.retraining._descent import Descent
from solset.retraining._ends import finish
from solset.risk import EmpiricalRisk
from solset.solvers import Solver


@checked
@dataclass(frozen=True)
class Newton:
    """The minimum of the changed risk at which the gradient flow from ``w̄`` ends, by steps of Newton's kind.

    Each step goes along the flow ``w' = -∇E`` of the risk to second order, ``-φ(H) ∇E`` with
    ``φ(s) = (1 - e^{-ts})/s``: for as long a time as gradients on the way agree with that model, and for an
    infinite time, which is Newton's step, where they agree that far. So it goes down where the Hessian has
    negative eigenvalues, and leaves the neighbourhood of ``w̄`` only where gradient descent does. It has
    converged where the gradient vanishes *and* the Hessian has no negative eigenvalue: from a saddle it
    goes on along the lowest eigenvector.

    Attributes:
        gradient_tol: Gradient norm at which to stop. Where rounding does not allow it, the method stops once
            a Newton step is shorter than the root of the rounding unit, relative to the weights.
        max_steps: Limit of the steps.
        solver: Solver of the systems with a positive definite Hessian; by default a decomposition of the
            whole Hessian up to 1000 weights, :class:`~solset.solvers.CG` beyond.

    Raises:
        ValueError: If the tolerance is not positive, or the number of steps is negative.

    Cost: for each step one Hessian up to 1000 weights, beyond that one linear system, or 40 products where
    the Hessian is not positive definite; one to five gradients; at the end one Hessian or 40 to 160 products.
    """

    gradient_tol: float = 1e-10
    max_steps: int = 100
    solver: Solver | None = None

    def __post_init__(self) -> None:
        positive("gradient_tol", self.gradient_tol, cure="Use 1e-10.")
        within("max_steps", self.max_steps, 0, cure="Use 100.")

    def run(self, start: EmpiricalRisk, target: Tensor) -> Retrained:  # noqa: ARG002 - part of the interface
        """The minimum that the flow from the changed risk ends at; ``target`` is not used.

        The status is ``indefinite`` where the limit of steps ended at a saddle.
        """
        descent = Descent(start, self.gradient_tol, self.max_steps, self.solver)
        status = descent.run()
        ended = finish(start, descent.end, descent.passes, status)
        return replace(ended, smallest=descent.smallest)
