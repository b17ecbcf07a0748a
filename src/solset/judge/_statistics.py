"""How well predicted changes agree with real ones: rank correlations, and how sure they are."""

from itertools import combinations, islice

import numpy as np
from scipy.stats import rankdata
from torch import Tensor

MOST_SPLITS = 100  # ways to halve the seeds that are averaged


def agreement(predicted: Tensor, real: Tensor) -> float:
    """The linear datamodeling score: Spearman's correlation over changes, on average over goals.

    Goals whose predicted or real changes are all equal have no correlation and are left out. The score is not
    a number if none is left (Park et al. 2023, TRAK, definition 2.3, for removals of random subsets).

    Args:
        predicted: Predicted changes of each goal, ``(changes, k)``.
        real: Real changes in the same shape.

    Example:
        >>> import torch
        >>> real = torch.tensor([[1.0], [2.0], [4.0]])
        >>> agreement(real**3, real), agreement(-real, real)
        (1.0, -1.0)
    """
    return float(_mean_correlation(_ranks(predicted)[None], _ranks(real)[None])[0])


def agreement_of_halves(changes: Tensor) -> float:
    """The agreement of the mean over half of the seeds with that over the others: a ceiling of any score.

    Args:
        changes: Real changes from each seed, ``(seeds, changes, k)``.

    Returns:
        The mean over the ways to halve the seeds, at most 100 of them; not a number for one seed. A seed that
        is left over goes to the second half. A predictor may be better than it, since it has no noise.
    """
    count = len(changes)
    if count < 2:
        return float("nan")
    halves = islice(combinations(range(count), count // 2), MOST_SPLITS)
    scores = []
    for half in halves:
        others = [seed for seed in range(count) if seed not in half]
        scores.append(agreement(changes[list(half)].mean(0), changes[others].mean(0)))
    return float(np.mean(scores))


def interval(
    predicted: Tensor,
    real: Tensor,
    other: Tensor | None = None,
    *,
    samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """The bootstrap interval of :func:`agreement`, over changes that are drawn anew with repetition.

    Args:
        predicted: Predicted changes of each goal, ``(changes, k)``.
        real: Real changes in the same shape.
        other: Predictions whose agreement is subtracted in every draw; none by default.
        samples: Number of draws of as many changes.
        level: Share of the draws that lie inside the interval.
        seed: Seed of the draws.
    """
    count, generator = len(real), np.random.default_rng(seed)
    places = generator.integers(0, count, (samples, count))
    truth, *parts = [
        rankdata(np.asarray(part.double().cpu())[places], axis=1)
        for part in (real, predicted, other)
        if part is not None
    ]
    first, *second = [_mean_correlation(part, truth) for part in parts]
    scores = first - second[0] if second else first
    scores = scores[np.isfinite(scores)]
    if not len(scores):
        return float("nan"), float("nan")
    low, high = np.quantile(scores, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _ranks(values: Tensor) -> np.ndarray:
    return rankdata(np.asarray(values.double().cpu()), axis=0)


def _mean_correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Correlations over the second axis of ``(draws, changes, k)``, averaged over goals that have one."""
    a, b = (part - part.mean(axis=1, keepdims=True) for part in (first, second))
    lengths = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    defined = lengths > 0
    each = np.divide((a * b).sum(axis=1), lengths, out=np.zeros_like(lengths), where=defined)
    count = defined.sum(axis=1)
    return np.divide(each.sum(axis=1), count, out=np.full(len(each), np.nan), where=count > 0)
