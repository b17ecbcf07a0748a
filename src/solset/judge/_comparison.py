"""What the judge says: how well each predictor agrees with real retraining, and what it costs."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import isfinite, isnan, nan
from typing import Any

from torch import Tensor

from solset.checks import one_of
from solset.judge._statistics import lead_interval, rank_agreement
from solset.judge._truth import Truth
from solset.results import TableResult, computed

FEW = 10  # changes below which a rank correlation says little


@dataclass(frozen=True)
class Score:
    """How one predictor did.

    Attributes:
        predictor: Name of the predictor.
        mean: Agreement with the mean over all seeds by :func:`rank_agreement`, which ranks predictors.
        low: Lower end of the 95 % interval of ``mean`` over endless changes, by :func:`bootstrap_interval`.
        high: Upper end of the same interval.
        same_seed: Agreement with retraining from the seed of the run alone.
        size: Length of the predicted changes relative to that of the real ones, in the mean over seeds.
        error: Relative error ``‖predicted - real‖ / ‖real‖`` of the predicted changes, against the same.
        trainings: CPU time that the predictor took, in trainings.
        note: Error that ended the predictor, or its own first warning; empty where there is neither.
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
        halves: Agreement of one half of the seeds with the other; not a number for a single seed.
        ceiling: Score that a prediction without noise would have, by :func:`noise_ceiling` of ``halves``:
            what chance in training leaves to be foretold.
        truth: Real changes that judged them.
        predicted: Predicted changes by name, ``(changes, k)``, of the predictors that have a score.
    """

    scores: tuple[Score, ...]
    halves: float
    ceiling: float
    truth: Truth = field(repr=False)
    predicted: Mapping[str, Tensor] = field(repr=False)

    @property
    def headline(self) -> str:
        """The best predictor with its interval, beside the ceiling, and what judged it."""
        best = self.scores[0]
        shown = f"best: {best.predictor}, {best.mean:.2f} ({best.low:.2f} to {best.high:.2f})"
        if isnan(best.mean):
            shown = "no predictor has a score"
        ceiling = "" if isnan(self.ceiling) else f", ceiling {self.ceiling:.2f}"
        return f"{shown}{ceiling}; {self.truth.headline}"

    @computed
    def message(self) -> str:
        """What speaks against the scores; empty where nothing does."""
        finite = self.truth.is_finite
        changes, notes = self.truth.changes[:, finite].mean(0), list(self.truth.failures[:3])
        if missing := [place for place, good in enumerate(finite.tolist()) if not good]:
            named = ", ".join(map(str, missing[:10]))
            notes.append(f"changes without a real change that is finite are left out: {named}")
        same = int((changes == changes[:1]).all(dim=0).sum()) if len(changes) else 0
        if same:
            notes.append(f"no correlation is defined for {same} goals: their real changes are equal")
        if len(changes) < FEW:
            notes.append(f"a rank correlation says little over so few changes: take {FEW} or more")
        if len(self.truth.seeds) == 1:
            notes.append("one seed: how much of the real changes is chance was not measured")
        judged = [one for one in self.scores if isfinite(one.low)]
        if judged and all(one.low <= 0 for one in judged):
            notes.append("no predictor is better than chance on these changes")
        failed = [one.predictor for one in self.scores if isnan(one.mean) and one.note]
        if failed:
            notes.append(f"without a score: {', '.join(failed)}")
        if doubted := [one.predictor for one in self.scores if one.note and not isnan(one.mean)]:
            notes.append(f"warned themselves: {', '.join(doubted)}")
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
        finite = self.truth.is_finite.cpu()
        a, b, real = (
            each.cpu()[finite] for each in (self.predicted[first], self.predicted[second], self.truth.mean)
        )
        return rank_agreement(a, real) - rank_agreement(b, real), *lead_interval(a, b, real)

    def rows(self) -> list[dict[str, Any]]:
        """One row for each predictor, the best first, with the ceiling beside it."""
        return [{**asdict(one), "ceiling": self.ceiling} for one in self.scores]
