"""How well predicted changes agree with real ones: rank correlations, and how sure they are."""

from itertools import combinations, islice

import numpy as np
import scipy  # its rooms load where they are first used
from torch import Tensor

MOST_SPLITS = 100  # ways to halve the seeds that are averaged
ALMOST_ONE = 1 - 1e-6  # score up to which its artanh is taken
ENTRIES = 4_000_000  # numbers that the draws of one bootstrap take at once


def rank_agreement(predicted: Tensor, real: Tensor) -> float:
    """The linear datamodeling score: Spearman's correlation over changes, on average over goals.

    Goals whose predicted or real changes are all equal have no correlation and are left out. The score is not
    a number if none is left (Park et al. 2023, TRAK, definition 2.3, for removals of random subsets).

    Args:
        predicted: Predicted changes of each goal, ``(changes, k)``.
        real: Real changes in the same shape.

    Example:
        >>> import torch
        >>> real = torch.tensor([[1.0], [2.0], [4.0]])
        >>> rank_agreement(real**3, real), rank_agreement(-real, real)
        (1.0, -1.0)
    """
    return float(_mean_correlation(_ranks(predicted)[None], _ranks(real)[None])[0])


def agreement_of_halves(changes: Tensor) -> float:
    """The agreement of the mean over half of the seeds with that over the others.

    Args:
        changes: Real changes from each seed, ``(seeds, changes, k)``.

    Returns:
        The mean over the ways to halve the seeds, or over 100 of them that are drawn; not a number for one
        seed. A seed that is left over goes to the second half.
    """
    count = len(changes)
    if count < 2:
        return float("nan")
    halves = [set(half) for half in islice(combinations(range(count), count // 2), MOST_SPLITS + 1)]
    if len(halves) > MOST_SPLITS:  # the first of them have the first seeds in common
        generator = np.random.default_rng(0)
        halves = [set(generator.permutation(count)[: count // 2].tolist()) for _ in range(MOST_SPLITS)]
    scores = []
    for half in halves:
        others = [seed for seed in range(count) if seed not in half]
        scores.append(rank_agreement(changes[sorted(half)].mean(0), changes[others].mean(0)))
    return float(np.mean(scores))


def noise_ceiling(halves: float) -> float:
    """The score that a prediction of the mean over endless seeds would have against the mean over these.

    By the formula of Spearman and Brown the mean over all seeds agrees with that over as many others by
    ``R = 2r / (1 + r)``, and with what it is a noisy copy of by ``√R``.

    Args:
        halves: Agreement ``r`` of the mean over half of the seeds with that over the others.

    Returns:
        The square root of ``R``; not a number where halves do not agree.
    """
    return (2 * halves / (1 + halves)) ** 0.5 if halves > 0 else float("nan")


def bootstrap_interval(
    predicted: Tensor, real: Tensor, *, samples: int = 1000, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """The bootstrap interval of :func:`rank_agreement`, over changes that are drawn with repetition.

    Draws with repetition have ties, which lower a score. So the interval is reflected: how far draws lie
    from the score of all changes is how far that lies from the score over endless changes, in Fisher's
    ``artanh`` of them (the basic bootstrap, Davison & Hinkley 1997, section 5.2).

    Args:
        predicted: Predicted changes of each goal, ``(changes, k)``.
        real: Real changes in the same shape.
        samples: Number of draws of as many changes.
        level: Share of the draws that lie inside the interval.
        seed: Seed of the draws.

    Cost: ``samples`` times the ranks of all numbers.
    """
    low, high = _quantiles(_fisher(_drawn_scores(predicted, real, samples, seed)), level)
    score = float(_fisher(np.array([rank_agreement(predicted, real)]))[0])
    return float(np.tanh(2 * score - high)), float(np.tanh(2 * score - low))


def lead_interval(
    first: Tensor, second: Tensor, real: Tensor, *, samples: int = 1000, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """The percentile bootstrap interval of a difference of two scores, both of the same draws of changes.

    Args:
        first: Predicted changes by one predictor, ``(changes, k)``.
        second: Predicted changes by the other.
        real: Real changes in the same shape.
        samples: Number of draws of as many changes.
        level: Share of the draws that lie inside the interval.
        seed: Seed of the draws.
    """
    scores = [_drawn_scores(each, real, samples, seed) for each in (first, second)]
    return _quantiles(scores[0] - scores[1], level)


def _drawn_scores(predicted: Tensor, real: Tensor, samples: int, seed: int) -> np.ndarray:
    """The score of each draw of changes."""
    generator = np.random.default_rng(seed)
    places = generator.integers(0, len(real), (samples, len(real)))
    parts = [np.asarray(part.double().cpu()) for part in (predicted, real)]
    together = max(1, ENTRIES // max(1, real.numel()))
    return np.concatenate(
        [
            _mean_correlation(
                *(scipy.stats.rankdata(part[places[first : first + together]], axis=1) for part in parts)
            )
            for first in range(0, samples, together)
        ]
    )


def _fisher(scores: np.ndarray) -> np.ndarray:
    return np.arctanh(np.clip(scores, -ALMOST_ONE, ALMOST_ONE))


def _quantiles(scores: np.ndarray, level: float) -> tuple[float, float]:
    scores = scores[np.isfinite(scores)]
    if not len(scores):
        return float("nan"), float("nan")
    low, high = np.quantile(scores, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _ranks(values: Tensor) -> np.ndarray:
    return scipy.stats.rankdata(np.asarray(values.double().cpu()), axis=0)


def _mean_correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Correlations over the second axis of ``(draws, changes, k)``, averaged over goals that have one."""
    a, b = (part - part.mean(axis=1, keepdims=True) for part in (first, second))
    lengths = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    defined = lengths > 0
    each = np.divide((a * b).sum(axis=1), lengths, out=np.zeros_like(lengths), where=defined)
    count = defined.sum(axis=1)
    return np.divide(each.sum(axis=1), count, out=np.full(len(each), np.nan), where=count > 0)
