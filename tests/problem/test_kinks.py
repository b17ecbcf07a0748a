"""At points on a kink derivatives are one-sided: said so, and no certificate is given."""

import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from solset import Move, Problem, SolsetWarning, audit, lipschitz_modulus
from solset.derivatives import Verdict

DOUBLE = {"dtype": torch.float64}


def black_images(count: int, dtype: torch.dtype) -> Tensor:
    """Strokes on a black background, as in handwritten digits."""
    generator = torch.Generator().manual_seed(0)
    images = torch.zeros(count, 1, 8, 8, dtype=dtype)
    images[:, 0, 3:5, 2:6] = torch.rand(count, 2, 4, generator=generator, dtype=torch.float64).to(dtype)
    return images


def convolution(*layers: nn.Module, dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(1)
    first = nn.Conv2d(1, 2, 3)
    nn.init.constant_(first.bias, 0.1)
    return nn.Sequential(first, *layers, nn.Flatten(), nn.Linear(18, 1)).to(dtype).eval()


def problem_of(model: nn.Module, inputs: Tensor, loss: nn.Module | None = None, **options) -> Problem:
    """A fitted problem, whose targets are the outputs."""
    return Problem(model, loss or nn.MSELoss(), inputs, model(inputs).detach(), **options)


def kinks_of(problem: Problem, optimality: str = "interpolating", points=None):
    premises = problem.derivative(points=points, optimality=optimality).premises
    return next(premise for premise in premises.each if premise.name == "kinks")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("optimality", ["interpolating", "stationary", "gauss_newton"])
def test_a_black_background_ties_the_windows_of_a_maximum(dtype: torch.dtype, optimality: str):
    inputs = black_images(4, dtype)
    pooled = kinks_of(
        problem_of(convolution(nn.ReLU(), nn.MaxPool2d(2), dtype=dtype), inputs), optimality, [1, 3]
    )
    assert pooled.verdict is Verdict.FAILED
    assert "MaxPool2d '2'" in pooled.reason
    assert "one-sided at 2 of 4 points" in pooled.reason
    averaged = problem_of(convolution(nn.ReLU(), nn.AvgPool2d(2), dtype=dtype), inputs)
    assert kinks_of(averaged, optimality, [1, 3]).verdict is Verdict.HELD


def test_ties_that_move_together_are_none():
    """A background that does not move: its windows hold equal constants, whatever the weights are."""
    model = convolution(nn.ReLU(), nn.MaxPool2d(2)).requires_grad_(requires_grad=False)
    model[-1].requires_grad_()
    inputs = black_images(4, torch.float64)
    weights_alone = problem_of(model, inputs).point.kinks.of([], of_outputs=True)
    assert not weights_alone.points
    assert problem_of(model, inputs).point.kinks.of([2], of_outputs=True).points == (2,)


def test_ties_behind_a_dead_unit_are_none():
    model = convolution(nn.MaxPool2d(2), nn.ReLU())
    nn.init.constant_(model[0].bias, -50.0)
    nn.init.constant_(model[-1].bias, 1.0)
    problem = problem_of(model, black_images(3, torch.float64), parameters=["4.bias"])
    assert not problem.point.kinks.of([0, 1, 2], of_outputs=True).points


@pytest.mark.filterwarnings("ignore::solset.SolsetWarning")
def test_estimate_modulus_and_audit_are_flagged():
    problem = problem_of(convolution(nn.ReLU(), nn.MaxPool2d(2)), black_images(4, torch.float64))
    with pytest.warns(SolsetWarning, match=r"one-sided at 1 of 4 points: .*MaxPool2d '2'"):
        estimate = problem.estimate(Move([2], 0.01 * torch.ones(1, 1, 8, 8, **DOUBLE)))
    assert "one-sided" in estimate.min_norm().message
    assert problem.derivative(points=[2]).qualification.is_verified is None
    with pytest.warns(SolsetWarning, match="one-sided at 4 of 4"):
        modulus = lipschitz_modulus(problem)
    assert modulus.certificate.certainty == "not known"
    with pytest.warns(SolsetWarning, match="one-sided at 4 of 4"):
        report = audit(problem)
    assert set(report.certainty) == {"not known"}
    assert "one-sided" in report.message


class Calls(nn.Module):
    """A linear layer on what a function makes of the input times a weight."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function, self.scale = function, nn.Parameter(torch.tensor(1.0, **DOUBLE))
        self.last = nn.Linear(4, 1, **DOUBLE)

    def forward(self, x: Tensor) -> Tensor:
        values = self.function(self.scale * x)
        return self.last(values.expand(len(x), 4) if values.ndim > 1 else values.unsqueeze(1).expand(-1, 4))


class OwnRelu(torch.autograd.Function):
    """A rectifier with its own derivative."""

    @staticmethod
    def forward(z: Tensor) -> Tensor:
        return z.clamp_min(0)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:  # noqa: ARG004
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx, slope: Tensor) -> Tensor:
        return slope * (ctx.saved_tensors[0] > 0)


TIED = {
    "relu": functional.relu,
    "in place": lambda z: functional.relu_(z.clone()),
    "leaky": lambda z: functional.leaky_relu(z, 0.2),
    "own": OwnRelu.apply,
    "where": lambda z: torch.where(z > 0, z, 0.5 * z),
    "mask": lambda z: z * (z >= 0),
    "clamp": lambda z: z.clamp(0.0, 3.0),
    "hardtanh": lambda z: functional.hardtanh(z, -1.0, 0.0),
    "abs": torch.abs,
    "sign": lambda z: z.sign() * z,
    "maximum": lambda z: torch.maximum(z, 0.3 * z),
    "minimum": lambda z: torch.minimum(z, z.flip(1)),
    "norm": lambda z: z[:, :2].norm(dim=1),
    "max": lambda z: (-z).max(dim=1).values,
    "amax": lambda z: (-z).amax(dim=(1,)),
    "sort": lambda z: z.sort(dim=1).values,
    "topk": lambda z: (-z).topk(1, dim=1).values,
    "median": lambda z: z.median(dim=1).values,
    "kth value": lambda z: z.kthvalue(2, dim=1).values,
    "gather": lambda z: z.gather(1, (-z).argmax(1, keepdim=True)),
    "softshrink": lambda z: functional.softshrink(z + 0.5),
    "max pool": lambda z: functional.max_pool1d(z.unsqueeze(1), 2, stride=1, padding=1).squeeze(1)[:, :4],
    "adaptive": lambda z: functional.adaptive_max_pool1d(z.unsqueeze(1), 2).squeeze(1).repeat(1, 2),
    "transformed": lambda z: torch.func.vmap(torch.relu)(z),
    "sampled": lambda z: functional.grid_sample(
        torch.tensor([[[[1.0, 3.0, 2.0]]]], **DOUBLE).expand(len(z), 1, 1, 3),
        torch.stack([z[:, :1], 0 * z[:, :1]], dim=-1).unsqueeze(1),
        align_corners=True,
    ).reshape(len(z), 1),
    "distance": lambda z: torch.cdist(z.unsqueeze(1), torch.tensor([[[0.0, 0.0, 0.0, 2.0]]], **DOUBLE))[:, 0],
    "parametric": lambda z: functional.prelu(z, torch.tensor([0.3], **DOUBLE)),
    "randomised": lambda z: functional.rrelu(z, training=False),
    "relu6": functional.relu6,
    "selu": functional.selu,
    "hardswish": lambda z: functional.hardswish(z - 3),
    "hardsigmoid": lambda z: functional.hardsigmoid(z + 3),
    "hardshrink": lambda z: functional.hardshrink(z + 0.5),
    "threshold": lambda z: functional.threshold(z, 0.0, -0.2),
    "fmax": lambda z: torch.fmax(z, 0.3 * z),
    "fmin": lambda z: torch.fmin(z, -z),
    "quantile": lambda z: z.quantile(0.4, dim=1),
    "median without NaN": lambda z: z.nanmedian(dim=1).values,
    "smallest and largest": lambda z: torch.aminmax(z, dim=1).min,
    "running maximum": lambda z: z.cummax(1).values,
    "running minimum": lambda z: z.cummin(1).values,
    "msort": lambda z: z.mT.msort().mT,
    "floor": lambda z: (0.7 * z).floor() * z,
    "frac": lambda z: (0.7 * z + 1).frac(),
    "rounded": lambda z: (0.7 * z + 0.5).round() * z.cos(),
    "floor of a quotient": lambda z: torch.div(z, 0.9, rounding_mode="floor") * z.cos(),
    "remainder": lambda z: z.remainder(0.9),
    "copied sign": lambda z: torch.copysign(torch.ones_like(z), z) * z.cos(),
    "angle of two": lambda z: torch.atan2(z, z.flip(1)),
    "complex length": lambda z: torch.complex(z[:, :2], z[:, 1:3]).abs().repeat(1, 2),
    "norm of absolute values": lambda z: z.norm(p=1, dim=1),
    "largest absolute value": lambda z: torch.linalg.vector_norm(z - 1, ord=float("inf"), dim=1),
    "distance of absolute values": lambda z: torch.cdist(z[:, None], torch.zeros(1, 1, 4, **DOUBLE), p=1)[
        :, 0
    ],
    "pairwise distance": lambda z: functional.pairwise_distance(
        z[:, :3], torch.zeros(1, 3, **DOUBLE), eps=0.0
    ),
    "deviation": lambda z: z[:, :3].std(dim=1),
    "singular values": lambda z: torch.linalg.svdvals(z.reshape(-1, 2, 2)).repeat(1, 2),
    "eigenvalues": lambda z: torch.linalg.eigvalsh(torch.diag_embed(z)),
    "power mean of a window": lambda z: functional.lp_pool1d(z[:, None], 2, 2)[:, 0].repeat(1, 2),
    "max pool of images": lambda z: functional.max_pool2d(z.reshape(-1, 1, 2, 2), 2, 1, 1)[
        :, 0, :2, :2
    ].flatten(1),
    "adaptive pool of images": lambda z: functional.adaptive_max_pool2d(
        z[:, :2].repeat(1, 2).reshape(-1, 1, 2, 2), 1
    ).flatten(1),
    "max pool of volumes": lambda z: functional.max_pool3d(
        z[:, :2].repeat(1, 4).reshape(-1, 1, 2, 2, 2), 2
    ).flatten(1),
    "random windows": lambda z: functional.fractional_max_pool2d(
        z.repeat(1, 4).reshape(-1, 1, 4, 4),
        2,
        output_size=2,
        _random_samples=torch.full((len(z), 1, 2), 0.3, **DOUBLE),
    ).flatten(1),
    "scaled Bessel function": lambda z: torch.special.i0e(z),
    "scattered maximum": lambda z: torch.zeros_like(z).scatter_reduce(
        1, torch.zeros(z.shape, dtype=torch.long), -z, "amax"
    ),
}
ON_KINKS = torch.tensor([[0.3, -0.7, 1.1, 2.0], [0.0, 0.0, 0.0, 2.0]], **DOUBLE)


@pytest.mark.parametrize("name", TIED)
def test_a_kink_is_found_at_the_data_themselves(name: str):
    torch.manual_seed(0)
    model = Calls(TIED[name])
    # The comparison with differences at the door refuses some kinks; here the look at ties is tested alone.
    problem = problem_of(model, ON_KINKS, verify_derivatives=False)
    premise = kinks_of(problem)
    assert premise.verdict is Verdict.FAILED
    assert "one-sided at 1 of 2 points" in premise.reason
    away = problem_of(model, ON_KINKS + torch.tensor([0.31, 0.13, 0.07, 0.01], **DOUBLE))
    assert kinks_of(away).verdict is Verdict.HELD


BENT_SLOPES = {
    "elu": functional.elu,
    "celu": lambda z: functional.celu(z, 0.7),
    "square": lambda z: functional.relu(z).square(),
    "product with itself": lambda z: z * z.abs(),
}


@pytest.mark.parametrize("name", BENT_SLOPES)
def test_a_kink_of_the_slope_is_one_of_the_gradient_alone(name: str):
    torch.manual_seed(0)
    model = Calls(lambda z: BENT_SLOPES[name](z - 2))
    problem = Problem(model, nn.MSELoss(), ON_KINKS, torch.ones(2, 1, **DOUBLE), gradient_tol=float("inf"))
    assert kinks_of(problem, "stationary").verdict is Verdict.FAILED
    assert kinks_of(problem_of(model, ON_KINKS)).verdict is Verdict.HELD


@pytest.mark.parametrize(
    "loss", [nn.L1Loss(), nn.HuberLoss(delta=0.5), nn.SmoothL1Loss(beta=0.5), nn.HingeEmbeddingLoss()]
)
def test_kinks_of_the_loss_are_found_at_the_residuals(loss: nn.Module):
    torch.manual_seed(0)
    model, inputs = nn.Linear(3, 1).double(), torch.randn(4, 3, **DOUBLE)
    outputs = model(inputs).detach()
    if isinstance(loss, nn.HingeEmbeddingLoss):
        with torch.no_grad():
            model.bias -= outputs[2, 0] - 1.0
        targets = -torch.ones(4, 1, **DOUBLE)
    else:
        gaps = torch.tensor([0.2, 0.1, 0.0 if isinstance(loss, nn.L1Loss) else 0.5, 0.3], **DOUBLE)
        targets = outputs + gaps.unsqueeze(1)
    problem = Problem(model, loss, inputs, targets, gradient_tol=float("inf"))
    premise = kinks_of(problem, "stationary")
    assert premise.verdict is Verdict.FAILED
    assert "the loss" in premise.reason
    shifted = Problem(model, loss, inputs + 0.01, targets, gradient_tol=float("inf"))
    assert kinks_of(shifted, "stationary").verdict is Verdict.HELD


def test_a_network_without_kinks_or_far_from_them_pays_one_forward_pass():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)).double()
    problem = problem_of(model, torch.randn(4, 3, **DOUBLE))
    problem.point.kinks.of([], of_outputs=True)  # the forward pass, which is made once
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    assert not problem.point.kinks.of([0, 1, 2, 3], of_outputs=True).points
    assert not problem.point.kinks.of([1], of_outputs=False).points
    assert not calls


class Sloped(nn.Module):
    """A net beside its second derivative, taken by ``torch.func`` in the forward method."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(1, 4, **DOUBLE), nn.Tanh(), nn.Linear(4, 1, **DOUBLE))

    def forward(self, t: Tensor) -> Tensor:
        second = torch.func.hessian(lambda s: self.net(s[None])[0, 0])
        return torch.func.vmap(lambda s: second(s)[0, 0])(t)[:, None] + self.net(t)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # PyTorch's own, in torch.func.hessian
def test_a_forward_method_that_uses_torch_func_is_looked_at():
    """Reading tensors inside of its transforms would end the process."""
    torch.manual_seed(0)
    problem = problem_of(Sloped().eval(), torch.linspace(0, 1, 4, **DOUBLE)[:, None])
    assert kinks_of(problem).verdict is Verdict.HELD


def test_points_that_stay_are_looked_at_once():
    problem = problem_of(convolution(nn.ReLU(), nn.MaxPool2d(2)), black_images(6, torch.float64))
    assert problem.point.kinks.of([0], of_outputs=True).points == (0,)
    batches = []
    problem.risk().model.register_forward_pre_hook(lambda _, inputs: batches.append(len(inputs[0])))
    assert problem.point.kinks.of([3], of_outputs=True).points == (3,)
    assert batches
    assert set(batches) == {1}
    assert problem.point.kinks.of(range(6), of_outputs=True).points == tuple(range(6))


@pytest.mark.parametrize("smooth", ["by an offset", "by a root"])
def test_a_kink_that_a_tiny_constant_rounds_is_said_at_steps_beyond_it(smooth: str) -> None:
    class Distance(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(3, 3), nn.Linear(1, 1)

        def forward(self, pairs: Tensor) -> Tensor:
            first, second = self.body(pairs).tanh().unbind(1)
            if smooth == "by an offset":
                return self.head(nn.functional.pairwise_distance(first, second).unsqueeze(1))
            return self.head(((first - second).square().sum(1) + 1e-12).sqrt().unsqueeze(1))

    source = torch.Generator().manual_seed(0)
    x, y = (torch.randn(6, *shape, generator=source, dtype=torch.float64) for shape in ((2, 3), (1,)))
    x[0, 1] = x[0, 0]
    torch.manual_seed(0)
    model = Distance().double().eval()
    problem = Problem(model, nn.MSELoss(), x, y, weight_decay=0.1, gradient_tol=100.0)
    for length, says in ((1e-4, True), (1e-9, False)):
        move = Move([0], length * torch.randn(1, 2, 3, generator=source, dtype=torch.float64))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SolsetWarning)
            answer = problem.estimate(move, optimality="stationary").min_norm()
        assert any("the next Newton step would be" in note for note in answer.notes) == says
