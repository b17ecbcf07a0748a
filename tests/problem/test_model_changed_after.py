"""A problem is about the trained point: what happens to model and data later changes no answer."""

import pytest
import torch
from torch import nn

from solset import Move, Problem

CHANGE = 0.01 * torch.randn(6, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def built(**settings) -> tuple[nn.Module, torch.Tensor, Problem]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Dropout(0.5), nn.Linear(16, 2))
    model = model.double().train()
    model(torch.randn(64, 3, dtype=torch.float64))  # which sets the running statistics
    inputs = torch.randn(6, 3, dtype=torch.float64)
    return model.eval(), inputs, Problem(model, nn.MSELoss(), inputs, model(inputs).detach(), **settings)


def answer(problem: Problem) -> torch.Tensor:
    return problem.estimate(Move(None, CHANGE), optimality="interpolating").min_norm().value


def train_on(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model.train()
    for _ in range(5):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(CHANGE + 1), CHANGE[:, :2]).backward()
        optimizer.step()
    model.eval()


@pytest.mark.parametrize("parameters", [None, ["4.*"]])
def test_training_on_changes_no_answer(parameters):
    before = answer(built(parameters=parameters)[2])
    model, _, problem = built(parameters=parameters)
    train_on(model)
    torch.testing.assert_close(answer(problem), before, rtol=1e-12, atol=0)


def test_another_mode_is_refused_and_the_old_one_is_welcome():
    model, _, problem = built()
    model.train()
    with pytest.raises(ValueError, match="`model` must be in the mode in which the problem was built"):
        answer(problem)
    model.eval()
    assert answer(problem).isfinite().all()


def test_inputs_that_were_written_to_are_refused():
    _, inputs, problem = built()
    inputs.mul_(2.0)
    with pytest.raises(ValueError, match="`inputs` must be the values with which the problem was built"):
        answer(problem)


def test_autocast_is_refused():
    model = nn.Linear(3, 2).eval()
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(ValueError, match="outside of autocast"):
        Problem(model, nn.MSELoss(), torch.ones(1, 3), torch.ones(1, 2))


def test_inference_mode_is_refused():
    problem = built()[2]
    with torch.inference_mode(), pytest.raises(ValueError, match=r"outside of torch.inference_mode\(\)"):
        answer(problem)
