"""Derivatives by autograd are compared with differences of the module when a problem is built."""

import threading
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.utils import parametrizations

from solset import Move, Problem, SolsetWarning
from solset.derivatives import Premise
from solset.operators import Hessian, Mixed

N = 5


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def built(make: Callable[[], nn.Module], dtype: torch.dtype = torch.float64, **options) -> Problem:
    x = options.pop("inputs", draw(N, 3)).to(dtype)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make().double().to(dtype).eval()
    loss = options.pop("loss", nn.MSELoss())
    targets = options.pop("targets", draw(N, 2, seed=1).to(dtype))
    return Problem(model, loss, x, targets, gradient_tol=float("inf"), **options)


def premise(problem: Problem) -> Premise:
    return next(one for one in problem._at_door if one.name == "derivative")


class Between(nn.Module):
    """Two linear layers with a function between them."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.function = nn.Linear(3, 6), nn.Linear(6, 2), function

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(x)))


class Frozen(nn.Module):
    """A backbone under ``no_grad``, as it is often frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head = nn.Sequential(nn.Linear(3, 6), nn.Tanh()), nn.Linear(6, 2)
        self.backbone.requires_grad_(requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            features = self.backbone(x)
        return self.head(features)


class _Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:  # noqa: ARG004
        return x.view_as(x)

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> Tensor:  # noqa: ARG004
        return -gradients[0]


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        return gradients[0] * s * (1 + x * (1 - s))


class _Lost(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.x = x.detach()
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> Tensor:
        s = torch.sigmoid(ctx.x)
        return gradients[0] * s * (1 + ctx.x * (1 - s))


class Quantised(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + ((4 * x).round() / 4 - x).detach()


WRONG_FIRST = {
    "no_grad": (Frozen, {}, "inputs.*'backbone'.*no_grad"),
    "detach": (lambda: Between(lambda h: h.tanh().detach()), {"parameters": ["last.*"]}, "before 'last'"),
    "numpy": (
        lambda: Between(lambda h: torch.from_numpy(h.detach().numpy()).tanh()),
        {"parameters": ["last.*"]},
        "inputs.*before 'last'",
    ),
    "straight-through": (
        lambda: nn.Sequential(nn.Linear(3, 6), Quantised(), nn.Linear(6, 2)),
        {},
        "weights.*'1' \\(Quantised\\)",
    ),
    "reversed gradient": (
        lambda: Between(lambda h: _Reversed.apply(h).tanh()),
        {},
        "weights.*method of Between",
    ),
    "detached scale": (lambda: Between(lambda h: h / h.norm(dim=1, keepdim=True).detach()), {}, "weights"),
}


@pytest.mark.parametrize("name", WRONG_FIRST)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_wrong_first_derivative_is_refused_with_the_module_named(name, dtype):
    make, options, words = WRONG_FIRST[name]
    with pytest.raises(ValueError, match=f"(?s)`model` must be one whose derivatives.*{words}.*verify_deriv"):
        built(make, dtype, **options)
    problem = built(make, dtype, **options, verify_derivatives=False)
    assert premise(problem).verdict == "not checked"


def weight_normed() -> nn.Module:
    return nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 6)), nn.Tanh(), nn.Linear(6, 2))


WRONG_SECOND = {
    "once differentiable": (lambda: Between(_Once.apply), "method of Between"),
    "detached on ctx": (lambda: Between(_Lost.apply), "method of Between"),
    "hard sigmoid": (
        lambda: nn.Sequential(nn.Linear(3, 6), nn.Hardsigmoid(), nn.Linear(6, 2)),
        "'1' .Hardsig",
    ),
    "weight norm": (weight_normed, "'0.parametrizations.weight.0'"),
}


@pytest.mark.parametrize("name", WRONG_SECOND)
def test_a_wrong_second_derivative_is_replaced_by_differences_and_told(name):
    make, words = WRONG_SECOND[name]
    risk = built(make).risk()
    parameters, x, y = list(risk.model.parameters()), draw(N, 3), draw(N, 2, seed=1)

    def gradient(w: Tensor, moved: Tensor) -> Tensor:
        nn.utils.vector_to_parameters(w, parameters)
        value = functional.mse_loss(risk.model(moved), y)
        slopes = torch.autograd.grad(value, parameters)
        return torch.cat([slope.reshape(-1) for slope in slopes])

    def column(size: int, change: Callable[[Tensor], Tensor]) -> Tensor:
        eye = 1e-5 * torch.eye(size).double()
        return torch.stack([(change(e) - change(-e)) / 2e-5 for e in eye], dim=1)

    with pytest.warns(SolsetWarning, match=f"(?s)differences of the gradient.*{words}"):
        H = Hessian(risk).to_dense()
    B = Mixed(risk, range(N))
    w = risk.weights.clone()
    true_H = column(len(w), lambda e: gradient(w + e, x))
    true_B = column(x.numel(), lambda e: gradient(w, x + e.reshape(x.shape)))
    assert float((H - true_H).norm() / true_H.norm()) < 1e-7
    assert float((B.to_dense() - true_B).norm() / true_B.norm()) < 1e-7
    assert float((B.T.to_dense().T - true_B).norm() / true_B.norm()) < 1e-7


