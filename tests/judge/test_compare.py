"""Planted predictors get the scores that they must have, and what goes wrong in one is a line of its own."""

import warnings
from collections.abc import Callable
from functools import partial
from math import asin, isnan, pi
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from solset import (
    Add,
    Decay,
    Move,
    Problem,
    Relabel,
    Remove,
    SolsetWarning,
    Training,
    compare,
    goals,
)
from solset.changes import Change
from solset.judge import (
    ByAttribution,
    ByEstimate,
    ByScores,
    Comparison,
    agreement_of_halves,
    bootstrap_interval,
    gradient_products,
    noise_ceiling,
    random_scores,
    rank_agreement,
    truth_of,
)
from solset.retraining import Newton
from solset.training import Run

COUNT, TESTS = 24, 3


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


GOAL = goals.PointLosses(draw(TESTS, 3, seed=5), draw(TESTS, 1, seed=6))
X, Y = draw(COUNT, 3), draw(COUNT, 1, seed=1)


@pytest.fixture(scope="module")
def run() -> Run:
    sgd = partial(torch.optim.SGD, lr=0.05)
    make = lambda: nn.Linear(3, 1).double()  # noqa: E731
    return Training(make, nn.MSELoss(), X, Y, optimizer=sgd, epochs=4, batch_size=6).run()


def removals(count: int = 12) -> list[Remove]:
    generator = torch.Generator().manual_seed(2)
    return [Remove(sorted(torch.randperm(COUNT, generator=generator)[:5].tolist())) for _ in range(count)]


@pytest.fixture(scope="module")
def judged(run: Run) -> Comparison:
    changes = removals()
    first = compare(run, changes, GOAL, {"nothing": random_scores(COUNT, TESTS)}, seeds=[1, 2, 3])
    real = first.truth.mean

    def breaks(changes: object, goal: object) -> Tensor:
        raise RuntimeError("no such kernel\nand more")

    def touches(changes: object, goal: object) -> Tensor:
        with torch.no_grad():
            next(run.model.parameters()).add_(1.0)
        return real

    def freezes(changes: object, goal: object) -> Tensor:
        run.model.get_parameter("bias").requires_grad_(False)
        return real

    def sets_the_mode(changes: object, goal: object) -> Tensor:
        run.model.train()
        return real

    predictors = {
        "raises": breaks,
        "freezes": freezes,
        "changes the mode": sets_the_mode,
        "returns words": lambda *_: "words",
        "changes the model": touches,
        "wrong shape": lambda *_: real[:3],
        "not finite": lambda *_: real * float("nan"),
        "flipped": lambda *_: -real,
        "random": random_scores(COUNT, TESTS),
        "oracle": lambda *_: real,
        "a list of arrays": lambda *_: [row.numpy() for row in real],
        "the run": ByAttribution(run),
        "one estimate each": ByEstimate(run),
    }
    return compare(run, changes, GOAL, predictors, seeds=[1, 2, 3], truth=first.truth)


def test_planted_predictors_have_the_scores_that_they_must_have(judged: Comparison) -> None:
    scores = {one.predictor: one for one in judged.scores}
    assert judged.scores[0].predictor == "oracle"
    assert scores["oracle"].mean == pytest.approx(1)
    assert scores["oracle"].error == 0
    assert scores["flipped"].mean == pytest.approx(-1)
    assert scores["random"].low < 0 < scores["random"].high
    assert scores["the run"].low > scores["random"].high
    assert 0.5 < judged.halves < judged.ceiling < 1
    assert "best: oracle, 1.00" in repr(judged)
    assert judged.to_dataframe().predictor[0] == "oracle"
    assert "flipped" in [label.get_text() for label in judged.plot().axes[0].get_yticklabels()]


def test_a_lead_is_the_difference_of_two_scores_with_its_interval(judged: Comparison) -> None:
    scores = {one.predictor: one for one in judged.scores}
    lead, low, high = judged.lead("oracle", "random")
    assert lead == pytest.approx(1 - scores["random"].mean)
    assert 0 < low < lead < high
    assert judged.lead("the run", "the run") == (0, 0, 0)
    with pytest.raises(ValueError, match="predictor"):
        judged.lead("oracle", "raises")


def test_a_linear_prediction_ranks_changes_as_the_goals_at_the_tangent_do(judged: Comparison) -> None:
    scores = {one.predictor: one for one in judged.scores}
    assert scores["one estimate each"].same_seed == pytest.approx(scores["the run"].same_seed, abs=0.05)


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("raises", "RuntimeError: no such kernel"),
        ("changes the model", "it changed the model: weight"),
        ("changes the mode", "it changed the model: the model"),
        ("freezes", "it changed the model: bias"),
        ("returns words", "TypeError: `predictor` must be numbers; got str. Return a tensor or an array."),
        ("wrong shape", "shape (3, 3) where there are 12 changes of 3 goals"),
        ("not finite", "predictions that are not finite"),
    ],
)
def test_what_goes_wrong_in_a_predictor_is_a_note(judged: Comparison, name: str, note: str) -> None:
    score = next(one for one in judged.scores if one.predictor == name)
    assert isnan(score.mean)
    assert score.note == note
    assert name in judged.message


