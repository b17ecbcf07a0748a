"""Small networks with data, and points trained to rounding, shared by the tests. All float64, all seeded."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import tanh

from solset import Problem
from solset.risk import EmpiricalRisk

torch.set_num_threads(1)  # thousands of small products: threads would only wait for each other


@dataclass(frozen=True, eq=False)
class Case:
    """A network with its loss and its data; never trained unless a fixture says so."""

    name: str
    model: nn.Module
    loss: nn.Module
    inputs: Tensor
    targets: Tensor

    def problem(self, **options) -> Problem:
        """The problem, silent about gradients that are not small unless asked."""
        options = {"gradient_tol": float("inf"), **options}
        return Problem(self.model, self.loss, self.inputs, self.targets, **options)

    def risk(self, **options) -> EmpiricalRisk:
        return self.problem(**options).risk()

    def to(self, dtype: torch.dtype) -> "Case":
        targets = self.targets.to(dtype) if self.targets.is_floating_point() else self.targets
        return replace(
            self, model=copy.deepcopy(self.model).to(dtype), inputs=self.inputs.to(dtype), targets=targets
        )


class Tied(nn.Module):
    """An autoencoder-like net that uses one weight matrix twice, under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.into = nn.Linear(3, 3)
        self.back = nn.Linear(3, 3)
        self.back.weight = self.into.weight
        self.out = nn.Linear(3, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(tanh(self.back(nn.functional.softplus(self.into(x)))))


class Grid(nn.Module):
    """Outputs of shape ``(b, 2, 2)``, with a frozen buffer that scales the features."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor([1.0, 2.0, 0.5]))
        self.layers = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(self.scale * x).reshape(-1, 2, 2)


def convolutional() -> nn.Module:
    """A net with batch normalisation in evaluation mode, whose running statistics are not 0 and 1."""
    model = nn.Sequential(
        nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.Tanh(), nn.Flatten(), nn.Linear(2 * 2 * 2, 3)
    )
    norm = model[1]
    norm.running_mean.copy_(torch.tensor([0.3, -0.2]))
    norm.running_var.copy_(torch.tensor([0.5, 2.0]))
    return model


def build(name: str) -> Case:
    n, g = 6, torch.Generator().manual_seed(1)
    labels = torch.tensor([0, 2, 1, 1, 0, 2])
    flat, image = torch.randn(n, 3, generator=g), torch.randn(n, 1, 3, 3, generator=g)
    real, grid = torch.randn(n, 2, generator=g), torch.randn(n, 2, 2, generator=g)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        match name:
            case "tanh-ce-mean":
                model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3))
                case = Case(name, model, nn.CrossEntropyLoss(), flat, labels)
            case "conv-ce-sum":
                case = Case(name, convolutional(), nn.CrossEntropyLoss(reduction="sum"), image, labels)
            case "tied-mse-mean":
                case = Case(name, Tied(), nn.MSELoss(), flat, real)
            case "grid-mse-sum":
                case = Case(name, Grid(), nn.MSELoss(reduction="sum"), flat, grid)
            case _:
                raise ValueError(name)
    case.model.eval()
    return case.to(torch.float64)


NETWORKS = ("tanh-ce-mean", "conv-ce-sum", "tied-mse-mean", "grid-mse-sum")


@pytest.fixture(params=NETWORKS, scope="session")
def case(request: pytest.FixtureRequest) -> Case:
    """Each of the networks in turn; shared by all tests, for nothing in the library changes it."""
    return build(request.param)


@pytest.fixture
def build_case() -> Callable[[str], Case]:
    """A network by name."""
    return build


def newton(risk: EmpiricalRisk, tol: float = 1e-12) -> EmpiricalRisk:
    """The risk at the minimum that Newton's method reaches; the Hessian by torch alone.

    Eigenvalues are taken by magnitude and the step is halved until the risk falls, so that it cannot
    climb to a saddle or run away; near the minimum it is Newton's method itself.
    """
    inputs, targets = risk.points[range(len(risk.points))]

    def energy(w: Tensor) -> Tensor:
        decay = 0.5 * risk.weight_decay * w @ w
        return risk.batch_value(risk.layout.split(w), inputs, targets) + decay

    w = risk.weights.clone()
    for _ in range(200):
        gradient = torch.func.grad(energy)(w)
        if gradient.norm() <= tol:
            return risk.at(w)
        values, vectors = torch.linalg.eigh(torch.func.jacrev(torch.func.grad(energy))(w))
        step = vectors @ ((vectors.T @ gradient) / values.abs().clamp_min(1e-10))
        length = 1.0
        while energy(w - length * step) > energy(w) + 1e-15 and length > 1e-6:
            length /= 2
        w = w - length * step
    raise AssertionError(f"Newton's method stopped at gradient norm {float(gradient.norm()):.3g}")


def fit_exactly(case: Case) -> Case:
    """The same network fitted to its targets by Gauss-Newton steps ``w - J⁺ r``."""
    risk = case.risk()
    inputs, targets = risk.points[range(len(risk.points))]

    def residual(w: Tensor) -> Tensor:
        return (risk.forward(risk.layout.split(w), inputs) - targets).reshape(-1)

    w = risk.weights.clone()
    for _ in range(50):
        r = residual(w)
        if r.norm() <= 1e-14 * len(r):
            break
        w = w - torch.linalg.pinv(torch.func.jacrev(residual)(w)) @ r
    return replace(case, model=with_weights(case.model, risk.at(w)))


def with_weights(model: nn.Module, risk: EmpiricalRisk) -> nn.Module:
    """A copy of the model with the weights of a risk."""
    changed = copy.deepcopy(model)
    named = dict(changed.named_parameters())
    with torch.no_grad():
        for name, part in zip(risk.layout.shapes, risk.layout.split(risk.weights), strict=True):
            named[name].copy_(part)
    return changed


@pytest.fixture
def minimise() -> Callable[[EmpiricalRisk], EmpiricalRisk]:
    """Newton's method, for retraining."""
    return newton


def regression(hidden: int, n: int, *, outputs: int = 1, reduction: str = "mean") -> Case:
    """A tanh net with smooth targets."""
    g = torch.Generator().manual_seed(3)
    with torch.random.fork_rng():
        torch.manual_seed(4)
        model = nn.Sequential(nn.Linear(3, hidden), nn.Tanh(), nn.Linear(hidden, outputs)).double().eval()
    inputs = torch.randn(n, 3, generator=g, dtype=torch.float64)
    targets = torch.randn(n, outputs, generator=g, dtype=torch.float64)
    return Case("regression", model, nn.MSELoss(reduction=reduction), inputs, targets)


@pytest.fixture(scope="session")
def fitted() -> Case:
    """An overparameterised net fitted to 1e-14: six points, two outputs, 74 weights."""
    return fit_exactly(regression(12, 6, outputs=2))


@pytest.fixture(scope="session")
def meeting() -> Case:
    """The same, with one target for points 1 and 4."""
    case = regression(12, 6, outputs=2)
    targets = case.targets.clone()
    targets[4] = targets[1]
    return fit_exactly(replace(case, targets=targets))


@pytest.fixture(scope="session")
def fitted_sum() -> Case:
    """The first, trained on a sum."""
    return fit_exactly(regression(12, 6, outputs=2, reduction="sum"))


@pytest.fixture(scope="session")
def isolated_net() -> tuple[Case, float]:
    """A tanh net at an isolated minimum of the regularised risk, and its weight decay."""
    case, weight_decay = regression(3, 12), 0.01
    return replace(
        case, model=with_weights(case.model, newton(case.risk(weight_decay=weight_decay)))
    ), weight_decay


@pytest.fixture(scope="session")
def logistic() -> tuple[Case, float]:
    """Regularised logistic regression (two logits) at its minimum, and its weight decay."""
    g, weight_decay = torch.Generator().manual_seed(5), 0.05
    inputs = torch.randn(20, 3, generator=g, dtype=torch.float64)
    noise = torch.randn(20, generator=g, dtype=torch.float64)
    targets = (inputs[:, 0] + 0.5 * noise > 0).long()
    with torch.random.fork_rng():
        torch.manual_seed(6)
        model = nn.Linear(3, 2).double().eval()
    case = Case("logistic", model, nn.CrossEntropyLoss(), inputs, targets)
    return replace(
        case, model=with_weights(model, newton(case.risk(weight_decay=weight_decay)))
    ), weight_decay
