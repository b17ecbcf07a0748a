"""A Gram matrix on the disk against one in memory: seconds, peak memory of a process, and the difference.

Every case runs in a process of its own, in which the C library's allocator returns large blocks at once:
left to itself it keeps some of what was given back, and the peak is then of that too. Rows are drawn when
they are asked for, so that none is in memory but where the solver keeps it.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.tables import number, table
from benchmarks.timing import seconds_of
from solset.linalg import LinearOperator
from solset.outofcore import DiskDual
from solset.solvers.filters import GradientFlow

SIZES, COLUMNS = (1_000, 2_000, 4_000), 100_000
ENVIRONMENT = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000"}
BUDGETS = {"disk": 100 * 10**6, "memory": 10**11}


class Drawn(LinearOperator):
    """Random rows in float32, whose lengths fall over three decades."""

    def __init__(self, count: int) -> None:
        super().__init__((count, COLUMNS), torch.float32, torch.device("cpu"))

    def rows(self, start: int, stop: int) -> Tensor:
        """Each from its own index."""
        return torch.stack([self._row(index) for index in range(start, stop)])

    def _row(self, index: int) -> Tensor:
        length = 10.0 ** (-3 * index / self.shape[0])
        return length * torch.randn(COLUMNS, generator=torch.Generator().manual_seed(index))

    def _apply(self, block: Tensor) -> Tensor:
        raise NotImplementedError

    def _apply_transposed(self, block: Tensor) -> Tensor:
        raise NotImplementedError


def measure(count: int, place: str, file: Path) -> dict[str, float]:
    """Seconds to prepare, to solve and to train for 3000 steps, and the peak memory in megabytes."""
    rows, seconds = Drawn(count), {}
    with tempfile.TemporaryDirectory() as folder:
        dual = DiskDual(memory_budget=BUDGETS[place], folder=Path(folder), is_equilibrated=True)
        plan, before = dual.plan(rows), peak()
        prepared = []
        seconds["prepare"] = seconds_of(lambda: prepared.append(dual.prepare(rows)))
        seconds["rank"] = seconds_of(lambda: prepared[0].rank)
        rhs, solved = torch.randn(count, generator=torch.Generator().manual_seed(count)), []
        seconds["solve"] = seconds_of(lambda: solved.append(prepared[0].solve(rhs)))
        flow = GradientFlow(steps=3000, learning_rate=1 / (4 * COLUMNS))
        seconds["trained"] = seconds_of(lambda: solved.append(prepared[0].filtered(flow, rhs)))
    torch.save([solution.value for solution in solved], file)
    return {**seconds, "before": before, "peak": peak(), "planned": plan.memory / 1e6, "side": plan.side}


def peak() -> float:
    """Of this process so far, in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def run() -> dict[str, object]:
    """Prints the table and returns its numbers."""
    results, lines = {}, []
    with tempfile.TemporaryDirectory() as folder:
        for count in SIZES:
            answers = {}
            for place in BUDGETS:
                file = Path(folder) / f"{place}.pt"
                command = [sys.executable, "-m", "benchmarks.tiles", str(count), place, str(file)]
                command.append(str(torch.get_num_threads()))
                done = subprocess.run(command, capture_output=True, text=True, check=True, env=ENVIRONMENT)
                result = json.loads(done.stdout.splitlines()[-1])
                results[f"{count} {place}"] = result
                answers[place] = torch.load(file, weights_only=True)
                lines.append([f"{count:,} rows, {place}", *[number(value, 3) for value in result.values()]])
            pairs = zip(answers["disk"], answers["memory"], strict=True)
            apart = [float((one - two).norm() / two.norm()) for one, two in pairs]
            print(
                f"{count:,} rows: relative difference of the solutions {apart[0]:.1e}, trained {apart[1]:.1e}"
            )
            results[f"{count} difference"] = apart
    heads = [
        "",
        "prepare, s",
        "rank, s",
        "solve, s",
        "3000 steps, s",
        "peak before, MB",
        "peak, MB",
        "planned, MB",
        "side",
    ]
    print("\n" + table(heads, lines) + "\n")
    return results


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[4]))
    print(json.dumps(measure(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))))
