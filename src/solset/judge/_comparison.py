"""What the judge says: how well each predictor agrees with real retraining, and what it costs."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import isfinite, isnan, nan
from typing import Any

from torch import Tensor

from solset.checks import one_of
from solset.judge._statistics import agreement, interval
from solset.judge._truth import Truth
from solset.results import TableResult, computed

FEW = 10  # changes below which a rank correlation says little


@dataclass(frozen=True)
class Score:
    """How one predictor did.

    Attributes:
        predictor: Name of the predictor.
        mean: Agreement with the mean over all seeds, as by :func:`agreement`, by which predictors are ranked.
        low: Lower end of the 95 % bootstrap interval of ``mean`` over the changes.
        high: Upper end of the same interval.
        same_seed: Agreement with retraining from the seed of the run alone.
        size: Length of the predicted changes relative to that of the real ones, in the mean over seeds.
        error: Relative error ``‖predicted - real‖ / ‖real‖`` of the predicted changes, against the same.
        trainings: CPU time that the predictor took, in trainings.
        note: Error that ended the predictor, or what speaks against its numbers; empty where nothing does.
    """

    predictor: str
    mean: float = nan
    low: float = nan
    high: float = nan
    same_seed: float = nan
    size: float = nan
    error: float = nan
    trainings: float = nan
    note: str = ""


@dataclass(frozen=True, eq=False, repr=False)
class Comparison(TableResult):
    """Predictors judged by real retraining, the best first.

    Attributes:
        scores: Score of each predictor, in the order of their agreement with the mean over seeds.
        ceiling: Agreement of one half of the seeds with the other; not a number for a single seed.
        truth: Real changes that judged them.
        predicted: Predicted changes by name, ``(changes, k)``, of the predictors that have a score.
    """

    scores: tuple[Score, ...]
    ceiling: float
    truth: Truth = field(repr=False)
    predicted: Mapping[str, Tensor] = field(repr=False)

    @property
    def headline(self) -> str:
        """The best predictor with its interval, beside the ceiling, and what judged it."""
        seeds, changes, goals = self.truth.changes.shape
        best = self.scores[0]
        shown = f"best: {best.predictor}, {best.mean:.2f} ({best.low:.2f} to {best.high:.2f})"
        if isnan(best.mean):
            shown = "no predictor has a score"
        ceiling = "" if isnan(self.ceiling) else f", half of the seeds against the others {self.ceiling:.2f}"
        counts = [(changes, "change"), (goals, "goal"), (seeds, "seed")]
        by = ", ".join(f"{count} {name}" if count == 1 else f"{count} {name}s" for count, name in counts)
        return f"{shown}{ceiling}; {by}"

    @computed
    def message(self) -> str:
        """What speaks against the scores; empty where nothing does."""
        notes, changes = [], self.truth.changes
        if bool((changes.mean(0) == changes.mean(0)[:1]).all()):
            notes.append("all real changes are equal: no correlation is defined")
        if changes.shape[1] < FEW:
            notes.append(
                f"{changes.shape[1]} changes say little about a rank correlation: take {FEW} or more"
            )
        if isnan(self.ceiling):
            notes.append("one seed: how much of the real changes is chance was not measured")
        elif isfinite(best := self.scores[0].low) and best <= 0:
            notes.append("no predictor is better than chance on these changes")
        failed = [one.predictor for one in self.scores if isnan(one.mean) and one.note]
        if failed:
            notes.append(f"without a score: {', '.join(failed)}")
        return "; ".join(notes)

    def lead(self, first: str, second: str) -> tuple[float, float, float]:
        """How much better one predictor is than another: the difference of their scores, with its interval.

        Both are judged in the same draws of changes, so that what is common to them falls out.

        Args:
            first: Name of a predictor that has a score.
            second: Name of another one.

        Returns:
            The difference of their agreements with the mean over seeds, and the ends of its 95 % interval.
        """
        for name in (first, second):
            one_of("predictor", name, self.predicted)
        a, b, real = self.predicted[first], self.predicted[second], self.truth.mean.cpu()
        return agreement(a, real) - agreement(b, real), *interval(a, real, b)

    def rows(self) -> list[dict[str, Any]]:
        """One row for each predictor, the best first, with the ceiling beside it."""
        return [{**asdict(one), "ceiling": self.ceiling} for one in self.scores]
