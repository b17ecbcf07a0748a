"""Small classifiers fitted by cross-entropy in float64, and the check of chosen rows written out."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property

import torch
from torch import Tensor, nn

from solset import Problem
from solset.derivatives import RowCheck
from solset.operators import InformativeRows, loss_curvature
from solset.paper import digits

MOVED, N = [3, 17], 40
TOLS = (1e-1, 1e-2, 2e-3, 1e-4, 1e-6, 1e-8)


class Attention(nn.Module):
    """Eight rows of a digit as tokens: one block of attention and one of weights, as in a transformer."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.embed = nn.Linear(8, width)
        self.position = nn.Parameter(0.1 * torch.randn(8, width))
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.mix, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.body = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x.reshape(-1, 8, 8)) + self.position
        q, k, v = self.mix(self.norms[0](tokens)).chunk(3, dim=2)
        weights = (q @ k.mT / q.shape[2] ** 0.5).softmax(dim=2)
        tokens = tokens + self.out(weights @ v)
        tokens = tokens + self.body(self.norms[1](tokens))
        return self.head(tokens.mean(dim=1))


def connected() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 48), nn.Tanh(), nn.Linear(48, 10))


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3, stride=2),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


NETS: dict[str, Callable[[], nn.Module]] = {
    "connected": connected,
    "convolutional": convolutional,
    "attention": Attention,
}


@dataclass(frozen=True, eq=False)
class Net:
    """A net fitted by cross-entropy, with everything written out."""

    model: nn.Module
    inputs: Tensor
    labels: Tensor
    dx: Tensor
    J: Tensor
    answer: Tensor

    def problem(self, **options) -> Problem:
        return Problem(self.model, nn.CrossEntropyLoss(), self.inputs, self.labels, **options)

    def derivative(self, **options):
        chosen = {"points": MOVED, "optimality": "interpolating", **options}
        return self.problem().derivative(**chosen)

    @cached_property
    def smallest(self) -> Tensor:
        """The minimum-norm solution on all rows."""
        return -(torch.linalg.pinv(self.J, rtol=1e-14) @ self.answer.reshape(-1))


def direction(seed: int) -> Tensor:
    draw = torch.randn(len(MOVED), 64, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return 0.01 * draw


def train(model: nn.Module, inputs: Tensor, labels: Tensor, steps: int = 300) -> nn.Module:
    """Cross-entropy to about 1e-6, in evaluation mode throughout."""
    model = model.double().eval()
    optimiser = torch.optim.LBFGS(model.parameters(), max_iter=steps, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = nn.functional.cross_entropy(model(inputs), labels)
        value.backward()
        return value.detach()

    optimiser.step(closure)
    return model


def outputs_of(problem: Problem) -> Callable[[Tensor, Tensor], Tensor]:
    risk = problem.risk()
    return lambda w, x: risk.forward(risk.layout.split(w), x).flatten(1)


def written_out(problem: Problem, inputs: Tensor, dx: Tensor, moved: list[int]) -> tuple[Tensor, Tensor]:
    """``J``, ``(n·c, p)``, and ``J_x Δx``, ``(n, c)``, by plain torch."""
    outputs, w = outputs_of(problem), problem.weights()
    J = torch.func.jacrev(lambda w: outputs(w, inputs), chunk_size=64)(w).flatten(0, 1)
    by_input = torch.func.jacrev(lambda x: outputs(w, x).sum(dim=0))(inputs[moved])  # points do not meet
    answer = torch.zeros(len(inputs), len(by_input), dtype=torch.float64)
    answer[moved] = torch.einsum("ckd,kd->kc", by_input, dx)
    return J.detach(), answer.detach()


@cache
def net(name: str) -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = NETS[name]()
        if name == "convolutional":
            model[2].running_mean.uniform_(-0.2, 0.2)
            model[2].running_var.uniform_(0.5, 2.0)
    part = digits().part(0, N)
    model = train(model, part.inputs, part.labels)
    problem, dx = Problem(model, nn.CrossEntropyLoss(), part.inputs, part.labels), direction(0)
    J, answer = written_out(problem, part.inputs, dx, MOVED)
    return Net(model, part.inputs, part.labels, dx, J, answer)


@cache
def solved(fit: Net, tol: float) -> tuple[RowCheck, Tensor]:
    """The check and the solution at this tolerance."""
    D = fit.derivative(rows=InformativeRows(tol=tol))
    v = D(fit.dx).min_norm().value
    return D.check, v


def error(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return float((found - expected).norm() / expected.norm())


def brute_force(fit: Net, v: Tensor) -> dict[str, float]:
    """The four numbers of a check, from the definition."""
    e = (fit.J @ v).reshape(N, 10) + fit.answer
    values, vectors = torch.linalg.eigh(loss_curvature(fit.problem().risk()))
    values = values.clamp_min(0)
    size, weighted, rise = float(fit.answer.norm()), 0.0, 0.0
    for i in range(N):
        for j in range(10):
            along = float(vectors[i, :, j] @ e[i])
            importance = 1.0 if i in MOVED else float(values[i, j] / values.max())
            weighted += importance * along**2
            rise += 0.5 * float(values[i, j]) * along**2
    return {
        "residual": weighted**0.5 / size,
        "moved_residual": float(e[MOVED].norm()) / size,
        "unit_residual": float(e.norm()) / size,
        "risk_rise": rise,
    }
