"""What a path is followed by: its options, and what goes from one station to the next."""

from dataclasses import dataclass, fields

from solset.checks import checked, positive, within
from solset.courses import StopReason

FOLD = 5.0  # factor by which a singular value or eigenvalue falls, and a slope grows, towards a fold
BRANCH = 5.0  # factor between a step and its prediction beyond which Newton's method jumped to another branch
CORRECTIONS = 40  # most corrections onto the set of kept outputs in one step, each a forward pass
NEWTON_RESIDUAL = 0.1  # relative residual to which a Newton system is solved: more steps, fewer products
KINK_ERROR = 0.1  # error of a slope between two kinks, as a share of ``max_error``
PAIRS = 400  # most Hessian products that are kept to precondition later Newton systems, two vectors each
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
        max_newton_steps: Limit of Newton steps at an isolated solution in one step.
        max_iterations: Limit of the iterations of conjugate gradients for one linear system.
        max_kinks: Largest number of activations that may switch in one step and still be crossed one by one;
            beyond it they are taken for a smooth bend.
        max_activations: Largest number of activations (points times units) that are watched for kinks, one
            number of memory each.

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
    max_newton_steps: int = 12
    max_iterations: int = 300
    max_kinks: int = 1000
    max_activations: int = 10_000_000

    def __post_init__(self) -> None:
        for field in fields(self):
            positive(field.name, getattr(self, field.name))
        for name in ("first_step", "min_step"):
            within(name, getattr(self, name), 0.0, 1.0, cure="It is a share.")
        within("max_growth", self.max_growth, 1.0, cure="It is a factor of growth.")


@dataclass(frozen=True)
class Refusal:
    """Why a step was not taken."""

    reason: StopReason  # Reason that the path ends with if no shorter step succeeds
    scale: float  # Factor by which the step is shortened
    detail: str  # Explanation in a few words
