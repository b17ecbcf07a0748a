"""The audit means something: the joint modulus of a digit orders how far the network really has to go."""

import pytest
import torch
from torch import nn

from solset import Move, Problem, audit, retrain
from solset.errors import Status
from solset.modulus import Audit, spearman
from solset.operators import GaussNewton
from solset.paper import digits
from solset.paper._training import fit_exactly
from solset.reports._directions import step_of
from solset.retraining import GradientDescent, LevenbergMarquardt
from solset.solvers import filters, largest_eigenvalue
from solset.zoo import DFCNN

pytestmark = pytest.mark.slow

SIZE, STEPS = 0.005, 300


def fitted(activation: str) -> Problem:
    train = digits().part(0, 100)
    model = DFCNN(
        [64, 40, 32, 10],
        activation=getattr(torch, activation),
        generator=torch.Generator().manual_seed(0),
    ).eval()
    assert fit_exactly(model, train.inputs, train.one_hot()) <= 1e-12
    return Problem(model, nn.MSELoss(), train.inputs, train.one_hot())


@pytest.fixture(scope="module")
def smooth() -> tuple[Problem, Audit]:
    problem = fitted("tanh")
    return problem, audit(problem)


def same_length(problem: Problem) -> float:
    """One length for all digits: at most half a per cent of the shortest."""
    inputs, _ = problem.risk().points[list(range(100))]
    return SIZE * float(inputs.norm(dim=1).min())


def shortest_changes(problem: Problem, found: Audit, points: range) -> tuple[torch.Tensor, int]:
    """After each digit alone has moved along its direction: the distance to the nearest true solution."""
    length, distances, unsettled = same_length(problem), [], 0
    method = LevenbergMarquardt(output_tol=1e-8, step_tol=1e-4, max_steps=8)
    for k in points:
        nearest = retrain(problem, Move([k], length * found.directions[k : k + 1]), method=method)
        unsettled += nearest.status is not Status.CONVERGED
        distances.append(float(nearest.change.norm()))
    return torch.tensor(distances, dtype=torch.float64), unsettled


@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.long)])
def test_the_joint_modulus_orders_the_true_shortest_changes(
    smooth: tuple[Problem, Audit], every: int
) -> None:
    problem, found = smooth
    points = range(0, 100, every)
    modulus = found.modulus[list(points)]
    actual, unsettled = shortest_changes(problem, found, points)
    ratio = actual / (same_length(problem) * modulus)
    print(
        f"tanh, {len(points)} points: Spearman {spearman(modulus, actual):.4f}, "
        f"ratio {ratio.min():.4f} to {ratio.max():.4f}"
    )
    assert unsettled == 0
    assert spearman(modulus, actual) >= 0.99
    assert float((ratio - 1).abs().max()) <= 0.05


def test_what_short_training_reaches_is_another_order(smooth: tuple[Problem, Audit]) -> None:
    """Reported, not promised: the modulus is about the nearest solution, training stops short of it."""
    problem, found = smooth
    rate = 1.0 / largest_eigenvalue(GaussNewton(problem.risk()))
    length, chosen = same_length(problem), found.order[:10] + found.order[-10:]
    real, flow = [], []
    for k in chosen:
        dx = length * found.directions[k : k + 1]
        run = retrain(problem, Move([k], dx), method=GradientDescent(STEPS, rate))
        answer = problem.derivative(points=[k])(dx).element(filters.GradientFlow(STEPS, rate))
        real.append(run.change)
        flow.append(answer.value)
    errors = [float((f - r).norm() / r.norm()) for f, r in zip(flow, real, strict=True)]
    lengths = [torch.tensor([float(v.norm()) for v in values]) for values in (real, flow)]
    modulus = found.modulus[chosen]
    by_modulus, by_flow = spearman(modulus, lengths[0]), spearman(lengths[1], lengths[0])
    print(f"{STEPS} real steps: Spearman with the modulus {by_modulus:.3f}, with the flow {by_flow:.3f}")
    print(f"largest relative error of the flow {max(errors):.3f}")
    assert by_flow >= 0.9
    assert max(errors) <= 0.1


def test_directions_have_the_stated_length(smooth: tuple[Problem, Audit]) -> None:
    problem, found = smooth
    inputs, _ = problem.risk().points[[0]]
    moved = step_of(inputs, found.directions[:1], SIZE)
    assert float(moved.norm()) == pytest.approx(SIZE * float(inputs.norm()))
