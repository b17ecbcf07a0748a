"""What a path is followed by: its options, and what goes from one station to the next."""

from dataclasses import dataclass, fields

from solset.checks import checked, positive, within
from solset.courses import StopReason

BETWEEN = (0.15, 0.382, 0.7)  # shares of a step at which it is looked at; no common period


@checked
@dataclass(frozen=True)
class PathOptions:
    """How a path is followed: lengths of steps, limits of the inner iterations, and when to give up.

    The defaults serve networks from two to a million weights. A limit that is reached shortens the step or
    ends the path with a reason; it never changes what counts as a solution, which ``max_error`` of
    :func:`follow_path` decides.

    Attributes:
        first_step: Longest first step ``Δτ`` on a set of kept outputs, as a share of the path; smaller
            on a strongly bent path, to save attempts that are refused.
        min_step: Shortest step ``Δτ`` before a path is given up, as a share of the path; smaller to come
            closer to a fold, larger to give up sooner.
        max_growth: Largest factor between a step and the one before it; smaller where many steps are
            refused.
        max_fit: Largest mean norm of the loss's gradient in the outputs at which the training set still
            counts as fitted, in loss units per output unit; larger to follow a set that is fitted loosely.
        fold_factor: Factor by which a singular value or eigenvalue has to fall, and a slope to grow, from
            the start of the path, before its end is called a fold.
        branch_factor: Factor between a step at an isolated solution and its prediction beyond which Newton's
            method is taken to have jumped to another branch.
        max_corrections: Limit of the corrections onto the set of kept outputs in one step, each a forward
            pass.
        max_newton_steps: Limit of Newton steps at an isolated solution in one step.
        newton_residual: Relative residual to which a Newton system is solved; smaller where Newton's method
            needs many steps, at the price of more Hessian products in each.
        max_iterations: Limit of the iterations of conjugate gradients for one linear system.
        kink_error: Error of a slope between two kinks, as a share of ``max_error``; smaller where many
            activations are held and the path is refused at kinks.
        max_kinks: Largest number of activations that may switch in one step and still be crossed one by one;
            beyond it they are taken for a smooth bend.
        max_activations: Largest number of activations (points times units) that are watched for kinks, one
            number of memory each.
        max_pairs: Limit of the Hessian products that are kept to precondition later Newton systems, two
            vectors of ``p`` numbers each; fewer where memory is short.

    Raises:
        ValueError: If a number is not positive, or a share exceeds one.

    Example:
        >>> PathOptions(min_step=1e-6).max_growth
        3.0
    """

    first_step: float = 0.2
    min_step: float = 1e-4
    max_growth: float = 3.0
    max_fit: float = 1e-2
    fold_factor: float = 5.0
    branch_factor: float = 5.0
    max_corrections: int = 40
    max_newton_steps: int = 12
    newton_residual: float = 0.1
    max_iterations: int = 300
    kink_error: float = 0.1
    max_kinks: int = 1000
    max_activations: int = 10_000_000
    max_pairs: int = 400

    def __post_init__(self) -> None:
        for field in fields(self):
            positive(field.name, getattr(self, field.name))
        for name in ("first_step", "min_step", "newton_residual", "kink_error"):
            within(name, getattr(self, name), 0.0, 1.0, cure="It is a share.")
        for name in ("max_growth", "fold_factor", "branch_factor"):
            within(name, getattr(self, name), 1.0, cure="It is a factor of growth.")


@dataclass(frozen=True)
class Refusal:
    """Why a step was not taken."""

    reason: StopReason  # Reason that the path ends with if no shorter step succeeds
    scale: float  # Factor by which the step is shortened
    detail: str  # Explanation in a few words
