"""Settings of model and loss that change after a problem was built are refused: its answers rest on them."""

import copy
import pickle
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from solset import Move, Problem, WholeBatch
from solset.risk import settings_now

GENERATOR = torch.Generator().manual_seed(3)
INPUTS = torch.randn(12, 3, generator=GENERATOR, dtype=torch.float64)
LABELS = torch.arange(12) % 3
CHANGE = Move([3], 0.01 * torch.ones(1, 3, dtype=torch.float64))


class Scaled(nn.Module):
    """A network with plain attributes: of a module, of its class, and two that are written in calls."""

    power = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.first, self.act, self.last = nn.Linear(3, 4), nn.LeakyReLU(0.2), nn.Linear(4, 3)
        self.scale, self.calls, self.size = 1.0, 0, None

    def forward(self, inputs):
        self.calls, self.size = self.calls + 1, tuple(inputs.shape)
        return self.last(self.act(self.scale * self.first(inputs)) * self.power)


class Smoothed(nn.Module):
    """A loss with a constant as a plain attribute, weights of its own, and a number of calls."""

    def __init__(self) -> None:
        super().__init__()
        self.prior, self.calls = torch.ones(3, dtype=torch.float64), 0
        self.heat = nn.Parameter(torch.ones((), dtype=torch.float64), requires_grad=False)

    def forward(self, outputs, labels):
        self.calls += 1
        return nn.functional.cross_entropy(outputs * self.heat.exp() + self.prior, labels)


class Focal:
    """A loss that is an object and no module."""

    gamma = 2.0

    def __call__(self, outputs, labels):
        return (nn.functional.cross_entropy(outputs, labels, reduction="none") ** self.gamma).mean()


def network() -> Scaled:
    torch.manual_seed(0)
    return Scaled().double().eval()


def weighted() -> nn.Module:
    return nn.CrossEntropyLoss(weight=torch.tensor([0.2, 1.0, 4.0], dtype=torch.float64))


def built(model, loss) -> Problem:
    return Problem(model, loss, INPUTS, LABELS, weight_decay=0.1, gradient_tol=99.0)


def answer(problem: Problem) -> torch.Tensor:
    return problem.estimate(CHANGE).min_norm().value


LOSSES = {
    "weight": (weighted, lambda loss: loss.weight.mul_(torch.tensor([1.0, 2.0, 1.0]))),
    "label_smoothing": (weighted, lambda loss: setattr(loss, "label_smoothing", 0.1)),
    "prior": (Smoothed, lambda loss: loss.prior.mul_(torch.tensor([1.0, 2.0, 1.0]))),
    "heat": (Smoothed, lambda loss: loss.heat.detach().add_(1.0)),
    "gamma": (Focal, lambda loss: setattr(loss, "gamma", 1.0)),
}
MODELS = {
    "scale": lambda model: setattr(model, "scale", 2.0),
    "power": lambda model: setattr(model, "power", 2.0),
    "negative_slope": lambda model: setattr(model.act, "negative_slope", 0.5),
    "act": lambda model: setattr(model, "act", nn.Tanh().eval()),
}


