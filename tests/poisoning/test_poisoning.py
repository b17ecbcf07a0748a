"""Perturbations by design: always feasible, judged by re-solving, resumable, plain about why they stop."""

import copy
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from solset import Move, Problem, design_poisoning, retrain
from solset.goals import HeldOutLoss, TargetWeights, WeightFunction
from solset.poisoning import Ascent, BasePoint, Budget, Corrected, Follower, Nearest, Reason, judge_poisoning
from solset.retraining import GradientDescent, LevenbergMarquardt
from solset.solvers import filters

POINTS = [4, 1]
SHORT = Ascent(max_rounds=4, max_steps=2)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def goal() -> HeldOutLoss:
    return HeldOutLoss(draw(5, 3, seed=1), draw(5, 2, seed=2))


class Watched:
    """A follower that keeps where it was sent, and may be interrupted there."""

    def __init__(self, inner: Follower | None = None, stop_at: int = 0) -> None:
        self.inner, self.stop_at = inner or Nearest(), stop_at
        self.seen: list[Tensor] = []

    def follow(self, problem, change, dx, predicted) -> BasePoint:
        self.seen.append(dx)
        if len(self.seen) == self.stop_at:
            raise KeyboardInterrupt
        return self.inner.follow(problem, change, dx, predicted)


class TestFeasibility:
    @settings(max_examples=12, deadline=None)
    @given(
        seed=st.integers(0, 999),
        norm=st.sampled_from(["l2", "linf"]),
        scope=st.sampled_from(["per_point", "total"]),
        radius=st.sampled_from([0.01, 0.3]),
    )
    def test_nothing_leaves_the_budget_or_the_box(self, fitted, seed, norm, scope, radius):
        problem, watched = fitted.problem(), Watched()
        inputs = fitted.inputs[POINTS]
        lower = inputs - 0.2 * draw(2, 3, seed=seed).abs()
        upper = inputs + 0.2 * draw(2, 3, seed=seed + 1).abs()
        budget = Budget(POINTS, radius, norm, scope, lower, upper)
        wish = WeightFunction(lambda w: w @ draw(74, seed=seed + 2))
        settings = Ascent(max_rounds=2, max_steps=2, stride=1.0)
        found = design_poisoning(problem, wish, budget, ascent=settings, follower=watched)
        assert watched.seen
        for dx in [*watched.seen, found.dx]:
            moved, _ = problem.risk().move(POINTS, dx).points[POINTS]
            assert bool(((moved >= lower) & (moved <= upper)).all())
            blocks = dx.reshape(1, -1) if scope == "total" else dx
            sizes = dx.abs().max() if norm == "linf" else max(block.norm() for block in blocks)
            assert float(sizes) <= radius

    def test_a_start_is_kept_to(self, fitted, goal):
        problem, budget = fitted.problem(), Budget(POINTS, 0.1)
        start = budget.at(problem).random(torch.Generator().manual_seed(0))
        found = design_poisoning(problem, goal, budget, start=start, ascent=Ascent(max_rounds=1, stride=0.01))
        assert 0 < float((found.dx - start).norm()) <= 0.01 * 0.1 * 2**0.5 + 1e-12

    @pytest.mark.parametrize(
        ("budget", "start", "says"),
        [
            (Budget(POINTS, 0.1), torch.ones(2, 3).double(), "box of valid features; got one, 2.3"),
            (Budget(POINTS, 0.1), torch.ones(3, 3).double(), r"`start` must be of shape \(2, 3\)"),
            (Budget(POINTS, 9.0, lower=-0.1, upper=0.1), None, "got the clean points"),
            (Budget(POINTS, 0.1, lower=9.0), None, "`budget` must be one that some perturbation keeps"),
        ],
    )
    def test_an_infeasible_start_is_refused(self, fitted, goal, budget, start, says):
        with pytest.raises(ValueError, match=says):
            design_poisoning(fitted.problem(), goal, budget, start=start)


