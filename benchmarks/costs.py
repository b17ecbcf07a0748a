"""What a product costs, as a multiple of one full-batch gradient of the same network on the same data."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.tables import number, table
from benchmarks.timing import medians
from solset import Problem
from solset.linalg import LinearOperator
from solset.operators import GaussNewton, Hessian, Jacobian, Mixed
from solset.paper import digits, resnet20, resnet56
from solset.risk import EmpiricalRisk
from solset.zoo import DFCNN

KEEP = 8 * 2**30
ROW_BYTES = 64 * 2**20
FEW = 10


@dataclass(frozen=True)
class Workload:
    """A network on data, how often to time it, and whether all rows of a point are asked for or one."""

    name: str
    risk: Callable[[], EmpiricalRisk]
    rounds: int
    is_whole: bool = False


def workloads(*, large: bool) -> list[Workload]:
    """The digits networks in float64 and ResNet20 in float32; ResNet56 too if asked."""
    cases = [
        Workload("digits, 64-128-64-10 ReLU, 100 points", lambda: connected(100), 40),
        Workload("digits, 64-128-64-10 ReLU, 1000 points", lambda: connected(1000), 20),
        Workload("digits, 64-32-10 tanh with biases, 1000 points", lambda: isolated(1000), 20),
        Workload("CIFAR ResNet20, 64 points of noise", lambda: residual(resnet20, 64), 5),
    ]
    if large:
        cases.append(Workload("CIFAR ResNet56, 64 points of noise", lambda: residual(resnet56, 64), 3))
    return cases


def connected(count: int) -> EmpiricalRisk:
    data = digits().part(0, count)
    model = DFCNN([64, 128, 64, 10], generator=seeded()).eval()
    return risk_of(model, nn.MSELoss(), data.inputs, data.one_hot())


def isolated(count: int) -> EmpiricalRisk:
    data = digits().part(0, count)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10)).double().eval()
    return risk_of(model, nn.CrossEntropyLoss(), data.inputs, data.labels)


def residual(build: Callable[..., nn.Module], count: int) -> EmpiricalRisk:
    generator = seeded()
    inputs = torch.randn(count, 3, 32, 32, generator=generator)
    targets = torch.randint(0, 10, (count,), generator=generator)
    return risk_of(build(generator=generator).eval(), nn.CrossEntropyLoss(), inputs, targets)


def risk_of(model: nn.Module, loss: nn.Module, inputs: Tensor, targets: Tensor) -> EmpiricalRisk:
    """The risk at random weights: costs do not depend on training."""
    return Problem(model, loss, inputs, targets, gradient_tol=float("inf")).risk()


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def operators(risk: EmpiricalRisk, memory_budget: int) -> dict[str, LinearOperator]:
    """The operators to multiply with, by the name of their product."""
    n = len(risk.points)
    everyone, few = range(n), range(0, n, max(1, n // FEW))[:FEW]
    jacobian = Jacobian(risk, memory_budget=memory_budget)
    mixed = Mixed(risk, everyone, memory_budget=memory_budget)
    mixed_few = Mixed(risk, few, memory_budget=memory_budget)
    return {
        "Hessian": Hessian(risk, memory_budget=memory_budget),
        "Gauss-Newton": GaussNewton(risk, memory_budget=memory_budget),
        "J v": jacobian,
        "J' u": jacobian.T,
        "B dx, all points": mixed,
        "B' v, all points": mixed.T,
        f"B dx, {FEW} points": mixed_few,
        f"B' v, {FEW} points": mixed_few.T,
    }


def products(risk: EmpiricalRisk, memory_budget: int) -> dict[str, Callable[[], Tensor]]:
    """One product with each operator and a fixed random vector."""

    def product(operator: LinearOperator) -> Callable[[], Tensor]:
        vector = torch.randn(operator.shape[1], generator=seeded(), dtype=torch.float64).to(operator.dtype)
        return lambda: operator @ vector

    return {name: product(operator) for name, operator in operators(risk, memory_budget).items()}


def measure(workload: Workload) -> dict[str, Any]:
    """Ratios to a gradient, with kept and with rebuilt graphs, and the relative cost of a row of ``J``."""
    risk = workload.risk()
    jacobian = Jacobian(risk, memory_budget=0)
    n, c, p = len(risk.points), jacobian.outputs, risk.layout.size
    row_points = max(1, min(n, ROW_BYTES // (c * p * risk.weights.dtype.itemsize)))
    stored, rebuilt = products(risk, KEEP), products(risk, 0)
    jobs: dict[str, Callable[[], object]] = {"gradient": risk.gradient}
    jobs |= {f"kept {name}": job for name, job in stored.items()}
    jobs |= {f"rebuilt {name}": job for name, job in rebuilt.items()}
    jobs["rows"] = lambda: jacobian.rows(0, row_points * c)
    seconds = medians(jobs, rounds=workload.rounds)
    gradient = seconds["gradient"]
    return {
        "name": workload.name,
        "weights": p,
        "dtype": str(risk.weights.dtype).removeprefix("torch."),
        "gradient_seconds": gradient,
        "kept": {name: seconds[f"kept {name}"] / gradient for name in stored},
        "rebuilt": {name: seconds[f"rebuilt {name}"] / gradient for name in rebuilt},
        "row_share": seconds["rows"] / (row_points * c) / (gradient / n),
        "row_points": row_points,
    }


def show(result: dict[str, Any]) -> str:
    """One workload's table."""
    title = (
        f"{result['name']}: {result['weights']:,} weights, {result['dtype']}, "
        f"one gradient {1e3 * result['gradient_seconds']:.1f} ms"
    )
    rows = [[name, number(ratio), number(result["rebuilt"][name])] for name, ratio in result["kept"].items()]
    note = (
        f"one row of J, {result['row_points']} points at once: "
        f"{result['row_share']:.2f} of its point's share of a gradient"
    )
    return "\n".join([title, table(["product, in gradients", "graph kept", "rebuilt"], rows), note, ""])


def run(*, large: bool = False) -> list[dict[str, Any]]:
    """Every workload, printed as it is measured."""
    results = []
    for workload in workloads(large=large):
        results.append(measure(workload))
        print(show(results[-1]), flush=True)
    return results
