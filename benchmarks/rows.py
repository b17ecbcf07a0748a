"""What a row of the Jacobian costs, as a multiple of its point's share of one full-batch gradient."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.costs import Workload, connected, residual, risk_of, seeded
from benchmarks.tables import number, table
from benchmarks.timing import medians
from solset.operators import PerSampleGradients
from solset.operators._per_sample_routes import rows_by_vmap
from solset.paper import resnet20, resnet56
from solset.risk import EmpiricalRisk


def workloads(*, large: bool) -> list[Workload]:
    """One random row per point; all ten for the digits network too."""
    cases = [
        Workload("digits, 64-128-64-10 ReLU, 1000 points", lambda: connected(1000), 9),
        Workload("the same, all 10 rows of 100 points", lambda: connected(100), 9, is_whole=True),
        Workload("small vision transformer, 64 points of noise", lambda: transformer(64), 9),
        Workload("CIFAR ResNet20, 64 points of noise", lambda: residual(resnet20, 64), 7),
    ]
    if large:
        cases.append(Workload("CIFAR ResNet56, 64 points of noise", lambda: residual(resnet56, 64), 3))
    return cases


class Block(nn.Module):
    """A transformer block with the normalisation first and four heads."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mix, self.join = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.layers = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens ``(b, t, width)`` in and out."""
        q, k, v = self.mix(self.first(tokens)).unflatten(2, (3, 4, -1)).permute(2, 0, 3, 1, 4)
        heads = scaled_dot_product_attention(q, k, v)
        tokens = tokens + self.join(heads.transpose(1, 2).flatten(2))
        return tokens + self.layers(self.second(tokens))


class Transformer(nn.Module):
    """Patches of 4 × 4 pixels, a class token, learnt positions, four blocks of width 64."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 64, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, 64))
        self.positions = nn.Parameter(torch.randn(1, 65, 64))
        self.blocks = nn.Sequential(*(Block(64) for _ in range(4)))
        self.head = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(b, 10)`` of images ``(b, 3, 32, 32)``."""
        patches = self.patches(images).flatten(2).mT
        tokens = torch.cat([self.token.expand(len(images), -1, -1), patches], dim=1) + self.positions
        return self.head(self.blocks(tokens)[:, 0])


def transformer(count: int) -> EmpiricalRisk:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Transformer().eval()
    generator = seeded()
    inputs = torch.randn(count, 3, 32, 32, generator=generator)
    targets = torch.randint(0, 10, (count,), generator=generator)
    return risk_of(model, nn.CrossEntropyLoss(), inputs, targets)


def measure(workload: Workload) -> dict[str, Any]:
    """Shares of a gradient that a row costs, by ours and by ``torch.func``."""
    risk = workload.risk()
    n, gradients = len(risk.points), PerSampleGradients(risk)
    inputs, _ = risk.points[range(n)]
    c = risk.outputs().shape[1]
    unit = torch.eye(c, dtype=inputs.dtype).expand(n, c, c)
    single = torch.randn(n, 1, c, generator=seeded()).to(inputs)
    cotangents = unit if workload.is_whole else single
    method = gradients.method  # settled before the clock starts
    jobs: dict[str, Callable[[], object]] = {
        "gradient": risk.gradient,
        "ours": lambda: gradients.rows(inputs, cotangents),
        "torch.func": lambda: rows_by_vmap(risk, inputs, cotangents),
    }
    seconds = medians(jobs, rounds=workload.rounds)
    share = seconds["gradient"] * cotangents.shape[1]
    return {
        "name": workload.name,
        "method": method,
        "gradient_seconds": seconds["gradient"],
        "row_share": seconds["ours"] / share,
        "row_share_torch_func": seconds["torch.func"] / share,
    }


def run(*, large: bool = False) -> list[dict[str, Any]]:
    """Every workload, printed as a table."""
    results = [measure(workload) for workload in workloads(large=large)]
    heads = ["one row, in its point's shares of a gradient", "ours", "torch.func", "gradient, ms", "by"]
    lines = [
        [
            result["name"],
            number(result["row_share"]),
            number(result["row_share_torch_func"]),
            number(1e3 * result["gradient_seconds"], 1),
            result["method"],
        ]
        for result in results
    ]
    print(table(heads, lines), end="\n\n", flush=True)
    return results
