"""The premises of a linearisation: every certificate asks them, and each of them can veto it."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from solset.results import Result, computed


class Verdict(StrEnum):
    """The outcome of the check of a premise."""

    HELD = "held"
    FAILED = "failed"
    UNCHECKED = "not checked"


PremiseName = Literal["loss", "derivative", "kinks", "minimum", "scale"]


@dataclass(frozen=True)
class Premise:
    """One premise of a certificate and what its check found.

    Attributes:
        name: Name of the premise: ``"loss"`` (a sum over points of the outputs alone), ``"derivative"``
            (products agree with differences of the gradient), ``"kinks"`` (the map is differentiable here),
            ``"minimum"`` (the weights are a solution) or ``"scale"`` (numbers that count as zero are small
            against what they are compared with).
        verdict: Outcome of the check.
        reason: Phrase that says what was found, with a number; empty where the premise holds.
    """

    name: PremiseName
    verdict: Verdict
    reason: str = ""


@dataclass(frozen=True, repr=False)
class Premises(Result):
    """The premises of one linearisation. A certificate says "exact" or "verified" only if all of them hold.

    Attributes:
        each: Premises with their verdicts, in the order in which they were checked.

    Example:
        >>> held = Premise("loss", Verdict.HELD)
        >>> Premises((held, Premise("kinks", Verdict.FAILED, "2 points lie on a kink")))
        Premises(loss held, kinks failed: 2 points lie on a kink)
    """

    each: tuple[Premise, ...] = ()

    @property
    def failures(self) -> tuple[str, ...]:
        """The reasons of the premises that failed."""
        return tuple(premise.reason for premise in self.each if premise.verdict is Verdict.FAILED)

    @property
    def veto(self) -> str:
        """The reasons why no certificate may be given; empty where every premise holds."""
        doubts = [premise for premise in self.each if premise.verdict is not Verdict.HELD]
        return "; ".join(one.reason or f"the premise '{one.name}' was {one.verdict}" for one in doubts)

    @property
    def headline(self) -> str:
        """Every premise with its verdict, and the reason of one that does not hold."""
        texts = [f"{one.name} {one.verdict}" + (f": {one.reason}" if one.reason else "") for one in self.each]
        return ", ".join(texts) or "none"

    @computed
    def message(self) -> str:
        """The veto."""
        return self.veto
