"""Retraining followed in time, against real gradient descent and closed forms."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from solset import Move, Problem, Remove, Reweight, SolsetWarning, retrain
from solset.courses import Course, StopReason
from solset.retraining import LBFGS, GradientDescent, follow_retraining
from solset.solvers import filters

pytestmark = pytest.mark.filterwarnings("ignore:the retraining")

MOVED, RATE = [4, 1], 0.02


def direction(seed: int = 0, size: float = 0.3) -> Tensor:
    draw = torch.randn(2, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return size * draw


def followed(problem: Problem, **options) -> Course:
    return follow_retraining(problem, Move(MOVED, direction()), **{"learning_rate": RATE, **options})


def truth(problem: Problem, steps: int, record_at=()) -> dict[int, Tensor]:
    method = GradientDescent(steps, RATE, record_at=(*record_at, steps))
    return retrain(problem, Move(MOVED, direction()), method=method).course


def error(course: Course, place: int, weights: Tensor) -> float:
    by_place = dict(zip((s.place for s in course.stations), course.trail, strict=True))
    return float((by_place[place] - weights).norm() / (weights - course.trail[0]).norm())


def test_a_network_linear_in_its_weights_takes_one_build_and_is_exact():
    g = torch.Generator().manual_seed(0)
    inputs, targets = (torch.randn(6, k, generator=g, dtype=torch.float64) for k in (9, 2))
    model = nn.Linear(9, 2, bias=False).double().eval()
    with torch.no_grad():
        model.weight.copy_((torch.linalg.pinv(inputs) @ targets).T)
    problem, dx = Problem(model, nn.MSELoss(), inputs, targets), torch.ones(1, 9, dtype=torch.float64)
    found = follow_retraining(problem, Move([2], dx), steps=200, learning_rate=RATE)
    real = retrain(problem, Move([2], dx), method=GradientDescent(200, RATE))
    assert float((found.change - real.change).norm() / real.change.norm()) <= 1e-10
    assert found.stations[-1].error <= 1e-10
    assert "1 builds" in found.message


@pytest.fixture(scope="module")
def softmax() -> tuple[Problem, Tensor]:
    """A network linear in its weights under cross-entropy; three points move by half of their norms."""
    g = torch.Generator().manual_seed(0)
    inputs = torch.randn(12, 6, generator=g, dtype=torch.float64)
    labels = torch.randint(0, 3, (12,), generator=g)
    model = nn.Linear(6, 3, bias=False).double().eval()
    nn.init.zeros_(model.weight)
    start = Problem(model, nn.CrossEntropyLoss(), inputs, labels, gradient_tol=float("inf"))
    descent = GradientDescent(2000, 0.5)
    end = retrain(start, Move(None, torch.zeros_like(inputs)), method=descent).weights
    nn.utils.vector_to_parameters(end, model.parameters())
    dx = torch.randn(3, 6, generator=g, dtype=torch.float64)
    dx = 0.5 * dx / dx.norm(dim=1, keepdim=True) * inputs[:3].norm(dim=1, keepdim=True)
    return Problem(model, nn.CrossEntropyLoss(), inputs, labels, gradient_tol=float("inf")), dx


@pytest.mark.parametrize("steps", [100, 1000, 5000])
def test_a_loss_that_changes_its_curvature_takes_more_segments_than_one(softmax, steps):
    problem, dx = softmax
    options = {"steps": steps, "learning_rate": 0.5}
    real = retrain(problem, Move([0, 1, 2], dx), method=GradientDescent(steps, 0.5))
    errors, defects = [], []
    for builds, tol in ((1, 0.05), (12, 0.05), (31, 0.01)):
        found = follow_retraining(problem, Move([0, 1, 2], dx), max_builds=builds, max_defect=tol, **options)
        errors.append(float((found.change - real.change).norm() / real.change.norm()))
        defects.append(max(station.error for station in found.stations))
    assert errors[0] > 0.05
    assert defects[0] > 0.05  # and it says so
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] <= 0.005


def test_weight_decay_is_part_of_the_flow():
    g = torch.Generator().manual_seed(0)
    inputs, targets = (torch.randn(6, k, generator=g, dtype=torch.float64) for k in (9, 2))
    model = nn.Linear(9, 2, bias=False).double().eval()
    nn.init.zeros_(model.weight)
    problem = Problem(model, nn.MSELoss(), inputs, targets, weight_decay=0.1, gradient_tol=10.0)
    dx = torch.ones(1, 9, dtype=torch.float64)
    found = follow_retraining(problem, Move([2], dx), steps=50, learning_rate=RATE)
    real = retrain(problem, Move([2], dx), method=GradientDescent(50, RATE))
    assert float((found.change - real.change).norm() / real.change.norm()) <= 1e-10


def test_it_is_nearer_to_real_training_than_the_linear_element(fitted):
    problem, steps = fitted.problem(), 400
    found, real = followed(problem, steps=steps, record_at=(20,)), truth(problem, steps, (20,))
    assert found.reason is StopReason.END
    changes = problem.derivative(points=MOVED)(direction())
    for k in (20, steps):
        first = changes.element(filters.GradientFlow(k, RATE)).value + problem.weights()
        linear = float((first - real[k]).norm() / (real[k] - problem.weights()).norm())
        assert error(found, k, real[k]) <= 0.1
        assert error(found, k, real[k]) <= 0.5 * linear


def test_more_builds_are_nearer(fitted):
    problem, steps = fitted.problem(), 400
    real = truth(problem, steps)[steps]
    errors = [
        error(followed(problem, steps=steps, max_defect=1e-9, max_builds=n), steps, real) for n in (2, 6, 20)
    ]
    assert errors[0] > errors[1] > errors[2]


@pytest.mark.parametrize("builds", [1, 2, 5])
def test_never_takes_more_builds_than_granted(fitted, builds):
    found = followed(fitted.problem(), steps=100, max_defect=1e-9, max_builds=builds)
    assert found.end.place == 100
    assert f"{builds} builds" in found.message


def test_classification_with_a_leftover_gradient(build_case):
    problem = build_case("tanh-ce-mean").problem()
    real = truth(problem, 60)[60]
    errors = [
        error(followed(problem, steps=60, max_defect=1e-9, max_builds=n), 60, real) for n in (6, 20, 60)
    ]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] <= 1e-10  # a build a step is gradient descent itself


def test_records_places_losses_and_cost(fitted):
    problem = fitted.problem()
    found = followed(problem, steps=50, record_at=(7, 50))
    places = [station.place for station in found.stations]
    assert places[0] == 0
    assert {7.0, 50.0} <= set(places)
    assert places == sorted(set(places))
    risk = problem.risk().move(MOVED, direction()).at(found.weights)
    assert found.end.all_loss == pytest.approx(float(risk.losses().mean()))
    assert found.end.moved_loss == pytest.approx(float(risk.losses()[MOVED].mean()))
    assert found.end.residual == pytest.approx(float(risk.gradient().norm()))
    assert found.stations[0].all_loss > found.end.all_loss
    assert found.end.gradients >= 2  # rows of a build: one gradient per output


def test_an_interrupted_run_has_the_same_numbers(fitted, tmp_path, monkeypatch):
    from solset.courses import _checkpoint as checkpoint

    options = {"steps": 60, "record_at": (5,), "max_defect": 0.01}
    whole, write = followed(fitted.problem(), **options), checkpoint.CourseFile.write
    file = tmp_path / "course.safetensors"

    def interrupted(self, states, ending=None):
        write(self, states, ending)
        if len(states) > 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.CourseFile, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        followed(fitted.problem(), checkpoint=file, **options)
    monkeypatch.setattr(checkpoint.CourseFile, "write", write)
    again = followed(fitted.problem(), checkpoint=file, **options)
    assert repr(again.stations) == repr(whole.stations)  # the first has no singular value: nan
    assert torch.equal(again.trail, whole.trail)
    with pytest.raises(ValueError, match="differs in steps"):
        followed(fitted.problem(), checkpoint=file, **{**options, "steps": 61})


def test_says_that_descent_itself_would_diverge(fitted):
    with pytest.warns(SolsetWarning, match="diverges"):
        followed(fitted.problem(), steps=3, learning_rate=10.0, max_builds=1)


def diverging() -> tuple[Problem, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Linear(a, b, bias=False) for a, b in ((3, 8), (8, 8), (8, 1))]
        inputs = torch.randn(4, 3)
    model = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2]).double().eval()
    inputs = inputs.double()
    dx = torch.ones(1, 3, dtype=torch.float64)
    return Problem(model, nn.MSELoss(), inputs, model(inputs).detach()), dx


@pytest.mark.filterwarnings("ignore::solset.SolsetWarning")
@pytest.mark.parametrize(("steps", "rate", "builds"), [(400, 1e3, 12), (100, 1e4, 1), (60, 1e4, 3)])
def test_a_retraining_that_overflows_ends_so(tmp_path, steps, rate, builds):
    problem, dx = diverging()
    given = {"steps": steps, "learning_rate": rate, "max_builds": builds}
    for _ in range(2):  # the second reads what the first wrote
        found = follow_retraining(problem, Move([0], dx), checkpoint=tmp_path / "course.safetensors", **given)
        assert found.reason is StopReason.NONFINITE
        assert f"not finite after step {found.end.place:.0f}" in found.message
        assert bool(torch.isfinite(found.trail).all())
        assert all(s.all_loss < float("inf") for s in found.stations)
        assert all(s.error < float("inf") for s in found.stations)


def test_data_beyond_all_numbers_end_it_at_once():
    problem, dx = diverging()
    found = follow_retraining(problem, Move([0], 1e308 * dx), steps=5, learning_rate=RATE)
    assert found.reason is StopReason.NONFINITE
    assert found.end.place == 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"steps": -1}, "steps"),
        ({"steps": 5, "learning_rate": 0.0}, "learning_rate"),
        ({"steps": 5, "record_at": (6,)}, "record_at"),
        ({"steps": 5, "max_defect": 0.0}, "max_defect"),
        ({"steps": 5, "max_builds": 0}, "max_builds"),
    ],
)
def test_bad_calls_are_refused(fitted, options, says):
    with pytest.raises(ValueError, match=says):
        followed(fitted.problem(), **options)


@pytest.mark.parametrize("steps", [30, 300])
def test_a_residual_counts_in_the_defect(steps):
    # Eight points that 21 weights do not fit: the slopes of the loss hardly change, J does.
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 1)).double().eval()
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(8, 2, generator=generator, dtype=torch.float64)
    y = 3 + torch.randn(8, 1, generator=generator, dtype=torch.float64)
    problem = Problem(model, nn.MSELoss(), x, y, gradient_tol=100.0)
    change = Move(None, 0.3 * torch.randn(8, 2, generator=generator, dtype=torch.float64))
    course = follow_retraining(problem, change, steps=steps, learning_rate=0.05, max_builds=40)
    real = retrain(problem, change, method=GradientDescent(steps, 0.05, progress=False))
    error = float((course.weights - real.weights).norm() / real.change.norm())
    assert error <= 2 * max(station.error for station in course.stations)
    assert error <= 0.1
    with pytest.warns(SolsetWarning, match=r"its largest defect is .* where 0\.05 is allowed"):
        follow_retraining(problem, change, steps=steps, learning_rate=0.05, max_builds=1)


@pytest.fixture(scope="module")
def decayed() -> tuple[nn.Sequential, Tensor, Tensor, Problem]:
    """A small network at a minimum with weight decay, whose directions of little curvature move slowly."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(8, 3, generator=g, dtype=torch.float64)
    y = torch.sin(x.sum(1, keepdim=True))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 12), nn.Tanh(), nn.Linear(12, 1)).double().eval()
    start = Problem(model, nn.MSELoss(), x, y, weight_decay=1e-3, gradient_tol=float("inf"))
    end = retrain(start, Move(None, torch.zeros_like(x)), method=LBFGS(gradient_tol=1e-5))
    nn.utils.vector_to_parameters(end.weights, model.parameters())
    return model, x, y, Problem(model, nn.MSELoss(), x, y, weight_decay=1e-3)


