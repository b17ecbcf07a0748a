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

    Each in turn, round after round, so that a busy machine slows all of them alike. Every timed call follows
    an untimed one: without it a job pays for the memory that the one before it gave back.

    Args:
        jobs: Functions to time, by their names.
        rounds: Number of timed calls of each job.
    """
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            job()
            times[name].append(seconds_of(job))
    return {name: statistics.median(seconds) for name, seconds in times.items()}
