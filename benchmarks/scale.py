"""Data sets that grow: time of a product against the number of points, and the peak memory of a process.

Every size runs in a process of its own, whose peak resident memory is then that of this size alone. The
images are computed when they are asked for, as a data set on the disk is read.
"""

import json
import math
import resource
import subprocess
import sys

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from benchmarks.tables import number, table
from benchmarks.timing import seconds_of
from solset import Problem
from solset.operators import GaussNewton, Hessian, Jacobian, Mixed
from solset.solvers import MINRES

SIZES = (1_000, 10_000, 100_000)
MOVED = list(range(10))
BUDGET = 0  # bytes for what is kept between products: nothing


class Waves(Dataset):
    """Images of 8 by 8, each from its index."""

    def __init__(self, count: int) -> None:
        self.count, self.phases = count, torch.linspace(0.1, 7.0, 64).reshape(1, 8, 8)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.sin(self.phases * (1 + index % 997) + index / 1000), index % 10


def measure(count: int) -> dict[str, float]:
    """Seconds of each product over so many points, and the peak memory in megabytes."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 8, 3),
            nn.Tanh(),
            nn.Conv2d(8, 8, 3, stride=2),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(32, 10),
        ).eval()
    problem = Problem(
        model,
        nn.CrossEntropyLoss(),
        Waves(count),
        weight_decay=1.0,
        batch_size=250,
        gradient_tol=math.inf,
        memory_budget=BUDGET,
    )
    risk = problem.risk()
    v = torch.randn(risk.layout.size, generator=torch.Generator().manual_seed(1))
    jacobian = Jacobian(risk, memory_budget=BUDGET)
    pushed = jacobian @ v
    derivative = problem.derivative(points=MOVED, optimality="stationary", solver=MINRES(max_steps=3))
    dx = 0.01 * torch.ones(len(MOVED), 1, 8, 8)
    jobs = {
        "gradient": risk.gradient,
        "outputs": risk.outputs,
        "H v": lambda: Hessian(risk, memory_budget=BUDGET) @ v,
        "Gauss-Newton v": lambda: GaussNewton(risk, memory_budget=BUDGET) @ v,
        "J v": lambda: jacobian @ v,
        "transposed J u": lambda: jacobian.T @ pushed,
        "transposed B v, ten points": lambda: Mixed(risk, MOVED, memory_budget=BUDGET).T @ v,
        "derivative, three steps of MINRES": lambda: derivative(dx).min_norm(),
    }
    seconds = {name: min(seconds_of(job) for _ in range(3)) for name, job in jobs.items()}
    return {**seconds, "peak MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000}


def slope(sizes: list[int], seconds: list[float]) -> float:
    """Of the least-squares line through the logarithms."""
    x, y = torch.tensor(sizes).double().log(), torch.tensor(seconds).double().log()
    return float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())


def run() -> dict[str, object]:
    """Prints the table and returns its numbers."""
    results = {}
    for count in SIZES:
        command = [sys.executable, "-m", "benchmarks.scale", str(count), str(torch.get_num_threads())]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        results[count] = json.loads(done.stdout.splitlines()[-1])
        print(f"{count} points: peak {results[count]['peak MB']:.0f} MB")
    lines = []
    for name in results[SIZES[0]]:
        values = [results[count][name] for count in SIZES]
        growth = max(values) / min(values) if name == "peak MB" else slope(list(SIZES), values)
        lines.append([name, *[number(value, 4) for value in values], f"{growth:.3f}"])
    heads = ["seconds at so many points", *[f"{count:,}" for count in SIZES], "log-log slope; MB: max/min"]
    print("\n" + table(heads, lines) + "\n")
    return {"sizes": list(SIZES), "results": results, "lines": lines}


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[2]))
    print(json.dumps(measure(int(sys.argv[1]))))