FACTORED = [Reweight([1, 5], [3.0, -0.5]), Remove([1, 5])]


def test_the_defect_tells_weights_that_are_far_off_where_the_gradient_is_small(decayed):
    *_, problem = decayed
    real = retrain(problem, FACTORED[0], method=GradientDescent(2000, 0.1))
    for builds in (1, 8):
        course = follow_retraining(problem, FACTORED[0], steps=2000, learning_rate=0.1, max_builds=builds)
        off = float((course.change - real.change).norm() / real.change.norm())
        assert off <= 0.03 if builds == 8 else off > 0.1
        assert course.end.error >= off


@pytest.mark.parametrize("change", FACTORED, ids=repr)
def test_losses_of_points_whose_factors_change_are_those_of_the_points(decayed, change):
    model, x, y, problem = decayed
    course = follow_retraining(problem, change, steps=20, learning_rate=0.1)
    factors = torch.ones(8, dtype=torch.float64)
    factors[[1, 5]] = 0.0 if isinstance(change, Remove) else factors.new_tensor([4.0, 0.5])
    for station, weights in zip(course.stations, course.trail, strict=True):
        nn.utils.vector_to_parameters(weights, (there := deepcopy(model)).parameters())
        losses = (there(x) - y).square().squeeze(1).detach()
        assert station.moved_loss == pytest.approx(float(losses[[1, 5]].mean()), rel=1e-10)
        assert station.all_loss == pytest.approx(float(factors @ losses / factors.sum()), rel=1e-10)
    ratio = course.end.residual / course.stations[0].residual
    assert f"the gradient there is {ratio:.2g} of that at the start" in course.message