@pytest.mark.parametrize("name", LOSSES)
def test_another_setting_of_the_loss_is_refused_and_the_old_one_is_welcome(name):
    make, change = LOSSES[name]
    loss = make()
    problem = built(network(), loss)
    before, saved = answer(built(network(), loss)), copy.deepcopy(vars(loss))
    change(loss)
    with pytest.raises(ValueError, match=f"`loss` must be set as it was .*got `{name}` .* which was"):
        answer(problem)
    vars(loss).clear()
    vars(loss).update(saved)
    torch.testing.assert_close(answer(problem), before, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", LOSSES)
def test_another_setting_of_the_loss_is_refused_after_an_answer_too(name):
    make, change = LOSSES[name]
    loss = make()
    problem = built(network(), loss)
    answer(problem)
    change(loss)
    with pytest.raises(ValueError, match=f"`loss` must be set as it was .*got `{name}` .* which was"):
        answer(problem)


@pytest.mark.parametrize("name", MODELS)
def test_another_setting_of_the_model_is_refused_and_the_old_one_is_welcome(name):
    model = network()
    problem, act, slope = built(model, weighted()), model.act, model.act.negative_slope
    before = answer(built(model, weighted()))
    MODELS[name](model)
    with pytest.raises(ValueError, match=f"`model` must be set as it was .*got `{name}` .* which was"):
        answer(problem)
    model.scale, model.power, model.act, act.negative_slope = 1.0, 1.0, act, slope
    torch.testing.assert_close(answer(problem), before, rtol=1e-12, atol=0)


def test_the_loss_inside_of_a_whole_batch_is_held_too():
    loss = nn.HuberLoss(delta=0.7)
    targets = torch.zeros(12, 3, dtype=torch.float64)
    problem = Problem(network(), WholeBatch(loss), INPUTS, targets, weight_decay=0.1, gradient_tol=99.0)
    loss.delta = 0.3
    with pytest.raises(ValueError, match="got `delta` .HuberLoss. = 0.3, which was 0.7"):
        answer(problem)


def test_what_calls_write_refuses_no_answer():
    model, loss = network(), Smoothed()
    problem = built(model, loss)
    before = answer(built(model, loss))
    loss(model(INPUTS[:5]), LABELS[:5])
    assert model.calls
    assert model.size == (5, 3)
    torch.testing.assert_close(answer(problem), before, rtol=1e-12, atol=0)


def test_a_constant_of_the_loss_with_equal_values_is_welcome():
    loss = weighted()
    problem = built(network(), loss)
    loss.weight.mul_(2.0).div_(2.0)
    loss.weight = loss.weight.clone()
    assert answer(problem).isfinite().all()


def test_a_copy_of_a_problem_answers_and_holds_its_own_settings():
    model, loss = network(), weighted()
    problem = built(model, loss)
    other = copy.deepcopy(problem)
    before = answer(problem)
    model.scale = 2.0
    loss.weight.mul_(torch.tensor([1.0, 2.0, 1.0]))
    torch.testing.assert_close(answer(other), before, rtol=1e-12, atol=0)
    other.risk().model.scale = 3.0
    with pytest.raises(ValueError, match="`scale`"):
        answer(other)


def test_settings_that_were_pickled_with_their_modules_are_the_same_and_are_still_compared():
    model, loss = network(), weighted()
    loss.weight.mul_(1.0)
    _, loss, settings = pickle.loads(pickle.dumps((model, loss, settings_now(model, loss))))
    settings.require_same()
    loss.weight.mul_(2.0)
    with pytest.raises(ValueError, match="`weight`"):
        settings.require_same()


def test_the_same_problem_elsewhere_holds_the_settings():
    model, loss = network(), weighted()
    problem = built(model, loss)
    moved = problem.moved_to(CHANGE, problem.weights())
    trained = network()
    trained.scale = 1.5
    other = problem.with_model(trained)
    assert answer(moved).isfinite().all()
    assert answer(other).isfinite().all()
    trained(INPUTS[:2])
    model.scale = 2.0
    assert answer(other).isfinite().all()
    with pytest.raises(ValueError, match="`scale`"):
        answer(moved)
    loss.label_smoothing = 0.1
    with pytest.raises(ValueError, match="`label_smoothing`"):
        answer(other)


SCALE, STEP = torch.ones(2, dtype=torch.float64), torch.full((1, 3), 0.01, dtype=torch.float64)


def scaled_by_a_global(outputs: Tensor, targets: Tensor) -> Tensor:
    return (SCALE * (outputs - targets).square()).mean()


def losses_from_outside() -> dict[str, tuple[object, object]]:
    """Losses that read values from outside of them, each with what changes one of these values."""
    number, factors = [1.0], torch.ones(2, dtype=torch.float64)
    inner = nn.SmoothL1Loss(beta=1.0)
    power = 2.0

    def by_closure(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).abs().pow(power).mean()

    def other_power() -> None:
        nonlocal power
        power = 4.0

    bound = partial(
        lambda outputs, targets, factors: (factors * (outputs - targets).square()).mean(), factors=factors
    )
    return {
        "number of a closure": (by_closure, other_power),
        "tensor of a closure": (lambda o, t: (factors * (o - t).square()).mean(), lambda: factors.mul_(2.0)),
        "write through data": (
            lambda o, t: (factors * (o - t).square()).mean(),
            lambda: factors.data.mul_(2.0),
        ),
        "bound argument": (bound, lambda: factors.mul_(2.0)),
        "module of a closure": (lambda o, t: inner(o, t), lambda: setattr(inner, "beta", 0.1)),
        "global tensor": (scaled_by_a_global, lambda: SCALE.mul_(1.5)),
        "list": (lambda o, t: number[0] * (o - t).square().mean(), lambda: number.append(number.pop() * 2)),
    }


@pytest.mark.parametrize("name", list(losses_from_outside()))
def test_what_a_loss_reads_from_outside_is_compared(name):
    loss, change = losses_from_outside()[name]
    model = nn.Linear(3, 2).double().eval()
    x, y = torch.randn(2, 8, 3, dtype=torch.float64)
    problem = Problem(model, loss, x, y[:, :2], weight_decay=0.1, gradient_tol=float("inf"))
    problem.estimate(Move([0], STEP), optimality="stationary", verify=False).min_norm()
    change()
    with pytest.raises(ValueError, match="`loss` must be set as it was when the problem was built"):
        problem.estimate(Move([0], STEP), optimality="stationary", verify=False).min_norm()


def test_a_plain_tensor_of_a_module_is_compared():
    class Masked(nn.Linear):
        def __init__(self) -> None:
            super().__init__(3, 2)
            self.mask = torch.ones(2, dtype=torch.float64)  # no buffer

        def forward(self, inputs: Tensor) -> Tensor:
            return self.mask * super().forward(inputs)

    model = Masked().double().eval()
    x, y = torch.randn(2, 8, 3, dtype=torch.float64)
    problem = Problem(model, nn.MSELoss(), x, y[:, :2], weight_decay=0.1, gradient_tol=float("inf"))
    model.mask[0] = 0.0
    with pytest.raises(ValueError, match="`mask`"):
        problem.estimate(Move([0], STEP), optimality="stationary", verify=False).min_norm()
