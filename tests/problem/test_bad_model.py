"""A model or a loss that cannot be studied is refused when the problem is built, and left as it was."""

import copy
import warnings

import pytest
import torch
from torch import Tensor, nn

from solset import Problem, SolsetWarning, Training

D, C = 3, 2
NAN, INF = float("nan"), float("inf")


class Dropping(nn.Module):
    """Functional dropout that ignores the mode."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, 0.5, training=True)


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


class Traced(nn.Module):
    """Holds a scripted module."""

    def __init__(self) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that scripting is deprecated
            self.inner = torch.jit.script(nn.Linear(D, C).double()).eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


class Centred(nn.Module):
    """Subtracts the mean of the batch."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


class Idle(nn.Module):
    """Owns a layer that its outputs do not depend on."""

    def __init__(self) -> None:
        super().__init__()
        self.used = nn.Linear(D, C)
        self.spare = nn.Linear(D, C)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)


class Detached(nn.Module):
    """Cuts the graph between weights and outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(D, C)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).detach()


class LyingLoss(nn.MSELoss):
    """Says that it is a sum, and is a mean."""

    reduction = "sum"

    def __init__(self) -> None:
        super().__init__(reduction="sum")

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.mse_loss(outputs, targets)


def batch_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Compares outputs that are centred over the batch."""
    return nn.functional.mse_loss(outputs - outputs.mean(0), targets)


def explosive(outputs: Tensor, targets: Tensor) -> Tensor:
    """A sum that is infinite where a target is large."""
    return torch.where(targets > 50, outputs / 0.0, outputs - targets).square().sum()


MODELS = (
    (
        "compiled",
        lambda m: m.problem(torch.compile(m.network(), backend="eager")),
        TypeError,
        "model | compiled module | _orig_mod",
    ),
    (
        "traced",
        lambda m: m.problem(Traced()),
        TypeError,
        "model | scripted or traced module at 'inner' | made from",
    ),
    (
        "data parallel",
        lambda m: m.problem(nn.DataParallel(m.network())),
        TypeError,
        "model | DataParallel | .module",
    ),
    (
        "bfloat16",
        lambda m: m.problem(m.network().to(torch.bfloat16)),
        ValueError,
        "model | bfloat16 | model.double()",
    ),
    ("not a module", lambda m: m.problem(lambda x: x), TypeError, "model | function | Wrap"),
    ("loss is no callable", lambda m: m.problem(loss="mse"), TypeError, "loss | str | torch.nn"),
    (
        "no parameters",
        lambda m: m.problem(nn.Flatten()),
        ValueError,
        "model | no parameters | requires_grad_",
    ),
    (
        "dropout in training",
        lambda m: m.problem(m.network(nn.Dropout()).train()),
        ValueError,
        "model | 3 (Dropout) | eval",
    ),
    (
        "batch norm in training",
        lambda m: m.problem(m.network(nn.BatchNorm1d(C).double()).train()),
        ValueError,
        "model | BatchNorm1d | eval",
    ),
    (
        "batch norm without statistics",
        lambda m: m.problem(m.network(nn.BatchNorm1d(C, track_running_stats=False).double())),
        ValueError,
        "model | running statistics in 3 | track_running_stats",
    ),
    (
        "dropout always on",
        lambda m: m.problem(m.network(Dropping())),
        ValueError,
        "model | differ | self.training",
    ),
    (
        "batch-dependent model",
        lambda m: m.problem(m.network(Centred())),
        ValueError,
        "model | rest of the batch | normalisation",
    ),
    ("model returns a tuple", lambda m: m.problem(m.network(Pair())), TypeError, "loss | tuple | outputs="),
    ("NaN weight", lambda m: m.problem(m.with_weight(NAN)), ValueError, "model | 2.weight | checkpoint"),
    ("infinite weight", lambda m: m.problem(m.with_weight(INF)), ValueError, "model | 2.weight | checkpoint"),
    (
        "unused parameters",
        lambda m: m.problem(Idle().double()),
        ValueError,
        "parameters | spare.weight, spare.bias | Name the others",
    ),
    (
        "no parameter used",
        lambda m: m.problem(Detached().double()),
        ValueError,
        "parameters | layer.weight | Name the others",
    ),
    (
        "frozen parameter",
        lambda m: m.problem(m.frozen(m.network(), "0.weight"), parameters=["0.*"]),
        ValueError,
        "parameters | frozen 0.weight | Name the trained",
    ),
    (
        "pattern without match",
        lambda m: m.problem(parameters=["head.*"]),
        ValueError,
        "parameters | 'head.*' | 0.weight",
    ),
    ("pattern as a string", lambda m: m.problem(parameters="2.*"), TypeError, "parameters | '2.*' | ['2.*']"),
    (
        "two dtypes in the model",
        lambda m: m.problem(nn.Sequential(nn.Linear(D, C).double(), nn.Linear(C, C))),
        ValueError,
        "model | float32 | model.to",
    ),
    (
        "two devices in the model",
        lambda m: m.problem(nn.Sequential(nn.Linear(D, C), nn.Linear(C, C, device="meta"))),
        ValueError,
        "model | meta | model.to",
    ),
    (
        "negative weight decay",
        lambda m: m.problem(weight_decay=-0.1),
        ValueError,
        "weight_decay | -0.1 | of training",
    ),
    (
        "NaN weight decay",
        lambda m: m.problem(weight_decay=NAN),
        ValueError,
        "weight_decay | nan | of training",
    ),
    (
        "infinite weight decay",
        lambda m: m.problem(weight_decay=INF),
        ValueError,
        "weight_decay | inf | of training",
    ),
    ("batch size 0", lambda m: m.problem(batch_size=0), ValueError, "batch_size | 0 | Leave it out"),
    (
        "fractional batch size",
        lambda m: m.problem(batch_size=2.5),
        TypeError,
        "batch_size | 2.5 | Leave it out",
    ),
)