class Ids(nn.Module):
    """The first feature holds ids."""

    def __init__(self, read: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.table, self.first, self.last = nn.Embedding(5, 6), nn.Linear(2, 6), nn.Linear(6, 2)
        self.read = read

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(x[:, 1:]) + self.table(self.read(x[:, 0]))))


@pytest.mark.parametrize("read", [Tensor.long, lambda ids: ids.round().long()])
def test_ids_among_the_features_are_flagged_and_others_estimated(read):
    x = draw(N, 3)
    x[:, 0] = torch.arange(N)
    problem = built(lambda: Ids(read), inputs=x, weight_decay=0.1)
    assert premise(problem).verdict == "failed"
    dx = 1e-3 * draw(N, 3, seed=2)
    dx[:, 0] = 0
    with pytest.warns(SolsetWarning, match=r"features \[0\] of the inputs hold ids"):
        problem.estimate(Move(None, dx), optimality="stationary")


def test_a_loss_with_detached_weights_is_refused():
    def focal(outputs: Tensor, targets: Tensor) -> Tensor:
        likely = outputs.log_softmax(dim=1).gather(1, targets[:, None])
        return -((1 - likely.exp().detach()) ** 2 * likely).mean()

    with pytest.raises(ValueError, match="`loss` must be one whose derivative by autograd"):
        built(lambda: Between(torch.tanh), loss=focal, targets=torch.tensor([0, 1, 1, 0, 1]))


RIGHT = {
    "plain": lambda: Between(torch.tanh),
    "rectifier": lambda: Between(torch.relu),
    "normalised": lambda: Between(lambda h: functional.normalize(h, dim=1)),
    "singular values": lambda: Between(
        lambda h: torch.cat([torch.linalg.svdvals(h.reshape(-1, 2, 3)), h[:, :4]], dim=1)
    ),
    "group norm": lambda: nn.Sequential(nn.Linear(3, 6), nn.GroupNorm(2, 6), nn.Tanh(), nn.Linear(6, 2)),
    "spectral norm": lambda: nn.Sequential(
        parametrizations.spectral_norm(nn.Linear(3, 6)), nn.Tanh(), nn.Linear(6, 2)
    ),
    "torch.func": lambda: Between(torch.func.vmap(torch.func.grad(lambda z: z.sin().sum()))),
}


@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_right_derivatives_are_let_pass_in_silence(name, dtype):
    problem = built(RIGHT[name], dtype)
    assert premise(problem).verdict == "held"
    assert problem.risk().routes.second == "autograd"


def test_a_kink_at_the_data_is_not_taken_for_a_fault():
    class Dead(Between):
        def __init__(self) -> None:
            super().__init__(torch.relu)
            nn.init.zeros_(self.first.weight)
            nn.init.zeros_(self.first.bias)

    assert premise(built(Dead)).verdict == "not checked"


def test_a_model_that_cannot_be_copied_is_compared_all_the_same():
    class Locked(Between):
        def __init__(self) -> None:
            super().__init__(torch.tanh)
            self.lock = threading.Lock()

    problem = built(Locked, weight_decay=0.1)
    assert premise(problem).verdict == "held"
    estimate = problem.estimate(Move(None, 1e-3 * draw(N, 3)), optimality="stationary")
    with pytest.raises(TypeError, match="`model` must be a module that copy.deepcopy can copy"):
        estimate.min_norm().apply_to(problem.risk().model)


def test_the_comparison_reads_the_model_few_times():
    counts = []

    def counting(h: Tensor) -> Tensor:
        counts.append(len(h))
        return torch.tanh(h)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        built(lambda: Between(counting), verify_derivatives=False)
        without = sum(counts)
        counts.clear()
        built(lambda: Between(counting))
    assert sum(counts) - without <= 3 * 2  # outputs of two points at the weights and to both sides of them
