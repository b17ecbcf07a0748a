"""Section 6: paths of the solution set, folds, and what retraining reaches, at large perturbations."""

from functools import cache

import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor, nn

from solset import Move, Problem, follow_path
from solset.operators import Hessian
from solset.paper import digits
from solset.paths import StopReason
from solset.reports._directions import loss_directions, step_of
from solset.retraining import follow_retraining
from support.fitted_digits import SLOW_DIGITS, STEPS, fitted, followed_densely

pytestmark = SLOW_DIGITS

SMOOTH = 100  # equal steps of the dense integration; half as many end less than 2e-4 away


def compare(activation: str, size: float, steps: int) -> tuple[float, float]:
    """How far the outputs are off at the end, and how far it is from the end of a dense integration."""
    net = fitted(activation)
    dx = net.dx("random", size)
    course = follow_path(net.problem, Move(net.moved, dx), max_error=1e-3)
    assert course.reason is StopReason.END
    kept = net.problem.risk().outputs()
    reached = net.problem.risk().move(net.moved, dx).at(course.weights).outputs()
    off = float((reached - kept).abs().max())
    truth = followed_densely(net, activation, dx, steps)
    error = float((course.weights - truth).norm() / (truth - net.problem.weights()).norm())
    print(
        f"{activation}, {100 * size:g} %: {len(course.stations) - 1} steps, {course.end.gradients:.0f} "
        f"gradients, up to {max(station.held for station in course.stations)} activations held, "
        f"outputs off by {off:.1e}, relative error of the end {error:.1e}, estimated "
        f"{course.error / course.end.length:.1e}"
    )
    return off, error


@pytest.mark.parametrize("size", [0.02, 0.05, 0.2])
def test_a_smooth_path_ends_on_the_set_where_a_dense_integration_does(size: float) -> None:
    off, error = compare("tanh", size, SMOOTH)
    assert off <= 1e-8
    assert error <= 1e-3


@pytest.mark.parametrize(
    ("size", "steps"),
    [
        (0.02, 400),
        pytest.param(0.05, 400, marks=pytest.mark.long),
        pytest.param(0.2, 1600, marks=pytest.mark.long),
    ],
)
def test_a_path_across_kinks_ends_on_the_set_where_a_dense_integration_does(size: float, steps: int) -> None:
    """Equal steps ignore where kinks are: their end is off by the first power of their length."""
    off, error = compare("relu", size, steps)
    assert off <= 1e-8
    assert error <= 1e-3


@cache
def really_retrained(activation: str, kind: str) -> dict[int, Tensor]:
    net = fitted(activation)
    return net.actual(net.dx(kind, 0.2))


@pytest.mark.parametrize("kind", ["random", "cross_entropy"])
@pytest.mark.parametrize(
    ("activation", "builds", "tol", "bound"),
    [("tanh", 12, 0.05, 0.1), ("tanh", 31, 0.01, 0.05), ("relu", 12, 0.05, 0.3), ("relu", 31, 0.01, 0.15)],
)
def test_retraining_is_predicted_at_twenty_percent(
    activation: str, kind: str, builds: int, tol: float, bound: float
) -> None:
    net = fitted(activation)
    course = follow_retraining(
        net.problem,
        Move(net.moved, net.dx(kind, 0.2)),
        steps=max(STEPS),
        learning_rate=net.learning_rate,
        record_at=STEPS,
        max_defect=tol,
        max_builds=builds,
    )
    found = dict(zip((s.place for s in course.stations), course.trail, strict=True))
    actual, start = really_retrained(activation, kind), net.problem.weights()
    errors = [float((found[k] - start - actual[k]).norm() / actual[k].norm()) for k in STEPS]
    print(f"{activation}, {kind}: relative errors at {STEPS} steps {errors}; {course.message}")
    assert max(errors) <= bound


def classifier(weights: Tensor | None = None, seed: int = 0) -> nn.Module:
    """64-32-10 with tanh and biases."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10)).double().eval()
    if weights is not None:
        nn.utils.vector_to_parameters(weights, model.parameters())
    return model


def problem_of(model: nn.Module, **options: float) -> Problem:
    data = digits().part(0, 1000)
    return Problem(model, nn.CrossEntropyLoss(), data.inputs, data.labels, weight_decay=5e-5, **options)


@pytest.mark.parametrize("size", [0.01, 0.02, 0.05])
def test_an_isolated_solution_is_followed_beyond_first_order(reference, size: float) -> None:
    problem = problem_of(classifier(reference.weights))
    course = follow_path(problem, Move(reference.points, reference.dx(size)))
    truth = reference.retrained_change[reference.steps.index(size)]
    error = float((course.change - truth).norm() / truth.norm())
    print(f"{100 * size:g} %: relative error {error:.1e} after {course.end.gradients:.0f} gradients")
    assert error <= 0.01
    # Of these some 30 for each step prove that its ends, and places between, are minima of one branch.
    assert course.end.gradients <= 240


@cache
def trained(seed: int) -> Problem:
    """The same network from another start, trained until its gradient is rounding."""
    risk = problem_of(classifier(seed=seed), gradient_tol=float("inf")).risk()

    def both(x):
        value, gradient = risk.at(torch.from_numpy(x)).value_and_gradient()
        return value, gradient.numpy()

    options = {"maxiter": 6000, "maxfun": 8000, "gtol": 1e-8, "ftol": 0, "maxcor": 50}
    w = torch.from_numpy(minimize(both, risk.weights.numpy(), jac=True, method="L-BFGS-B", options=options).x)
    for _ in range(8):
        gradient = risk.at(w).gradient()
        if gradient.norm() < 1e-12:
            break
        H = Hessian(risk.at(w)).to_dense(256)
        w = w - torch.linalg.solve((H + H.T) / 2, gradient)
    return problem_of(classifier(w))


def test_another_start_folds_and_the_path_says_where() -> None:
    problem = trained(2)
    assert float(problem.gradient().norm()) <= 1e-10
    points = torch.randperm(1000, generator=torch.Generator().manual_seed(0))[:10].tolist()
    inputs, _ = problem.risk().points[points]
    directions, places = loss_directions(problem, points), []
    for size in (0.02, 0.03):
        course = follow_path(problem, Move(points, step_of(inputs, directions, size)))
        print(f"{100 * size:g} %: {course.message}; smallest eigenvalue seen {course.smallest:.1e}")
        assert course.reason is StopReason.FOLD
        assert course.smallest <= 2e-7
        places.append(size * course.end.place)
    assert places[0] == pytest.approx(places[1], rel=0.01)
    assert 0.005 < places[0] < 0.01