class TestEffect:
    def test_raises_the_goal_at_the_nearest_solution_far_more_than_chance(self, fitted, goal):
        problem, budget = fitted.problem(), Budget(POINTS, 0.05, scope="total")
        found = design_poisoning(problem, goal, budget)
        methods = {"nearest": LevenbergMarquardt(output_tol=1e-10, max_steps=100)}
        (own,) = judge_poisoning(problem, goal, found, methods=methods).verdicts
        feasible, others = budget.at(problem), []
        for seed in range(8):
            dx = feasible.random(torch.Generator().manual_seed(seed))
            (verdict,) = judge_poisoning(problem, goal, Move(POINTS, dx), methods=methods).verdicts
            others.append(verdict.change)
        assert own.change > max(others)
        assert own.change > 2 * sum(map(abs, others)) / len(others)  # six features: chance is not far below
        assert own.predicted == found.predicted
        assert own.poisoned == pytest.approx(found.predicted, rel=1e-3)

    def test_counting_on_gradient_descent_predicts_what_it_reaches(self, fitted, goal):
        problem, element = fitted.problem(), filters.GradientFlow(50, 0.03)
        found = design_poisoning(problem, goal, Budget(POINTS, 0.1), element=element, ascent=SHORT)
        real = retrain(problem, Move(POINTS, found.dx), method=GradientDescent(50, 0.03))
        assert torch.equal(found.weights, real.weights)
        assert found.predicted > found.clean
        assert found.first_order == pytest.approx(found.predicted, rel=0.05)

    def test_is_first_order_for_a_small_budget(self, fitted, goal):
        found = design_poisoning(fitted.problem(), goal, Budget(POINTS, 1e-4, scope="total"))
        rise = float(found.adjoint.gradient.norm()) * 1e-4
        assert found.predicted - found.clean == pytest.approx(rise, rel=1e-2)
        assert found.linear - found.clean == pytest.approx(rise, rel=1e-2)
        assert found.reason is Reason.STATIONARY

    def test_lowers_a_goal_that_is_to_be_lowered(self, isolated_net):
        case, weight_decay = isolated_net
        problem = case.problem(weight_decay=weight_decay)
        goal = HeldOutLoss(draw(1, 3, seed=1), draw(1, 1, seed=2), is_raised=False)
        found = design_poisoning(problem, goal, Budget(POINTS, 0.2), ascent=SHORT)
        assert found.predicted < found.clean

    def test_reaches_weights_that_a_hidden_perturbation_made(self, isolated_net):
        case, weight_decay = isolated_net
        problem, budget = case.problem(weight_decay=weight_decay), Budget(POINTS, 0.2)
        hidden = budget.at(problem).random(torch.Generator().manual_seed(3))
        wanted = problem.estimate(Move(POINTS, hidden)).min_norm().value
        found = design_poisoning(problem, TargetWeights(wanted), budget, ascent=Ascent(max_rounds=12))
        assert (
            found.predicted < 0.5 * found.clean
        )  # steepest ascent is slow where directions differ in effect

    def test_the_course_tells_every_round(self, fitted, goal):
        found = design_poisoning(fitted.problem(), goal, Budget(POINTS, 0.1), ascent=SHORT)
        assert [one.number for one in found.course] == list(range(1, len(found.course) + 1))
        kept = [one.value for one in found.course if one.is_kept]
        assert kept == sorted(kept)
        assert found.predicted == kept[-1]
        assert found.ranking()[0][0] in POINTS

    def test_a_follower_of_ones_own(self, fitted, goal):
        watched = Watched(Corrected(LevenbergMarquardt(max_steps=0)))
        found = design_poisoning(fitted.problem(), goal, Budget(POINTS, 0.1), ascent=SHORT, follower=watched)
        assert not watched.seen[0].any()  # the data as they are come first
        assert len(watched.seen) == 1 + len(found.course)

    def test_changes_neither_model_nor_random_state(self, fitted, goal):
        model = copy.deepcopy(fitted.model)
        problem = replace(fitted, model=model).problem()
        before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
        design_poisoning(problem, goal, Budget(POINTS, 0.1), ascent=SHORT)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert all(value.grad is None for value in model.parameters())
        assert torch.equal(torch.get_rng_state(), random)


class TestStops:
    def test_without_room(self, fitted, goal):
        box = {"lower": fitted.inputs[POINTS], "upper": fitted.inputs[POINTS]}
        for budget in (Budget(POINTS, 0.0), Budget(POINTS, 1.0, **box)):
            found = design_poisoning(fitted.problem(), goal, budget)
            assert not found.dx.any()
            assert (found.reason, found.course) == (Reason.NO_ROOM, ())
            assert found.predicted == found.clean

    def test_where_the_goal_is_not_finite_further_on(self, fitted):
        problem = fitted.problem()
        start, along = problem.weights(), draw(74, seed=3)

        def walled(w: Tensor) -> Tensor:
            return (0.01 - along @ (w - start)).sqrt() * -1.0  # not a number once it has risen by 0.01

        found = design_poisoning(
            problem, WeightFunction(walled), Budget(POINTS, 5.0), ascent=Ascent(max_rounds=60)
        )
        assert -0.1 <= found.clean < found.predicted <= 0.0
        assert found.reason is Reason.NOT_FINITE
        assert 0.009 < float(along @ (found.weights - start)) < 0.01  # as far as that, and not beyond

    def test_where_the_goal_is_nowhere_finite_but_at_the_trained_weights(self, fitted):
        problem = fitted.problem()

        def alone(w: Tensor) -> Tensor:
            is_there = torch.equal(w.detach(), problem.weights())
            return w.sum() * (1.0 if is_there else torch.nan)

        found = design_poisoning(problem, WeightFunction(alone), Budget(POINTS, 0.1))
        assert found.reason is Reason.NOT_FINITE
        assert not found.dx.any()

    def test_where_nothing_depends_on_the_data(self, fitted):
        # A weight that no output depends on is in no range: data cannot move it.
        problem = fitted.problem()
        found = design_poisoning(problem, WeightFunction(lambda w: (0 * w).sum()), Budget(POINTS, 0.1))
        assert found.reason is Reason.STATIONARY
        assert not found.dx.any()

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({"max_rounds": 0}, "`max_rounds` must be at least 1; got 0"),
            ({"max_steps": 0}, "`max_steps` must be at least 1; got 0"),
            ({"stride": 0.0}, r"`stride` must be in \(0, 1\]; got 0.0"),
            ({"min_rise": 1.0}, r"`min_rise` must be in \[0, 1\); got 1.0"),
        ],
    )
    def test_bad_settings_are_refused(self, options, says):
        with pytest.raises(ValueError, match=says):
            Ascent(**options)