def test_numbers_are_taken_in_any_form(judged: Comparison) -> None:
    score = next(one for one in judged.scores if one.predictor == "a list of arrays")
    assert score.error == 0


def test_the_model_is_as_before_after_a_predictor_that_changed_it(judged: Comparison, run: Run) -> None:
    assert not run.model.training
    assert all(part.requires_grad for part in run.model.parameters())
    assert torch.equal(next(run.model.parameters()).flatten(), run.weights[:3])


def test_the_same_call_gives_the_same_table(run: Run) -> None:
    tables = [
        compare(run, removals(6), GOAL, {"products": random_scores(COUNT, TESTS)}, seeds=[7])
        for _ in range(2)
    ]
    assert torch.equal(tables[0].truth.changes, tables[1].truth.changes)
    assert tables[0].scores[0].low == tables[1].scores[0].low


def fitted_line() -> Problem:
    """A linear model at its minimum with weight decay."""
    eye, decay = torch.eye(3, dtype=torch.float64), 0.1
    model = nn.Linear(3, 1, bias=False).double().eval()
    solution = torch.linalg.solve(2 / COUNT * X.T @ X + decay * eye, 2 / COUNT * X.T @ Y)
    with torch.no_grad():
        model.weight.copy_(solution.T)
    return Problem(model, nn.MSELoss(), X, Y, weight_decay=decay)


def test_a_step_is_the_truth_of_a_quadratic_and_a_derivative_is_not() -> None:
    problem = fitted_line()
    predictors = {
        "step": ByEstimate(problem),
        "derivative": ByAttribution(problem),
        "products": gradient_products(problem),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SolsetWarning)
        judged = compare(problem, removals(), GOAL, predictors, method=Newton())
    scores = {one.predictor: one for one in judged.scores}
    assert scores["step"].error <= 1e-8
    assert scores["step"].mean == pytest.approx(1)
    assert 1e-3 < scores["derivative"].error < 1
    assert isnan(judged.ceiling)
    assert "one seed" in judged.message


def test_equal_truths_have_no_correlation() -> None:
    problem = fitted_line()
    same = [Remove([3])] * 3
    judged = compare(problem, same, GOAL, {"step": ByEstimate(problem)}, method=Newton())
    assert isnan(judged.scores[0].mean)
    assert "no correlation is defined for 3 goals" in judged.message
    assert "so few changes" in judged.message


ONE = torch.ones(1, 1, dtype=torch.float64)


@pytest.mark.parametrize(
    "change",
    [Move([0], 0.1 * X[:1]), Relabel([0], ONE), Add(X[:1], ONE), Remove([1]) + Decay(0.1)],
    ids=["move", "relabel", "add", "decay in a sum"],
)
def test_scores_of_points_are_judged_by_factors_alone(change: Change) -> None:
    with pytest.raises(ValueError, match="factors for scores of points"):
        random_scores(COUNT, TESTS)([change], GOAL)


@pytest.mark.parametrize("kind", [np.asarray, Tensor.tolist, Tensor.float], ids=["array", "lists", "float32"])
def test_scores_of_another_library_enter_in_any_form(run: Run, kind: Callable[[Tensor], Any]) -> None:
    weights = run.attribute(GOAL, verify=False, features=False, progress=False).weights
    assert weights is not None
    changes = removals(3)
    by_hand, ours = ByScores(kind(weights), COUNT)(changes, GOAL), ByAttribution(run)(changes, GOAL)
    torch.testing.assert_close(by_hand, ours.double(), rtol=1e-6, atol=1e-12)


def test_scores_of_another_number_of_points_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`scores` must be \(goals, 24\); got shape \(3, 60\)"):
        ByScores(torch.ones(3, 60), COUNT)(removals(1), GOAL)


def test_a_truth_of_something_else_is_refused(run: Run, judged: Comparison) -> None:
    given = {"predictors": {"random": random_scores(COUNT, TESTS)}, "truth": judged.truth}
    others = [Remove([k]) for k in range(12)]
    other_goal = goals.PointLosses(draw(TESTS, 3, seed=8), draw(TESTS, 1, seed=9))
    with pytest.raises(ValueError, match="truth"):
        compare(run, others, GOAL, **given)
    with pytest.raises(ValueError, match="truth"):
        compare(run, removals(), other_goal, **given)
    with pytest.raises(ValueError, match="seeds"):
        compare(run, removals(), GOAL, seeds=[4], **given)


def test_a_retraining_that_fails_leaves_its_change_out(run: Run) -> None:
    changes = [*removals(4), Remove([99])]
    oracle = truth_of(run, changes[:4], GOAL).mean
    predicted = torch.cat([oracle, torch.zeros(1, TESTS, dtype=torch.float64)])

    def oracle_again(changes: object, goal: object) -> Tensor:
        return predicted

    judged = compare(run, changes, GOAL, {"oracle": oracle_again}, seeds=[5])
    assert "change 4 failed with seed 0" in judged.message
    assert "left out: 4" in judged.message
    assert judged.scores[0].same_seed == pytest.approx(1)
    with pytest.raises(ValueError, match="99"):
        truth_of(run, [Remove([99])], GOAL)


