"""One point that is left out."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class LeftOut:
    """The outputs of a point at the solution without it.

    Attributes:
        outputs: Outputs of the point there, ``(c,)``.
        leverage: Largest share of the curvature in any direction that the point alone holds.
        is_answered: Whether the rest of the data decides the weights where the point did.
        is_solved: Whether the linear system was solved.
        note: Sentences on what speaks against the step; empty where nothing does.
    """

    outputs: Tensor
    leverage: float
    is_answered: bool
    is_solved: bool = True
    note: str = ""
