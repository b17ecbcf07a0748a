"""Paths of solutions: where they end, what they record, where they stop, and how they are taken up again."""

import copy
import json
import warnings

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from solset import Move, Problem, follow_path, retrain
from solset.errors import SolsetWarning, Status
from solset.operators import InformativeRows
from solset.paths import StopReason
from solset.retraining import Newton
from solset.testing import log_slope

pytestmark = pytest.mark.filterwarnings("ignore:the path ended early")

MOVED = [4, 1]


def direction(seed: int = 0, size: float = 0.3) -> Tensor:
    draw = torch.randn(2, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return size * draw


def dense(problem: Problem, dx: Tensor, steps: int) -> Tensor:
    """The end of ``w' = -J⁺ J_x Δx`` by Heun's method in equal steps, with plain torch."""
    risk = problem.risk()
    inputs, _ = risk.points[range(problem.point_count)]
    change = torch.zeros_like(inputs)
    change[MOVED] = dx

    def outputs(w: Tensor, tau: float | Tensor) -> Tensor:
        return risk.forward(risk.layout.split(w), inputs + tau * change).flatten()

    def slope(w: Tensor, tau: float) -> Tensor:
        place = torch.tensor(tau, dtype=w.dtype)
        J, along = torch.func.jacrev(outputs, argnums=(0, 1))(w, place)
        return -torch.linalg.pinv(J) @ along

    w, h = problem.weights(), 1 / steps
    for k in range(steps):
        first = slope(w, k * h)
        w = w + 0.5 * h * (first + slope(w + h * first, (k + 1) * h))
    return w


class Curve(nn.Module):
    """``x + w²``: the solutions of ``x + w² = 1`` fold at ``x = 1``."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(1, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.w.square()


class Hinge(nn.Module):
    """``x + relu(w)``: no solution of ``x + relu(w) = 1`` has ``x > 1``."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(1, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.relu(self.w)


def scalar(model: nn.Module) -> Problem:
    zero, one = torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    return Problem(model.eval(), nn.MSELoss(), zero, one)


@pytest.fixture(scope="module")
def course(fitted):
    return follow_path(fitted.problem(), Move(MOVED, direction()), max_error=1e-4)


class TestKeptOutputs:
    def test_ends_on_the_set(self, fitted, course):
        assert course.reason is StopReason.END
        assert course.optimality == "interpolating"
        problem = fitted.problem()
        moved = problem.risk().move(MOVED, direction()).at(course.weights)
        assert float((moved.outputs() - problem.risk().outputs()).abs().max()) <= 1e-9
        assert course.end.residual <= 1e-9

    def test_ends_where_a_dense_integration_does(self, fitted, course):
        truth = dense(fitted.problem(), direction(), 400)
        assert float((course.weights - truth).norm() / (truth - course.trail[0]).norm()) <= 2e-5

    def test_its_error_falls_with_the_tolerance(self, fitted, course):
        truth, tols = dense(fitted.problem(), direction(), 400), (1e-2, 1e-3, 1e-4)
        ends = [
            follow_path(fitted.problem(), Move(MOVED, direction()), max_error=tol).weights for tol in tols[:2]
        ]
        errors = [
            float((w - truth).norm() / (truth - course.trail[0]).norm()) for w in [*ends, course.weights]
        ]
        assert errors[0] > errors[1] > errors[2]
        assert all(error <= tol for error, tol in zip(errors, tols, strict=True))

    def test_records_the_whole_course(self, fitted, course):
        stations = course.stations
        places = [station.place for station in stations]
        assert places[0] == 0.0
        assert places[-1] == 1.0
        assert places == sorted(places)
        assert course.trail.shape == (len(stations), len(course.weights))
        assert torch.equal(course.trail[0], fitted.problem().weights())
        chords = (course.trail[1:] - course.trail[:-1]).norm(dim=1).cumsum(0)
        assert [s.length for s in stations[1:]] == pytest.approx(chords.tolist())
        assert all(a.gradients < b.gradients for a, b in zip(stations, stations[1:], strict=False))
        assert 0 < course.smallest <= stations[0].smallest
        assert all(s.rows == 12 for s in stations)

    def test_the_smallest_singular_value_is_that_of_the_jacobian(self, fitted, course):
        problem = fitted.problem()
        risk = problem.risk()
        inputs, _ = risk.points[range(problem.point_count)]
        J = torch.func.jacrev(lambda w: risk.forward(risk.layout.split(w), inputs).flatten())(risk.weights)
        assert course.stations[0].smallest == pytest.approx(float(torch.linalg.svdvals(J)[-1]), rel=1e-6)

    def test_interpolates_between_stations(self, course):
        assert torch.equal(course.at(0.0), course.trail[0])
        assert torch.equal(course.at(1.0), course.weights)
        middle = 0.5 * (course.stations[1].place + course.stations[2].place)
        torch.testing.assert_close(course.at(middle), 0.5 * (course.trail[1] + course.trail[2]))

    def test_starts_along_the_graphical_derivative(self, fitted):
        problem, errors, sizes = fitted.problem(), [], (0.04, 0.02, 0.01)
        slope = problem.derivative(points=MOVED)(direction()).min_norm().value
        for size in sizes:
            found = follow_path(problem, Move(MOVED, size * direction()), max_error=1e-4)
            errors.append(float((found.change - size * slope).norm()))
        assert log_slope(sizes, errors) == pytest.approx(2.0, abs=0.1)

    def test_the_nearest_solution_is_no_farther_than_the_end(self, fitted):
        with pytest.warns(SolsetWarning, match="status 'max_steps' at output error"):
            found = follow_path(fitted.problem(), Move(MOVED, direction()), nearest=True)
        assert found.nearest is not None
        assert float(found.nearest.change.norm()) <= float(found.change.norm()) * (1 + 1e-9)

    def test_its_end_can_be_applied_to_a_copy_of_the_model(self, fitted, course):
        before = copy.deepcopy(fitted.model.state_dict())
        changed = course.apply_to(fitted.model)
        joined = torch.cat([value.detach().flatten() for value in changed.parameters()])
        assert torch.equal(joined, course.weights)
        assert all(torch.equal(before[name], value) for name, value in fitted.model.state_dict().items())

    def test_nothing_moves_without_a_perturbation(self, fitted):
        found = follow_path(fitted.problem(), Move(MOVED, torch.zeros(2, 3, dtype=torch.float64)))
        assert found.is_complete
        assert float(found.change.norm()) <= 1e-12

    def test_chosen_rows_keep_the_moved_outputs(self, fitted):
        problem, dx = fitted.problem(), 0.02 * direction()
        found = follow_path(problem, Move(MOVED, dx), rows=InformativeRows(tol=0.4))
        assert found.is_complete
        assert all(station.rows < 12 for station in found.stations)
        moved = problem.risk().move(MOVED, dx).at(found.weights)
        assert float((moved.outputs() - problem.risk().outputs())[MOVED].abs().max()) <= 1e-9

    def test_single_precision(self, fitted):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            problem = fitted.to(torch.float32).problem()
        found = follow_path(problem, Move(MOVED, direction().float()), max_error=1e-3)
        assert found.is_complete
        assert found.end.residual <= 1e-3


class TestIsolatedSolutions:
    def test_ends_where_newtons_method_does(self, isolated_net):
        case, weight_decay = isolated_net
        problem, dx = case.problem(weight_decay=weight_decay), direction(size=0.03)
        found = follow_path(problem, Move(MOVED, dx), max_error=1e-6)
        assert found.is_complete
        assert found.optimality == "stationary"
        truth = retrain(problem, Move(MOVED, dx), method=Newton(gradient_tol=1e-13))
        assert float((found.change - truth.change).norm() / truth.change.norm()) <= 1e-6
        assert found.end.residual <= 1e-7

    def test_the_eigenvalue_is_an_upper_bound_that_holds(self, isolated_net):
        case, weight_decay = isolated_net
        problem = case.problem(weight_decay=weight_decay)
        found = follow_path(problem, Move(MOVED, direction(size=0.03)), max_error=1e-8)
        risk = problem.risk().move(MOVED, direction(size=0.03)).at(found.weights)
        inputs, targets = risk.points[range(problem.point_count)]

        def energy(w: Tensor) -> Tensor:
            decay = 0.5 * weight_decay * w @ w
            return risk.batch_value(risk.layout.split(w), inputs, targets) + decay

        true = float(torch.linalg.eigvalsh(torch.func.jacrev(torch.func.grad(energy))(risk.weights))[0])
        assert true <= found.end.smallest * (1 + 1e-6)
        assert found.end.smallest <= 10 * true

    def test_needs_an_isolated_solution(self, fitted):
        with pytest.raises(ValueError, match="weight decay"):
            follow_path(fitted.problem(), Move(MOVED, direction()), optimality="stationary")

    def test_nearest_is_the_solution_itself(self, isolated_net):
        case, weight_decay = isolated_net
        problem = case.problem(weight_decay=weight_decay)
        found = follow_path(problem, Move(MOVED, direction(size=0.03)), max_error=1e-6, nearest=True)
        assert found.nearest is not None
        assert float((found.nearest.change - found.change).norm()) <= 1e-6 * float(found.change.norm())

    def test_folds_at_the_same_data_however_long_the_perturbation(self, isolated_net):
        case, weight_decay = isolated_net
        problem, places = case.problem(weight_decay=weight_decay), []
        for size in (0.1, 0.3, 3.0, 300.0):
            found = follow_path(problem, Move(MOVED, direction(size=size)))
            assert found.reason is StopReason.FOLD
            assert "fold at τ = " in found.message
            assert found.smallest < 0.05 * found.stations[0].smallest
            places.append(size * found.end.place)
        assert places == pytest.approx([places[0]] * 4, rel=2e-3)


class TestStopping:
    def test_at_a_fold_it_says_where(self):
        found = follow_path(scalar(Curve()), Move(None, torch.full((1, 1), 2.0, dtype=torch.float64)))
        assert found.reason is StopReason.FOLD
        assert found.end.place == pytest.approx(0.5, abs=1e-3)
        assert "fold at τ = 0.49" in found.message or "fold at τ = 0.5" in found.message
        assert found.smallest < 0.2
        assert not found.is_complete

    def test_the_nearest_solution_is_for_the_data_that_were_reached(self):
        problem, dx = scalar(Curve()), torch.full((1, 1), 2.0, dtype=torch.float64)
        found = follow_path(problem, Move(None, dx), nearest=True)
        assert found.reason is StopReason.FOLD
        assert found.nearest is not None
        assert found.nearest.status is Status.CONVERGED
        there = problem.risk().move([0], found.end.place * dx).at(found.nearest.weights)
        assert float(there.outputs()) == pytest.approx(1.0, abs=1e-9)
        assert float(found.nearest.weights) == pytest.approx(float(found.weights), abs=1e-3)

    def test_where_the_rows_lose_their_rank(self):
        found = follow_path(scalar(Hinge()), Move(None, torch.full((1, 1), 2.0, dtype=torch.float64)))
        assert found.reason is StopReason.RANK_LOSS
        assert found.end.place == pytest.approx(0.5, abs=1e-3)

    def test_when_outputs_that_are_not_kept_leave_the_fit(self, fitted):
        few = InformativeRows(tol=0.4)
        found = follow_path(fitted.problem(), Move(MOVED, direction()), rows=few)
        assert found.reason is StopReason.UNFITTED
        assert 0 < found.end.place < 1

    def test_two_points_that_meet_with_different_outputs(self, fitted):
        problem = fitted.problem()
        inputs, _ = problem.risk().points[[4, 1]]
        found = follow_path(problem, Move([4], (inputs[1] - inputs[0])[None]))
        assert found.reason is StopReason.FOLD
        assert 0.9 < found.end.place < 1.0
        assert bool(torch.isfinite(found.weights).all())

    @pytest.mark.parametrize(
        ("size", "reason"), [(1.0, StopReason.RANK_LOSS), (1.2, StopReason.END), (2.0, StopReason.END)]
    )
    def test_two_points_that_meet_with_the_same_target_are_no_fold(self, meeting, size, reason):
        problem = meeting.problem()
        inputs, _ = problem.risk().points[[4, 1]]
        found = follow_path(problem, Move([4], size * (inputs[1] - inputs[0])[None]))
        assert found.reason is reason
        assert found.end.place > 0.99

    def test_after_the_gradients_that_were_granted_and_goes_on_when_given_more(self, fitted, tmp_path):
        given = {"checkpoint": tmp_path / "course.safetensors"}
        short = follow_path(fitted.problem(), Move(MOVED, direction()), max_gradients=20, **given)
        assert short.reason is StopReason.BUDGET
        assert 0 < short.end.place < 1
        whole = follow_path(fitted.problem(), Move(MOVED, direction()), **given)
        assert whole.is_complete
        assert whole.stations[: len(short.stations)] == short.stations


class TestTakingUpAgain:
    @pytest.mark.parametrize("kind", ["fitted", "isolated"])
    def test_an_interrupted_course_has_the_same_numbers(self, request, tmp_path, monkeypatch, kind):
        if kind == "fitted":
            case, options = request.getfixturevalue("fitted"), {}
        else:
            case, weight_decay = request.getfixturevalue("isolated_net")
            options = {"weight_decay": weight_decay}
        dx = direction()
        whole = follow_path(case.problem(**options), Move(MOVED, dx))
        file = tmp_path / "course.safetensors"
        calls = []
        from solset.courses import _checkpoint as checkpoint

        write = checkpoint.CourseFile.write

        def interrupted(self, states, ending=None):
            write(self, states, ending)
            calls.append(len(states))
            if len(states) == 2:
                raise KeyboardInterrupt

        monkeypatch.setattr(checkpoint.CourseFile, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            follow_path(case.problem(**options), Move(MOVED, dx), checkpoint=file)
        monkeypatch.setattr(checkpoint.CourseFile, "write", write)
        again = follow_path(case.problem(**options), Move(MOVED, dx), checkpoint=file)
        assert again.stations == whole.stations
        assert torch.equal(again.trail, whole.trail)

    def test_a_finished_course_is_read_and_not_computed(self, fitted, tmp_path, monkeypatch):
        file = tmp_path / "course.safetensors"
        first = follow_path(fitted.problem(), Move(MOVED, direction()), checkpoint=file)
        from solset.paths import _follow as follow

        monkeypatch.setattr(follow, "FittedSteps", None)
        second = follow_path(fitted.problem(), Move(MOVED, direction()), checkpoint=file)
        assert second.stations == first.stations
        assert torch.equal(second.trail, first.trail)
        assert (second.reason, second.message) == (first.reason, first.message)

    def test_a_fold_is_read_back(self, tmp_path):
        file, dx = tmp_path / "course.safetensors", torch.full((1, 1), 2.0, dtype=torch.float64)
        first = follow_path(scalar(Curve()), Move(None, dx), checkpoint=file)
        second = follow_path(scalar(Curve()), Move(None, dx), checkpoint=file)
        assert (second.reason, second.message) == (first.reason, first.message)

    @pytest.mark.parametrize(
        ("options", "says"),
        [({"dx": 1}, "differs in dx"), ({"max_error": 1e-2}, "max_error"), ({"points": [1, 4]}, "points")],
    )
    def test_refuses_another_path(self, fitted, tmp_path, options, says):
        file = tmp_path / "course.safetensors"
        follow_path(fitted.problem(), Move(MOVED, direction()), checkpoint=file)
        change = Move(options.pop("points", MOVED), direction(options.pop("dx", 0)))
        with pytest.raises(ValueError, match=says):
            follow_path(fitted.problem(), change, checkpoint=file, **options)

    def test_refuses_another_problem_and_says_what_differs(self, fitted, fitted_sum, tmp_path):
        file = tmp_path / "course.safetensors"
        follow_path(fitted.problem(), Move(MOVED, direction()), checkpoint=file)
        with pytest.raises(ValueError, match="loss, reduction"):
            follow_path(fitted_sum.problem(), Move(MOVED, direction()), checkpoint=file)

    def test_leaves_a_file_of_another_kind_alone(self, fitted, tmp_path):
        for name, data in (("text", b"mine"), ("tensors", None)):
            file = tmp_path / name
            if data is None:
                save_file({"mine": torch.ones(1)}, file)
            else:
                file.write_bytes(data)
            before = file.read_bytes()
            with pytest.raises(ValueError, match="not a checkpoint of solset"):
                follow_path(fitted.problem(), Move(MOVED, direction()), checkpoint=file)
            assert file.read_bytes() == before

    def test_needs_a_folder(self, fitted, tmp_path):
        with pytest.raises(ValueError, match="folder that exists"):
            follow_path(fitted.problem(), Move(MOVED, direction()), checkpoint=tmp_path / "no" / "file")

    def test_the_file_is_json_and_tensors(self, fitted, tmp_path):
        file = tmp_path / "course.safetensors"
        course = follow_path(fitted.problem(), Move(MOVED, direction()), checkpoint=file)
        with safe_open(file, framework="pt") as stored:
            content = json.loads(stored.metadata()["solset"])
            assert torch.equal(stored.get_tensor("trail"), course.trail)
        assert len(content["stations"]) == len(course.stations)