def test_what_a_predictor_warns_of_stands_beside_its_score(run: Run) -> None:
    def doubtful(changes: object, goal: object) -> Tensor:
        warnings.warn("it does not hold", SolsetWarning, stacklevel=1)
        return draw(3, TESTS)

    judged = compare(run, removals(3), GOAL, {"guess": doubtful})
    assert judged.scores[0].note == "it does not hold"
    assert "warned themselves: guess" in judged.message


def test_nobody_is_asked_after_a_model_was_replaced() -> None:
    training = Training(
        lambda: nn.Linear(3, 1).double(), nn.MSELoss(), X, Y, optimizer=partial(torch.optim.SGD, lr=0.05)
    )
    run = training.run()

    def reparametrises(changes: object, goal: object) -> Tensor:
        nn.utils.parametrizations.weight_norm(run.model)
        return draw(3, TESTS)

    predictors = {"breaker": reparametrises, "next": random_scores(COUNT, TESTS)}
    judged = compare(run, removals(3), GOAL, predictors)
    notes = {one.predictor: one.note for one in judged.scores}
    assert notes["breaker"] == "it replaced parts of the model; let it work on a copy"
    assert notes["next"] == "it was not asked, since breaker replaced parts of the model"


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"seeds": [1, 1]}, ValueError, "stands twice"),
        ({"seeds": [0]}, ValueError, "stands twice"),
        ({"method": Newton()}, TypeError, "a run, whose recipe is run again"),
        ({"changes": []}, ValueError, "changes"),
        ({"predictors": {}}, ValueError, "predictors"),
    ],
)
def test_what_fits_nothing_is_refused(run: Run, options: dict, error: type[Exception], text: str) -> None:
    given = {"changes": removals(2), "goal": GOAL, "predictors": {"random": random_scores(COUNT, TESTS)}}
    with pytest.raises(error, match=text):
        compare(run, **{**given, **options})


def test_a_problem_has_no_seeds_and_needs_a_method() -> None:
    problem = fitted_line()
    with pytest.raises(TypeError, match="method"):
        compare(problem, removals(2), GOAL, {"step": ByEstimate(problem)})
    with pytest.raises(ValueError, match="seeds"):
        compare(problem, removals(2), GOAL, {"step": ByEstimate(problem)}, method=Newton(), seeds=[1])


class TestStatistics:
    def test_goals_without_a_correlation_are_left_out(self) -> None:
        real = torch.tensor([[1.0, 5.0], [2.0, 5.0], [3.0, 5.0]])
        assert rank_agreement(real, real) == pytest.approx(1)

    def test_ties_have_the_mean_rank(self) -> None:
        from scipy.stats import spearmanr

        a, b = (torch.randint(0, 4, (20, 1), generator=torch.Generator().manual_seed(s)) for s in (0, 1))
        expected = spearmanr(a.numpy().ravel(), b.numpy().ravel())[0]
        assert rank_agreement(a, b) == pytest.approx(expected, abs=1e-12)

    def test_halves_of_equal_seeds_agree_and_of_noise_do_not(self) -> None:
        signal = draw(30, 4)
        assert agreement_of_halves(signal.expand(4, 30, 4)) == pytest.approx(1)
        assert abs(agreement_of_halves(draw(4, 200, 4))) < 0.1

    def test_an_interval_holds_the_score_and_narrows(self) -> None:
        real = draw(40, 5)
        predicted = real + draw(40, 5, seed=1)
        low, high = bootstrap_interval(predicted, real)
        assert low < rank_agreement(predicted, real) < high
        few = bootstrap_interval(predicted[:10], real[:10])
        assert few[1] - few[0] > high - low

    @pytest.mark.parametrize("goals_together", [1, 8])
    def test_intervals_hold_the_score_over_endless_changes(self, goals_together: int) -> None:
        # For a normal pair with correlation r the rank correlation is 6/π asin(r/2).
        r, trials, inside = 0.8, 120, 0
        endless = 6 / pi * asin(r / 2)
        for trial in range(trials):
            real, noise = (
                draw(24, goals_together, seed=2 * trial),
                draw(24, goals_together, seed=2 * trial + 1),
            )
            low, high = bootstrap_interval(r * real + (1 - r * r) ** 0.5 * noise, real, samples=200)
            inside += low <= endless <= high
        assert inside / trials >= 0.85

    def test_a_prediction_without_noise_scores_at_the_ceiling(self) -> None:
        signal = draw(4000, 2)
        seeds = signal + 1.5 * draw(4, 4000, 2, seed=1)
        ceiling = noise_ceiling(agreement_of_halves(seeds))
        assert rank_agreement(signal, seeds.mean(0)) == pytest.approx(ceiling, abs=0.03)
        assert isnan(noise_ceiling(-0.1))
