"""Training that had not stopped: what it does by itself is never taken for an effect of the data."""

import warnings
from collections.abc import Callable
from functools import cache
from math import isnan

import pytest
import torch
from torch import Tensor, nn

from solset import Move, Problem, SolsetWarning, design_poisoning, retrain
from solset.goals import HeldOutLoss
from solset.poisoning import Ascent, Budget, Poisoning, Reason, judge_poisoning
from solset.retraining import GradientDescent
from solset.solvers import filters

POINTS, STEPS, RATE = [0, 1, 2], 300, 0.5
METHODS = {"descent": GradientDescent(STEPS, RATE)}
FLOW = filters.GradientFlow(STEPS, RATE)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def labels(count: int, seed: int) -> Tensor:
    return torch.randint(0, 3, (count,), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def unfinished() -> Problem:
    """Cross-entropy without decay never stops: a gradient below the tolerance is left, and moves weights."""
    inputs, targets = draw(20, 4), labels(20, seed=1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 3)).double()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(600):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    problem = Problem(model.eval(), nn.CrossEntropyLoss(), inputs, targets)
    assert float(problem.gradient().norm()) < 1e-3
    return problem


def goal(*, is_raised: bool) -> HeldOutLoss:
    return HeldOutLoss(draw(30, 4, seed=2), labels(30, seed=3), is_raised=is_raised)


@pytest.fixture(scope="module")
def designs(unfinished) -> Callable[[bool], tuple[Poisoning, str]]:
    """The design that raises or lowers the goal, and its warning; each is computed once."""

    @cache
    def design(is_raised: bool) -> tuple[Poisoning, str]:
        with pytest.warns(SolsetWarning, match="training had not stopped") as caught:
            found = design_poisoning(
                unfinished,
                goal(is_raised=is_raised),
                Budget(POINTS, 0.3),
                element=FLOW,
                ascent=Ascent(max_rounds=4),
            )
        return found, str(caught[-1].message)

    return design


@pytest.mark.parametrize("is_raised", [True, False])
def test_the_change_foretold_is_the_one_that_retraining_makes(unfinished, designs, is_raised):
    aim = goal(is_raised=is_raised)
    still = retrain(unfinished, Move(POINTS, 0 * draw(3, 4)), method=METHODS["descent"]).weights
    drift = aim.value(unfinished.risk(), still) - aim.value(unfinished.risk(), unfinished.weights())
    found, warning = designs(is_raised)
    assert f"{drift:.3g}" in warning
    (verdict,) = judge_poisoning(unfinished, aim, found, methods=METHODS).verdicts
    assert found.clean == verdict.clean == aim.value(unfinished.risk(), still)
    assert found.predicted == verdict.poisoned
    assert aim.sign * verdict.change > 0.25 * abs(drift)
    opposite = judge_poisoning(unfinished, aim, Move(POINTS, -found.dx), methods=METHODS, clean=None)
    assert aim.sign * verdict.change > aim.sign * opposite.verdicts[0].change


def test_only_rounds_that_retraining_confirms_are_kept(designs):
    found, _ = designs(True)
    values = [found.clean, *(one.value for one in found.course if one.is_kept)]
    assert values == sorted(values)
    assert len(values) > 1


def test_the_linear_estimate_counts_from_where_clean_training_ends(unfinished):
    aim, flow = goal(is_raised=True), filters.GradientFlow(20, RATE)
    budget = Budget(POINTS, 1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SolsetWarning)
        found = design_poisoning(unfinished, aim, budget, element=flow)
    methods = {"short": GradientDescent(20, RATE)}
    (verdict,) = judge_poisoning(unfinished, aim, found, methods=methods).verdicts
    assert verdict.change > 0
    assert found.linear - found.clean == pytest.approx(verdict.change, rel=0.1)
    assert found.first_order - found.clean == pytest.approx(verdict.change, rel=0.1)


def test_a_finished_problem_starts_at_the_trained_weights(fitted):
    aim, flow = HeldOutLoss(draw(5, 3, seed=1), draw(5, 2, seed=2)), filters.GradientFlow(50, 0.03)
    found = design_poisoning(
        fitted.problem(), aim, Budget([4, 1], 0.1), element=flow, ascent=Ascent(max_rounds=1)
    )
    assert found.clean == pytest.approx(found.adjoint.value, rel=1e-12)


def test_clean_training_that_diverges_ends_the_search(fitted):
    aim, flow = HeldOutLoss(draw(5, 3, seed=1), draw(5, 2, seed=2)), filters.GradientFlow(300, 1e3)
    with (
        pytest.warns(SolsetWarning, match="diverges"),
        pytest.warns(SolsetWarning, match="solving for them ended with status 'nonfinite'"),
    ):
        found = design_poisoning(fitted.problem(), aim, Budget([4, 1], 0.3), element=flow)
    assert found.reason is Reason.NOT_FINITE
    assert (found.course, bool(found.dx.any())) == ((), False)
    assert isnan(found.clean)  # there is nothing to count an effect from
