"""Wall times that can be compared: taken in turns in one process, medians only."""

import statistics
import time
from collections.abc import Callable, Mapping


def seconds_of(job: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


def medians(jobs: Mapping[str, Callable[[], object]], *, rounds: int) -> dict[str, float]:
    """Median seconds of each job.

    One call of each in turn, round after round, so that a busy machine slows all of them alike; a first
    round, in which graphs are built, is not counted.

    Args:
        jobs: What to time.
        rounds: Counted rounds.
    """
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds + 1):
        for name, job in jobs.items():
            times[name].append(seconds_of(job))
    return {name: statistics.median(found[1:]) for name, found in times.items()}
