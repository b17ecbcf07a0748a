"""Nothing the library does changes the user's model, its buffers or gradients, or the random state."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from solset import Move
from solset.operators import GaussNewton, GaussNewtonInverse, Hessian, InputJacobian, Jacobian, Mixed


def product(build):
    """A product with the operator and one with its transpose."""

    def run(problem):
        operator = build(problem.risk())
        m, p = operator.shape
        return operator @ torch.ones(p, 2).double(), operator.T @ torch.ones(m).double()

    return run


def directions(problem):
    return torch.ones(problem.point_count, *problem.input_shape, dtype=torch.float64)


OPERATIONS = {
    "value": lambda problem: problem.risk().value(),
    "gradient": lambda problem: problem.risk().gradient(),
    "losses": lambda problem: problem.risk().losses(),
    "input gradients": lambda problem: problem.risk().input_gradients(),
    "outputs": lambda problem: problem.risk().outputs(),
    "moved": lambda problem: problem.risk().move(range(6), directions(problem)).gradient(),
    "fit": lambda problem: problem.fit,
    "Hessian": product(Hessian),
    "GaussNewton": product(GaussNewton),
    "GaussNewtonInverse": product(lambda risk: GaussNewtonInverse(risk, memory_budget=2**30)),
    "Jacobian": product(Jacobian),
    "rows": lambda problem: Jacobian(problem.risk()).rows(0, 5),
    "Mixed": product(lambda risk: Mixed(risk, [0, 3])),
    "InputJacobian": product(lambda risk: InputJacobian(risk, [0, 3])),
    "estimate": lambda problem: problem.estimate(Move(None, directions(problem))).min_norm(),
    "coderivative": lambda problem: problem.coderivative()(problem.weights()).min_norm(),
    "apply_to": lambda problem: (
        problem.estimate(Move(None, directions(problem))).min_norm().apply_to(problem.risk().model)
    ),
}


def picture(model: nn.Module) -> list:
    """Everything about a model that must stay as it is, as plain comparable values."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return [
        [(name, value.dtype, value.device, value.requires_grad, value.tolist()) for name, value in tensors],
        [(name, value.data_ptr(), value.grad is None) for name, value in tensors],
        [part.training for part in model.modules()],
        torch.get_rng_state().tolist(),
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
    ]


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_the_model_is_untouched(case, operation):
    before = picture(case.model)
    operation(case.problem(weight_decay=0.1, batch_size=4))
    assert picture(case.model) == before


class Counting(nn.Module):
    """Counts its calls in a buffer, in place, whatever the mode."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.layer(x)


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_buffers_that_count_calls_do_not_count_ours(build_case, operation):
    case = replace(build_case("tanh-ce-mean"), model=Counting().double().eval())
    operation(case.problem(weight_decay=0.1, batch_size=4))
    assert case.model.calls == 0


def test_gradients_and_frozen_parameters_of_the_user_survive(build_case):
    case = build_case("tanh-ce-mean")
    model = case.model
    model[0].weight.requires_grad_(False)
    model[2].weight.grad = torch.full_like(model[2].weight, 7.0)
    problem = case.problem(parameters=["2.*"])
    Hessian(problem.risk()) @ torch.ones(problem.risk().layout.size).double()
    assert not model[0].weight.requires_grad
    assert bool((model[2].weight.grad == 7.0).all())
    assert model[2].bias.grad is None


def test_a_risk_keeps_its_weights_when_the_model_trains_on(build_case):
    case = build_case("tanh-ce-mean")
    problem = case.problem()
    before = problem.weights().clone()
    with torch.no_grad():
        case.model[0].weight.add_(1.0)
    assert torch.equal(problem.weights(), before)