LOSSES = (
    (
        "infinite loss at one point",
        lambda m: m.problem(loss=explosive, targets=m.spoiled(m.TARGETS, 99.0, 10, 0)),
        ValueError,
        "loss | points [10] | domain",
    ),
    (
        "loss outside its domain",
        lambda m: m.problem(loss=lambda f, y: (f - y).abs().sum() * INF),
        ValueError,
        "loss | inf | domain",
    ),
    (
        "loss of every entry",
        lambda m: m.problem(loss=nn.MSELoss(reduction="none")),
        TypeError,
        "loss | shape | reduction",
    ),
    ("loss is a float", lambda m: m.problem(loss=lambda *_: 0.0), TypeError, "loss | float | reduction"),
    (
        "loss of the whole batch",
        lambda m: m.problem(loss=batch_loss),
        ValueError,
        "loss | one by one, and no such weights | a Dice over the batch",
    ),
    ("loss that lies", lambda m: m.problem(loss=LyingLoss()), ValueError, "loss | 'sum' | sum over points"),
)

CASES = (*MODELS, *LOSSES)


@pytest.mark.parametrize(("call", "error", "says"), [row[1:] for row in CASES], ids=[row[0] for row in CASES])
def test_refused_with_a_message_that_helps(assert_refused, call, error, says):
    assert_refused(call, error, says)


REFUSED = {
    "training mode": lambda m: m.network(nn.Dropout(), nn.BatchNorm1d(C).double()).train(),
    "dropout always on": lambda m: m.network(Dropping()),
    "tuple": lambda m: m.network(Pair()),
    "NaN weight": lambda m: m.with_weight(NAN),
    "frozen": lambda m: m.network().requires_grad_(False),
    "idle": lambda _: Idle().double(),
}


@pytest.mark.parametrize("build", REFUSED.values(), ids=REFUSED)
def test_a_refused_model_is_untouched(door, build):
    model = build(door)
    before, modes = copy.deepcopy(model.state_dict()), [part.training for part in model.modules()]
    wanted, random = [part.requires_grad for part in model.parameters()], torch.get_rng_state()
    with pytest.raises((TypeError, ValueError)):
        door.problem(model)
    assert torch.equal(torch.get_rng_state(), random)
    assert [part.training for part in model.modules()] == modes
    assert [part.requires_grad for part in model.parameters()] == wanted
    assert all(part.grad is None for part in model.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(value.nan_to_num(7.0), before[name].nan_to_num(7.0))


def test_weights_far_from_stationary_warn_with_the_norm(door):
    size = float(door.problem().gradient().norm())
    with pytest.warns(SolsetWarning, match=f"gradient norm of the risk is {size:.3g}"):
        door.problem(gradient_tol=1e-3)


def test_parameters_without_influence_may_be_left_out(door):
    problem = door.problem(Idle().double(), parameters=["used.*"])
    assert len(problem.weights()) == D * C + C


def test_a_loss_of_probabilities_is_not_probed_outside_them(door):
    problem = door.problem(door.network(nn.Sigmoid()), loss=nn.BCELoss(), targets=(door.TARGETS > 0).double())
    assert problem.risk().reduction == "mean"


def test_a_module_whose_backward_pass_fails_is_refused_by_its_error() -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            hidden = torch.relu(self.body(x))
            hidden += 0.5
            return self.head(hidden)

    with pytest.raises(ValueError, match="a backward pass that fails: .*modified by an inplace operation"):
        Problem(InPlace().eval(), nn.MSELoss(), torch.randn(4, 3), torch.randn(4, 2))


@pytest.mark.parametrize("register", ["register_hook", "register_post_accumulate_grad_hook"])
def test_a_gradient_hook_of_a_parameter_is_refused_by_name_at_both_doors(register: str) -> None:
    model = nn.Linear(D, C).double().eval()
    getattr(model.weight, register)(lambda _: None)
    x, y = torch.randn(4, D, dtype=torch.float64), torch.randn(4, C, dtype=torch.float64)
    with pytest.raises(ValueError, match="hooks on weight"):
        Problem(model, nn.MSELoss(), x, y)
    with pytest.raises(ValueError, match="hooks on weight"):
        Training(model, nn.MSELoss(), x, y, optimizer=torch.optim.SGD)
    model.weight.requires_grad_(False)
    Problem(model, nn.MSELoss(), x, y, gradient_tol=INF)
