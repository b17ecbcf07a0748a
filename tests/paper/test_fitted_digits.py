"""Section 5: which element of the estimated set retraining reaches, on fitted digits networks."""

import pytest
import torch

from solset import Move, retrain
from solset.errors import Status
from solset.retraining import LevenbergMarquardt
from solset.testing import log_slope
from support.fitted_digits import SLOW_DIGITS, fitted

pytestmark = SLOW_DIGITS


@pytest.mark.parametrize(
    ("activation", "kind", "bound"),
    [
        ("tanh", "random", 0.05),
        ("tanh", "cross_entropy", 0.12),
        ("relu", "random", 0.45),
        ("relu", "cross_entropy", 0.40),
    ],
)
def test_the_gradient_flow_element_predicts_retraining(activation: str, kind: str, bound: float) -> None:
    errors = fitted(activation).flow_errors(kind, 0.005)
    print(f"{activation}, {kind}: relative errors at 100, 1000, 3000 steps: {errors}")
    assert max(errors) <= bound


def test_the_pseudo_inverse_does_not_predict_a_short_training() -> None:
    net = fitted("tanh")
    dx = net.dx("random", 0.005)
    actual = net.actual(dx)[100]
    assert float((net.derivative(dx).min_norm().value - actual).norm() / actual.norm()) > 5


@pytest.mark.parametrize("kind", ["random", "cross_entropy"])
def test_the_error_is_proportional_to_the_step_on_a_smooth_net(kind: str) -> None:
    sizes = (0.00125, 0.0025, 0.005)
    errors = [fitted("tanh").flow_errors(kind, size) for size in sizes]
    for at_one_duration in zip(*errors, strict=True):
        assert log_slope(sizes, at_one_duration) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("kind", ["random", "cross_entropy"])
def test_the_minimum_norm_element_predicts_the_nearest_solution(kind: str) -> None:
    net, sizes, errors = fitted("tanh"), (0.00125, 0.0025, 0.005), []
    for size in sizes:
        dx = net.dx(kind, size)
        nearest = retrain(net.problem, Move(net.moved, dx), method=LevenbergMarquardt())
        assert nearest.status is Status.CONVERGED
        guess = net.derivative(dx).min_norm().value
        errors.append(float((guess - nearest.change).norm() / nearest.change.norm()))
    print(f"{kind}: errors against the nearest solution {errors}")
    assert errors[-1] <= 0.12
    assert log_slope(sizes, errors) == pytest.approx(1.0, abs=0.1)


def test_samples_violate_the_set_equation_to_second_order_in_step_and_radius_together() -> None:
    net, kept = fitted("tanh"), fitted("tanh").problem.risk().outputs()
    scales, errors = (1.0, 0.5, 0.25), []
    for scale in scales:
        dx = net.dx("random", 0.005 * scale)
        estimate = net.problem.estimate(Move(net.moved, dx))
        generator = torch.Generator().manual_seed(3)
        samples = estimate.sample(5, radius=0.05 * scale, generator=generator)
        moved = net.problem.risk().move(net.moved, dx)
        errors.append(max(float((moved.at(s.value).outputs() - kept).norm()) for s in samples))
    assert log_slope(scales, errors) == pytest.approx(2.0, abs=0.1)
