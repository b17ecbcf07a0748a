"""Adams formulas on unequal steps: a predictor, a corrector of one order more, and their difference.

A factorisation is computed once a step, at the predicted point. The slope that it gives serves the corrector
of this step and the predictor of the next, and the difference of the two measures what no residual can see:
the error along the set.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Correction:
    """The change of the weights over a step.

    Attributes:
        change: ``(p,)``.
        difference: Between corrector and predictor, in weight units.
        order: ``k`` such that it shrinks as ``Δτᵏ``.
    """

    change: Tensor
    difference: float
    order: int


@dataclass(frozen=True)
class Slopes:
    """Slopes ``dw/dτ`` at the present station and at the one before.

    Attributes:
        now: ``(p,)``.
        before: ``(p,)``; ``None`` at the first step.
        gap: ``Δτ`` between the two.
    """

    now: Tensor
    before: Tensor | None = None
    gap: float = 0.0

    def predict(self, step: float) -> Tensor:
        """The change over a step by the two-step Adams–Bashforth formula, Euler's at the first step.

        Args:
            step: ``Δτ``.
        """
        if self.before is None:
            return step * self.now
        ratio = 0.5 * step / self.gap
        return step * ((1 + ratio) * self.now - ratio * self.before)

    def correct(self, step: float, ahead: Tensor) -> "Correction":
        """The change over a step, and how far to trust it.

        The two-step Adams–Moulton formula, judged by the predictor; or the trapezoidal rule, judged by
        Euler's, at the first step and wherever that difference is the smaller one: behind a kink the slope
        before it tells nothing.

        Args:
            step: ``Δτ``.
            ahead: The slope at the predicted point, ``(p,)``.
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

    def advance(self, step: float, ahead: Tensor) -> "Slopes":
        """The slopes after a step.

        Args:
            step: ``Δτ`` taken.
            ahead: The slope at its end.
        """
        return Slopes(ahead, self.now, step)
