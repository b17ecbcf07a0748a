"""Ways by which the derivatives of a model come out right, as far as they were tried."""

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Routes:
    """Routes of derivatives; all copies of a risk share one, like its room.

    Attributes:
        is_right: Whether a fast route gave the numbers of the slow one, by the route and what it was tried
            on; a route that is missing was never tried.
        second: Way of second derivatives: ``"autograd"``, or ``"differences"`` of the gradient where autograd
            has none or a wrong one.
        loss: Way of the second derivatives of the loss in the outputs, likewise.
        reason: Clause that says why differences are taken.
        is_told: Whether a warning said so.
        shapes: Shape of one point's outputs behind the model and the door that gave it, by the identities of
            both and the shape of an input.
    """

    is_right: dict[Hashable, bool] = field(default_factory=dict)
    second: str = "autograd"
    loss: str = "autograd"
    reason: str = ""
    is_told: bool = False
    shapes: dict[Hashable, tuple[Any, Any, tuple[int, ...]]] = field(default_factory=dict)
