"""A solution prints on one line, and says how far to trust it."""

import pytest
import torch

from solset.errors import Status
from solset.solvers import Solution, SolverError


def solution(value: torch.Tensor, status: Status = Status.CONVERGED, steps: int = 0) -> Solution:
    return Solution(value, status, 3e-12, steps)


def test_prints_status_residual_steps_and_length():
    text = "Solution(converged, residual 3e-12, direct, norm 5)"
    assert repr(solution(torch.tensor([3.0, 4.0]))) == text


def test_of_a_block_the_longest_element_is_shown():
    block = torch.tensor([[3.0, 1.0], [4.0, 0.0]])
    assert solution(block, Status.MAX_STEPS, 1).headline == "max_steps, residual 3e-12, 1 step, norm 5"


def test_weights_show_the_length_of_their_change_and_its_share():
    moved = solution(torch.tensor([0.3, 0.4])).moved_by(torch.tensor([6.0, 8.0]), {"w": torch.Size([2])})
    assert moved.headline == "converged, residual 3e-12, direct, change 0.5, 5 % of the weights"
    torch.testing.assert_close(moved.change, torch.tensor([0.3, 0.4]))
    assert moved.weights.tolist() == [pytest.approx(6.3), pytest.approx(8.4)]
    assert moved.moved_by(torch.ones(2), None).start is None, "a translate that holds no weights"


def test_an_empty_block_prints():
    assert "norm 0" in repr(solution(torch.zeros(3, 0)))


def test_converts_to_plain_data():
    content = solution(torch.tensor([1.0, 2.0])).to_dict()
    assert (content["value"], content["status"], content["steps"]) == ([1.0, 2.0], "converged", 0)


def test_its_weights_are_its_value():
    value = torch.tensor([1.0, 2.0])
    assert solution(value).weights is value


def test_a_change_of_weights_is_not_applied_to_a_model():
    with pytest.raises(ValueError, match="problem.estimate"):
        solution(torch.tensor([1.0, 2.0])).apply_to(torch.nn.Linear(1, 1))


def test_failure_is_raised_with_the_partial_solution():
    partial = solution(torch.ones(2), Status.MAX_STEPS, 7)
    with pytest.raises(SolverError, match="'max_steps' at relative residual 3e-12 after 7 steps") as caught:
        partial.raise_if_failed()
    assert caught.value.solution is partial
    assert solution(torch.ones(2)).raise_if_failed().status is Status.CONVERGED
