"""An attribution times a change is the slope of the goal along what the change does to the weights."""

import pytest
import torch
from torch import Tensor, nn

from solset import Add, Decay, Move, Problem, Relabel, Remove, Reweight, goals
from solset.changes import Change


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def problem() -> Problem:
    """A quadratic problem at its minimum."""
    x, y, decay = draw(12, 3), draw(12, 1, seed=1), 0.1
    model = nn.Linear(3, 1, bias=False).double().eval()
    solution = torch.linalg.solve(x.T @ x / 6 + decay * torch.eye(3, dtype=torch.float64), x.T @ y / 6)
    with torch.no_grad():
        model.weight.copy_(solution.T)
    return Problem(model, nn.MSELoss(), x, y, weight_decay=decay)


GOAL = goals.PointLosses(draw(4, 3, seed=2), draw(4, 1, seed=3))
SMALL = 1e-5
CHANGES = {
    "move": Move([1, 5], SMALL * draw(2, 3, seed=4)),
    "factors": Reweight([7, 2], [SMALL, -2 * SMALL]),
    "decay": Decay(SMALL),
    "sum": Move([1], SMALL * draw(1, 3, seed=5)) + Reweight([2], SMALL) + Decay(-SMALL),
    "move and factor of one point": Move([1], SMALL * draw(1, 3, seed=6)) + Reweight([1], SMALL),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_small_change_does_to_the_goals_what_was_predicted(problem: Problem, name: str) -> None:
    change = CHANGES[name]
    predicted = problem.attribute(GOAL).predict(change)
    element = problem.estimate(change).min_norm()
    slopes = GOAL.slopes(problem.risk(), problem.weights()).gradients
    effect = slopes.T @ (element.weights - problem.weights())
    torch.testing.assert_close(predicted, effect, rtol=SMALL, atol=0)  # the divisor of a mean is finite


def test_one_goal_is_a_number_and_a_removal_minus_its_factor(problem: Problem) -> None:
    worth = problem.attribute(lambda model: next(model.parameters()).sum())
    assert isinstance(worth.predict(Decay(SMALL)), float)
    assert worth.weights is not None
    assert worth.predict(Decay(SMALL)) == SMALL * worth.decay  # to the last bit, in float64
    assert worth.predict(Remove([3, 4])) == pytest.approx(-float(worth.weights[[3, 4]].sum()), rel=1e-12)


@pytest.mark.parametrize(
    "change",
    [
        Relabel([1], torch.ones(1, 1, dtype=torch.float64)),
        Add(torch.ones(1, 3), torch.ones(1, 1)),
        Decay({"weight": 0.1}),
        Move([0], draw(1, 3)) + Relabel([1], torch.ones(1, 1, dtype=torch.float64)),
    ],
    ids=["relabel", "add", "decay of a group", "sum"],
)
def test_a_change_that_is_no_multiple_of_a_small_one_is_refused(problem: Problem, change: Change) -> None:
    with pytest.raises(ValueError, match=r"estimate\(change\)"):
        problem.attribute(GOAL).predict(change)


def test_a_derivative_that_was_left_out_is_named(problem: Problem) -> None:
    worth = problem.attribute(GOAL, features=False)
    with pytest.raises(ValueError, match="no derivative in features"):
        worth.predict(Move([0], draw(1, 3)))
