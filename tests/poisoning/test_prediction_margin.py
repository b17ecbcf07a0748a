"""The smallest budget that flips a prediction: in closed form, and against real re-solving."""

from collections.abc import Callable
from dataclasses import replace
from math import inf, nan, sqrt

import pytest
import torch
from torch import Tensor, nn

from solset import Move, Problem, retrain
from solset.errors import Status
from solset.poisoning import Ascent, Budget, MarginReason, PredictionMargin, stability_margin
from solset.poisoning._prediction_attack import Attack, Trial, outputs_at
from solset.retraining import GradientDescent, LevenbergMarquardt, Newton, Retrained
from solset.risk import EmpiricalRisk
from solset.solvers import filters


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def ridge() -> Problem:
    """Two outputs linear in the weights, one point a class: the mean of the targets, with x = (1) fixed."""
    model = nn.Linear(2, 2, bias=False).double().eval()
    with torch.no_grad():
        model.weight.copy_(torch.eye(2))
    eye = torch.eye(2, dtype=torch.float64)
    return Problem(model, nn.MSELoss(), eye, eye, target_moves=False)


def outputs(problem: Problem, margin: PredictionMargin, x: Tensor) -> Tensor:
    method = LevenbergMarquardt(output_tol=1e-10, max_steps=60)
    weights = retrain(problem, Move(margin.points, margin.dx), method=method).weights
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
        assert [trial.radius for trial in margin.trials] == [0.0, 0.01]
        assert not any(trial.is_flipped for trial in margin.trials)
        assert margin.reason is MarginReason.TOO_SMALL

    def test_valid_features_can_make_it_larger(self):
        problem, x = ridge(), torch.tensor([1.0, 0.8], dtype=torch.float64)
        free = stability_margin(problem, x, Budget([0, 1], 0.9), ascent=None)
        boxed = stability_margin(problem, x, Budget([0, 1], 0.9, lower=0.0, upper=1.0), ascent=None)
        assert boxed.linear > free.linear
        moved, _ = problem.risk().move([0, 1], boxed.dx).points[[0, 1]]
        assert bool(((moved >= 0) & (moved <= 1)).all())


def test_after_training_of_a_stated_duration(fitted):
    problem, flow = fitted.problem(), filters.GradientFlow(30, 0.03)
    x = doubtful(problem)
    margin = stability_margin(problem, x, Budget([4, 1], 1.0), element=flow)
    assert margin.reason is MarginReason.BRACKETED
    assert 0 < margin.unflipped < margin.verified <= 1.02 * margin.unflipped / (1 - 0.02)
    assert margin.verified == pytest.approx(margin.linear, rel=0.35)
    gaps = {trial.radius: trial.gap for trial in margin.trials}
    real = retrain(problem, Move([4, 1], margin.dx), method=GradientDescent(30, 0.03)).weights
    values = outputs_at(problem.risk(), real, x.unsqueeze(0))
    assert float(values[margin.label] - values[margin.rival]) == gaps[margin.verified] < 0
    assert gaps[margin.unflipped] >= 0


def doubtful(problem: Problem) -> Tensor:
    """A test input whose two outputs are close to one another: between one of each class."""
    with torch.no_grad():
        candidates = draw(50, 3, seed=3)
        outputs = problem.risk().forward(problem.risk().layout.split(problem.weights()), candidates)
    gaps = outputs[:, 0] - outputs[:, 1]
    return candidates[int(gaps.abs().argmin())]


@pytest.fixture(scope="module")
def drifting() -> tuple[Problem, Tensor]:
    """A classifier that was hardly trained, and a test input whose prediction training on changes."""
    g = torch.Generator().manual_seed(0)
    inputs = torch.randn(10, 4, generator=g, dtype=torch.float64)
    labels = torch.randint(0, 2, (10,), generator=g)
    model = nn.Linear(4, 2, bias=False).double().eval()
    nn.init.normal_(model.weight, std=0.1, generator=g)
    problem = Problem(model, nn.CrossEntropyLoss(), inputs, labels, gradient_tol=inf)
    still = torch.zeros(1, 4, dtype=torch.float64)
    end = retrain(problem, Move([0], still), method=GradientDescent(50, 0.5)).weights.reshape(2, 4)
    unseen = torch.randn(200, 4, generator=g, dtype=torch.float64)
    before, after = (unseen @ model.weight.detach().T).argmax(1), (unseen @ end.T).argmax(1)
    return problem, unseen[int((before != after).nonzero()[0, 0])]


@pytest.mark.parametrize("ascent", [None, Ascent(max_rounds=1)])
def test_a_prediction_that_clean_retraining_flips_has_no_margin(drifting, ascent):
    problem, x = drifting
    flow = filters.GradientFlow(50, 0.5)
    margin = stability_margin(problem, x, Budget([0, 1], 0.5), element=flow, ascent=ascent)
    assert margin.reason is MarginReason.FLIPS_BY_ITSELF
    assert [(trial.radius, trial.is_flipped) for trial in margin.trials] == [(0.0, True)]
    assert (margin.linear, margin.verified, margin.unflipped) == (0.0, 0.0, 0.0)
    assert not margin.dx.any()


