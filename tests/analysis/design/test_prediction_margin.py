"""The smallest budget that flips a prediction: in closed form, and against real re-solving."""

from math import inf, sqrt

import pytest
import torch
from torch import Tensor, nn

from solset import Budget, LevenbergMarquardt, Problem, filters, retrain, stability_margin
from solset.analysis.design.prediction_margin import PredictionMargin


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def ridge() -> Problem:
    """Two outputs linear in the weights, one point a class: the mean of the targets, with x = (1) fixed."""
    model = nn.Linear(2, 2, bias=False).double().eval()
    with torch.no_grad():
        model.weight.copy_(torch.eye(2))
    eye = torch.eye(2, dtype=torch.float64)
    return Problem(model, nn.MSELoss(), eye, eye)


def outputs(problem: Problem, margin: PredictionMargin, x: Tensor) -> Tensor:
    method = LevenbergMarquardt(tol=1e-10, max_steps=60)
    weights = retrain(problem, margin.dx, points=margin.points, method=method).weights
    return x @ weights.reshape(2, 2).T


class TestClosedForm:
    # W X = I for the columns x_1, x_2: moving them by D gives W = (I + D)^{-1}, to first order I - D. At the
    # test input (1, t) the gap 1 - t changes by -(d_11 + t d_12 - d_21 - t d_22), one entry for each feature.
    @pytest.mark.parametrize(
        ("norm", "scope", "points", "size"),
        [
            ("l2", "total", [0, 1], lambda t: sqrt(2 * (1 + t * t))),
            ("l2", "per_point", [0, 1], lambda t: sqrt(2) * (1 + t)),
            ("l2", "per_point", [0], lambda _: sqrt(2)),
            ("linf", "per_point", [0, 1], lambda t: 2 * (1 + t)),
        ],
    )
    def test_the_linear_radius_is_the_gap_over_the_dual_norm(self, norm, scope, points, size):
        problem, t = ridge(), 0.8
        x = torch.tensor([1.0, t], dtype=torch.float64)
        margin = stability_margin(problem, x, Budget(points, 0.9, norm, scope), ascent=None)
        assert (margin.label, margin.rival) == (0, 1)
        assert margin.linear == pytest.approx((1 - t) / size(t), rel=1e-5)
        assert margin.verified == pytest.approx(margin.linear, rel=0.35)
        assert margin.unflipped < margin.verified <= 1.02 * margin.unflipped / (1 - 0.02)

    def test_the_verified_perturbation_flips_and_the_smaller_one_does_not(self):
        problem, x = ridge(), torch.tensor([1.0, 0.8], dtype=torch.float64)
        margin = stability_margin(problem, x, Budget([0, 1], 0.9))
        values = outputs(problem, margin, x)
        assert values[1] > values[0]
        flipped = {trial.radius for trial in margin.trials if trial.is_flipped}
        kept = {trial.radius for trial in margin.trials if not trial.is_flipped}
        assert margin.verified == min(flipped)
        assert margin.unflipped == max(kept)
        assert Budget([0, 1], margin.verified).at(problem).contains(margin.dx)

    def test_ranks_the_points_to_guard(self):
        problem, x = ridge(), torch.tensor([1.0, 0.8], dtype=torch.float64)
        ranking = stability_margin(problem, x, Budget([0, 1], 0.9), ascent=None).ranking()
        assert [point for point, _ in ranking] == [0, 1]
        assert [size for _, size in ranking] == pytest.approx([sqrt(2), 0.8 * sqrt(2)])

    def test_a_budget_too_small_flips_nothing(self):
        problem, x = ridge(), torch.tensor([1.0, 0.2], dtype=torch.float64)
        margin = stability_margin(problem, x, Budget([0, 1], 0.01))
        assert (margin.linear, margin.verified, margin.unflipped) == (inf, inf, 0.01)
        assert len(margin.trials) == 1
        assert not margin.trials[0].is_flipped

    def test_valid_features_can_make_it_larger(self):
        problem, x = ridge(), torch.tensor([1.0, 0.8], dtype=torch.float64)
        free = stability_margin(problem, x, Budget([0, 1], 0.9), ascent=None)
        boxed = stability_margin(problem, x, Budget([0, 1], 0.9, lower=0.0, upper=1.0), ascent=None)
        assert boxed.linear > free.linear
        moved, _ = problem.risk().move([0, 1], boxed.dx).points[[0, 1]]
        assert bool(((moved >= 0) & (moved <= 1)).all())


def test_after_training_of_a_stated_duration(fitted):
    problem, flow = fitted.problem(), filters.GradientFlow(30, 0.03)
    margin = stability_margin(problem, draw(3, seed=3), Budget([4, 1], 1.0), element=flow)
    assert margin.trials
    assert margin.linear > 0


@pytest.mark.parametrize(
    ("inputs", "budget", "options", "says"),
    [
        (draw(3), Budget([0], 1.0), {}, r"`inputs` must be of shape"),
        (draw(2, 2), Budget([0], 1.0), {}, "`inputs` must be one test input; got 2"),
        (torch.ones(2).double(), Budget([0], 1.0), {}, "`inputs` must be a test input with one largest"),
        (draw(2), Budget([0], 0.0), {}, "`budget` must be a positive largest radius; got 0.0"),
        (draw(2), Budget([0], 1.0), {"tol": 0.0}, r"`tol` must be in \(0, 1\); got 0.0"),
    ],
)
def test_bad_calls_are_refused(inputs, budget, options, says):
    with pytest.raises(ValueError, match=says):
        stability_margin(ridge(), inputs, budget, **options)


def test_one_output_has_no_classes(isolated_net):
    case, weight_decay = isolated_net
    with pytest.raises(ValueError, match="`problem` must be a classifier with two outputs or more; got 1"):
        stability_margin(case.problem(weight_decay=weight_decay), draw(3), Budget([0], 1.0))
