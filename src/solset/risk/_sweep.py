"""What one pass over all points gives."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False, repr=False)
class Sweep:
    """The results of one pass over all points.

    Attributes:
        value: Empirical risk ``E(x, w)``, with weight decay.
        gradient: Gradient ``∇_w E`` with weight decay, ``(p,)``.
        outputs: Network outputs of all points, ``(n, *out)``.
        targets: Targets of all points, ``(n, ...)``.
        seconds: Time that the pass took: that of one gradient.
    """

    value: float
    gradient: Tensor
    outputs: Tensor
    targets: Tensor
    seconds: float = 0.0
