"""One point that is left out."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class LeftOut:
    """The outputs of a point at the solution without it."""

    outputs: Tensor  # Outputs of the point there, ``(c,)``
    leverage: float  # Largest share of the curvature in any direction that the point alone holds
    is_answered: bool  # Whether the rest of the data decides the weights where the point did
    is_solved: bool = True  # Whether the linear system was solved
    note: str = ""  # Sentences on what speaks against the step; empty where nothing does
