"""A finite change of the data: losses that leave the risk, losses that come, and the divisor of a mean."""

from dataclasses import dataclass

from solset.risk import EmpiricalRisk


@dataclass(frozen=True, eq=False)
class Exchange:
    """The risk after a change, as ``factor · (E + Σ sign · E_part)``, beside weight decay and penalty.

    Attributes:
        factor: ``α`` after the change relative to ``α`` before: ``n/(n - |K|)`` where points leave a mean.
        parts: Losses that leave (sign -1) or come (sign 1), each as a risk with the ``α`` before the change
            and without weight decay or penalty.
        points: Indices of the points that leave, in the order of the first part; none if none leave.
    """

    factor: float
    parts: tuple[tuple[float, EmpiricalRisk], ...]
    points: tuple[int, ...] = ()
