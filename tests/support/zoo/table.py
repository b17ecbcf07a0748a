"""Many combinations, and a table of how they ended."""

from collections import Counter
from collections.abc import Callable, Iterable

from .combinations import Combination
from .judgement import Outcome, Verdict, judge


def run_many(
    combinations: Iterable[Combination], report: Callable[[Verdict], None] | None = None
) -> list[Verdict]:
    """The verdict on each of the combinations.

    Args:
        combinations: Combinations to try.
        report: Function that is called with each verdict as it comes.
    """
    verdicts = []
    for combination in combinations:
        verdict = judge(combination)
        verdicts.append(verdict)
        if report is not None:
            report(verdict)
    return verdicts


def print_table(verdicts: list[Verdict]) -> None:
    """Prints outcomes by training and dtype, then silent numbers and crashes, then needless refusals."""
    columns: dict[str, Counter[Outcome]] = {}
    for verdict in verdicts:
        c = verdict.combination
        columns.setdefault(f"{c.training} {str(c.dtype)[6:]}", Counter())[verdict.outcome] += 1
    names = sorted(columns)
    print("".join(f"{text:>20}" for text in ("", *names, "all")))
    for outcome in Outcome:
        counts = [columns[name][outcome] for name in names]
        print("".join(f"{text!s:>20}" for text in (outcome, *counts, sum(counts))))
    for outcome in (Outcome.SILENT, Outcome.CRASH):
        for verdict in verdicts:
            if verdict.outcome is outcome:
                print(verdict)
    needless = [v for v in verdicts if v.is_needless]
    for outcome in (Outcome.REFUSED, Outcome.FLAGGED):
        chosen = [v for v in needless if v.outcome is outcome]
        print(f"{len(chosen)} of {len(verdicts)} {outcome} though smooth and well posed")
        for verdict in chosen:
            print(f"  {verdict}")