class TestCheckpoint:
    def run(self, case, goal, path, **options):
        budget = options.pop("budget", Budget(POINTS, 0.1))
        problem = options.pop("problem", None) or case.problem()
        options = {"ascent": Ascent(max_rounds=5, max_steps=2), **options}
        return design_poisoning(problem, goal, budget, checkpoint=path, **options)

    def test_an_interrupted_search_goes_on_to_the_same_end(self, fitted, goal, tmp_path):
        path, whole = tmp_path / "half.safetensors", self.run(fitted, goal, None, follower=Watched())
        with pytest.raises(KeyboardInterrupt):
            self.run(fitted, goal, path, follower=Watched(stop_at=3))
        assert [entry.name for entry in tmp_path.iterdir()] == ["half.safetensors"]
        watched = Watched()
        resumed = self.run(fitted, goal, path, follower=watched)
        assert (
            len(watched.seen) == 1 + len(whole.course) - 1
        )  # the clean data, and the rounds after the first
        assert torch.equal(resumed.dx, whole.dx)
        assert torch.equal(resumed.weights, whole.weights)
        assert resumed.course == whole.course
        assert resumed.reason == whole.reason
        again = Watched()
        assert torch.equal(self.run(fitted, goal, path, follower=again).dx, whole.dx)
        assert [bool(dx.any()) for dx in again.seen] == [False]

    def test_more_rounds_go_on_from_where_fewer_ended(self, fitted, goal, tmp_path):
        path = tmp_path / "more.safetensors"
        self.run(fitted, goal, path, ascent=Ascent(max_rounds=2, max_steps=2))
        more = self.run(fitted, goal, path)
        assert more.course == self.run(fitted, goal, None).course

    def test_of_something_else_is_refused_by_name(self, fitted, fitted_sum, goal, tmp_path):
        path = tmp_path / "kept.safetensors"
        self.run(fitted, goal, path)
        before = path.read_bytes()
        other_goal = HeldOutLoss(goal.inputs + 1, goal.targets)
        other_data = Problem(
            fitted.model, nn.MSELoss(), fitted.inputs + 0.1, fitted.targets, gradient_tol=float("inf")
        )
        cases = {
            "budget": {"budget": Budget(POINTS, 0.2)},
            "goal": {"goal": other_goal},
            "data": {"problem": other_data},
            "element": {"element": filters.GradientFlow(5, 0.01)},
            "ascent": {"ascent": Ascent(max_rounds=5, max_steps=3)},
            "start": {"start": torch.full((2, 3), 0.01, dtype=torch.float64)},
        }
        for name, options in cases.items():
            options = {"goal": goal, **options}
            with pytest.raises(
                ValueError, match=rf"`checkpoint` must be of this problem.*differs in .*{name}"
            ):
                self.run(fitted, options.pop("goal"), path, **options)
        assert path.read_bytes() == before

    def test_a_function_whose_code_changed_is_noticed(self, fitted, tmp_path):
        path = tmp_path / "kept.safetensors"
        self.run(fitted, WeightFunction(lambda w: w.sum()), path)
        with pytest.raises(ValueError, match="differs in the goal at the trained weights"):
            self.run(fitted, WeightFunction(lambda w: w.square().sum()), path)

    def test_foreign_files_are_left_alone(self, fitted, goal, tmp_path):
        for name, content in {"text": b"years of work", "cut": b"\x10\x00", "empty": b""}.items():
            path = tmp_path / name
            path.write_bytes(content)
            with pytest.raises(ValueError, match="which is not a checkpoint of solset"):
                self.run(fitted, goal, path)
            assert path.read_bytes() == content
        with pytest.raises(ValueError, match="a file in a folder that exists"):
            self.run(fitted, goal, tmp_path / "absent" / "file")


def test_in_single_precision_and_from_a_dataset(fitted, goal):
    small = fitted.to(torch.float32)
    data = torch.utils.data.TensorDataset(small.inputs, small.targets)
    problem = Problem(small.model, small.loss, data, gradient_tol=float("inf"))
    wish, budget = HeldOutLoss(goal.inputs.float(), goal.targets.float()), Budget(POINTS, 0.1, upper=9.0)
    found = design_poisoning(problem, wish, budget, ascent=SHORT)
    exact = design_poisoning(fitted.problem(), goal, Budget(POINTS, 0.1), ascent=SHORT)
    assert found.dx.dtype == torch.float32
    assert budget.at(problem).contains(found.dx)
    assert found.predicted == pytest.approx(exact.predicted, rel=1e-2)
