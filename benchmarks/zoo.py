"""Thousands of drawn combinations of layer, loss, dtype, training and weights, each beside an oracle."""

from collections import Counter
from time import perf_counter

from tests.support.zoo import Outcome, Verdict, draw, print_table, run_many


def run(count: int, seed: int) -> dict[str, object]:
    """Prints the table of outcomes; silently wrong numbers and raw crashes are listed, and are failures."""
    began = perf_counter()

    def tell(verdict: Verdict) -> None:
        if verdict.outcome in {Outcome.SILENT, Outcome.CRASH}:
            print(f"{verdict}"[:400], flush=True)

    verdicts = run_many(draw(count, seed), tell)
    seconds = perf_counter() - began
    print(f"\n{count} combinations of seed {seed} in {seconds:.0f} s")
    print_table(verdicts)
    return {
        "seed": seed,
        "seconds": seconds,
        "needless": Counter(v.outcome for v in verdicts if v.is_needless),
        **Counter(v.outcome for v in verdicts),
    }
