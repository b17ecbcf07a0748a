"""Adams formulas on unequal steps: a predictor, a corrector of one order more, and their difference.

Each step computes one factorisation, at the predicted point. The slope that it gives serves the corrector of
this step and the predictor of the next. The difference between corrector and predictor measures the error
along the set, which no residual shows.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Correction:
    """The change of the weights over a step.

    Attributes:
        change: Change of the weights, ``(p,)``.
        difference: Distance between corrector and predictor, in weight units.
        order: Exponent ``k`` such that the difference shrinks as ``Δτᵏ``.
    """

    change: Tensor
    difference: float
    order: int


@dataclass(frozen=True)
class Slopes:
    """Slopes ``dw/dτ`` at the present station and at the one before.

    Attributes:
        now: Slope at the present station, ``(p,)``.
        before: Slope at the station before, ``(p,)``; ``None`` at the first step.
        gap: Distance ``Δτ`` between the two stations.
    """

    now: Tensor
    before: Tensor | None = None
    gap: float = 0.0

    def predict(self, step: float) -> Tensor:
        """The change over a step by the two-step Adams–Bashforth formula, or Euler's at the first step."""
        if self.before is None:
            return step * self.now
        ratio = 0.5 * step / self.gap
        return step * ((1 + ratio) * self.now - ratio * self.before)

    def correct(self, step: float, ahead: Tensor) -> Correction:
        """The change over a step, and how far to trust it, given the slope ``ahead`` at the predicted point.

        The result is that of the two-step Adams–Moulton formula, judged by the predictor; or that of the
        trapezoidal rule, judged by Euler's formula, at the first step and wherever that difference is
        smaller: after a kink the slope before it says nothing.
        """
        trapezoid = 0.5 * step * (self.now + ahead)
        low = float((trapezoid - step * self.now).norm())
        if self.before is None:
            return Correction(trapezoid, low, 2)
        # The parabola through all three slopes, integrated over the step.
        bend = (ahead - self.now) / step - (self.now - self.before) / self.gap
        parabola = trapezoid - step**3 / (6 * (step + self.gap)) * bend
        high = float((parabola - self.predict(step)).norm())
        return Correction(parabola, high, 3) if high < low else Correction(trapezoid, low, 2)

    def between(self, share: float, step: float, change: Tensor, ahead: Tensor) -> Tensor:
        """The change after a share of a step, by the cubic that has the slopes at both of its ends.

        Args:
            share: Part of the step, between 0 and 1.
            step: Length ``Δτ`` of the step.
            change: Change of the weights over the whole step, ``(p,)``.
            ahead: Slope at the end of the step, ``(p,)``.
        """
        rest = 1.0 - share
        bent = share * rest * (rest * (step * self.now - change) - share * (step * ahead - change))
        return share * change + bent

    def advance(self, step: float, ahead: Tensor) -> "Slopes":
        """The slopes after a step of length ``step`` that ends at the slope ``ahead``."""
        return Slopes(ahead, self.now, step)
