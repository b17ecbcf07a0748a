"""An isolated but ill-conditioned solution: the default route predicts what retraining was seen to do."""

import pytest
from torch import nn

from solset import Problem, Solution
from solset.errors import Status
from support.reference import IsolatedDigits

pytestmark = pytest.mark.slow

# The relative error that an exact linear response has at each step, to the three decimals it is known to.
LINEAR_RESPONSE = {0.001: 0.018, 0.005: 0.085, 0.01: 0.162, 0.02: 0.297, 0.05: 0.602}


@pytest.fixture(scope="module")
def trained(reference: IsolatedDigits) -> Problem:
    model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10)).double().eval()
    nn.utils.vector_to_parameters(reference.weights, model.parameters())
    data, loss = reference.data, nn.CrossEntropyLoss()
    return Problem(model, loss, data.inputs, data.labels, weight_decay=reference.weight_decay)


@pytest.fixture(scope="module")
def derivative(reference, trained):
    return trained.derivative(points=reference.points)


def test_the_point_is_stationary_and_not_taken_for_a_fitted_one(trained, derivative):
    assert float(trained.gradient().norm()) <= 1e-12
    assert derivative.optimality == "stationary"


@pytest.fixture(scope="module")
def response(reference, derivative) -> Solution:
    """The answer to the unit step: the response is linear, so it is solved once and scaled."""
    return derivative(reference.dx(1.0)).min_norm()


def test_the_default_route_converges(response):
    assert response.status is Status.CONVERGED
    assert response.residual <= 1e-8


@pytest.mark.parametrize("step", LINEAR_RESPONSE)
def test_its_error_is_that_of_the_exact_linear_response(reference, response, step):
    truth = reference.retrained_change[reference.steps.index(step)]
    error = float((step * response.value - truth).norm() / truth.norm())
    assert error == pytest.approx(LINEAR_RESPONSE[step], abs=5e-4)
