"""A retraining and a course print as one line and give new weights to a copy of the model."""

import pytest
import torch

from solset import Move, follow_path, retrain
from solset.errors import SolsetWarning, Status
from solset.retraining import GradientDescent, follow_retraining

MOVED = [1, 4]


@pytest.fixture
def change(fitted) -> Move:
    return Move(MOVED, torch.full((2, 3), 0.1, dtype=torch.float64))


def test_a_retraining(fitted, change):
    result = retrain(fitted.problem(), change, method=GradientDescent(3, 0.01))
    assert repr(result).startswith("Retrained(converged after 3 gradients, ‖w - w̄‖ = ")
    assert "\n" not in repr(result)
    changed = result.apply_to(fitted.model)
    assert torch.equal(torch.cat([w.flatten() for w in changed.parameters()]), result.weights)
    assert result.to_dict()["status"] == "converged"


def test_a_training_that_diverges_says_so(fitted, change):
    with pytest.warns(SolsetWarning, match="status 'nonfinite'"):
        result = retrain(fitted.problem(), change, method=GradientDescent(200, 1e6))
    assert result.status is Status.NONFINITE
    assert "nonfinite" in result.message


def test_a_course(fitted, change):
    course = follow_path(fitted.problem(), change, progress=False)
    assert repr(course).startswith("Course(reached the end at τ = 1: ")
    assert (course.status, course.rows()[0]["place"]) == (Status.CONVERGED, 0.0)
    assert len(course.rows()) == len(course.stations)
    changed = course.apply_to(fitted.model)
    assert torch.equal(torch.cat([w.flatten() for w in changed.parameters()]), course.weights)


def test_a_course_that_stops_early(fitted, change):
    with pytest.warns(SolsetWarning, match="ended early: budget"):
        course = follow_path(fitted.problem(), change, max_gradients=1e-9, progress=False)
    assert (course.status, len(course.stations)) == (Status.MAX_STEPS, 1)
    assert course.message in repr(course)


def test_a_course_of_a_retraining(fitted, change):
    course = follow_retraining(fitted.problem(), change, steps=2, learning_rate=0.01, progress=False)
    assert repr(course).startswith("Course(reached the end, step 2, ")
    assert course.to_dict()["optimality"] == "retraining"