class Broken:
    """Re-solving that works up to a size of the move only."""

    def __init__(self, limit: float, end: Status) -> None:
        self.limit, self.end, self.inner = limit, end, LevenbergMarquardt(output_tol=1e-10, max_steps=60)
        self.start: Tensor | None = None

    def run(self, start: EmpiricalRisk, target: Callable[[], Tensor]) -> Retrained:
        inputs, _ = start.points[[0, 1]]
        found = self.inner.run(start, target)
        if float((inputs - torch.eye(2, dtype=torch.float64)).norm()) <= self.limit:
            return found
        weights = found.weights * (nan if self.end is Status.NONFINITE else 1.0)
        return replace(found, weights=weights, status=self.end)


@pytest.mark.parametrize("end", [Status.NONFINITE, Status.INCONSISTENT, Status.DIVERGED])
def test_what_could_not_be_solved_counts_neither_way(end):
    problem, x = ridge(), torch.tensor([1.0, 0.8], dtype=torch.float64)
    budget = Budget([0, 1], 0.9, scope="total")
    whole = stability_margin(problem, x, budget, ascent=None)
    limit = 0.9 * whole.verified
    margin = stability_margin(problem, x, budget, ascent=None, method=Broken(limit, end))
    assert margin.reason is MarginReason.NOT_SOLVED
    assert margin.verified == inf
    assert 0.9 * limit < margin.unflipped <= limit
    assert len(margin.trials) < 20
    failed = [trial for trial in margin.trials if trial.radius > limit]
    assert failed
    assert all((trial.status, trial.is_flipped) == (end, False) for trial in failed)


class Stuck(LevenbergMarquardt):
    """Steps that never come to the set."""

    def _onto_set(self, risk: EmpiricalRisk, target: Tensor) -> tuple[EmpiricalRisk, int]:
        assert target.shape == (2, 2)
        return risk, 0


@pytest.mark.parametrize("method", [Newton(max_steps=0), Stuck(max_steps=0)])
def test_the_end_of_a_solver_that_missed_the_set_is_no_solution(method):
    problem, x = ridge(), torch.tensor([1.0, 0.8], dtype=torch.float64)
    margin = stability_margin(problem, x, Budget([0, 1], 0.9), ascent=None, method=method)
    assert margin.trials[0].is_solved  # nothing has moved
    assert {trial.status for trial in margin.trials[1:]} == {Status.INCONSISTENT}
    assert (margin.reason, margin.verified, margin.unflipped) == (MarginReason.NOT_SOLVED, inf, 0.0)
    assert len(margin.trials) < 12


def test_on_the_set_but_not_settled_at_its_nearest_point_is_a_solution():
    problem, x = ridge(), torch.tensor([1.0, 0.8], dtype=torch.float64)
    method = LevenbergMarquardt(
        output_tol=1e-30, max_steps=0
    )  # a tolerance that rounding does not let it reach
    margin = stability_margin(problem, x, Budget([0, 1], 0.9), ascent=None, method=method)
    assert margin.reason is MarginReason.BRACKETED
    assert all(trial.is_solved for trial in margin.trials)


def test_data_that_cannot_be_solved_as_they_are_give_no_margin():
    problem, x = ridge(), torch.tensor([1.0, 0.8], dtype=torch.float64)
    method = Broken(-1.0, Status.NONFINITE)
    margin = stability_margin(problem, x, Budget([0, 1], 0.9), ascent=None, method=method)
    assert (margin.reason, margin.verified, margin.unflipped) == (MarginReason.NOT_SOLVED, inf, 0.0)
    assert len(margin.trials) == 1


def test_the_search_ends_where_every_radius_flips(monkeypatch):
    # At the data as they are the gap is open, at any other it is closed: no bracket can be closed.
    def always(self: Attack, radius: float) -> tuple[Trial, Tensor]:
        dx = torch.zeros(2, 2, dtype=torch.float64)
        return Trial(radius, -1.0 if radius > 0 else 0.2, 0.1, Status.CONVERGED), dx

    monkeypatch.setattr(Attack, "at", always)
    problem, x = ridge(), torch.tensor([1.0, 0.8], dtype=torch.float64)
    margin = stability_margin(problem, x, Budget([0, 1], 0.9))
    assert margin.reason is MarginReason.NO_LOWER_END
    assert len(margin.trials) < 12
    assert 0 < margin.verified < margin.linear
    assert margin.unflipped == 0.0


@pytest.mark.parametrize(
    ("inputs", "budget", "options", "says"),
    [
        (draw(3), Budget([0], 1.0), {}, r"`inputs` must be of shape"),
        (draw(2, 2), Budget([0], 1.0), {}, "`inputs` must be one test input; got 2"),
        (torch.ones(2).double(), Budget([0], 1.0), {}, "`inputs` must be a test input with one largest"),
        (draw(2), Budget([0], 0.0), {}, "`budget` must be of a positive radius; got 0.0"),
        (draw(2), Budget([0], 1.0), {"radius_tol": 0.0}, r"`radius_tol` must be in \(0, 1\); got 0.0"),
    ],
)
def test_bad_calls_are_refused(inputs, budget, options, says):
    with pytest.raises(ValueError, match=says):
        stability_margin(ridge(), inputs, budget, **options)


def test_one_output_has_no_classes(isolated_net):
    case, weight_decay = isolated_net
    with pytest.raises(ValueError, match="`problem` must be a classifier with two outputs or more; got 1"):
        stability_margin(case.problem(weight_decay=weight_decay), draw(3), Budget([0], 1.0))
