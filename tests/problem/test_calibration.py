"""The damping of the proximal map by real reruns: that of a training which is a proximal step exactly."""

import copy

import pytest
import torch
from torch import Tensor, nn

from solset import Problem, Remove
from solset.errors import SolsetWarning
from solset.operators import GaussNewton
from solset.problem import Proximal, calibrate

pytestmark = pytest.mark.filterwarnings("ignore:the weights are not stationary:solset.errors.SolsetWarning")
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(30, 6, generator=GENERATOR, dtype=torch.float64)
LABELS = torch.randint(0, 3, (30,), generator=GENERATOR)
TARGETS = torch.randn(30, 3, generator=GENERATOR, dtype=torch.float64)
LOSSES = {"squares": (nn.MSELoss(), TARGETS), "cross entropy": (nn.CrossEntropyLoss(), LABELS)}


def unfinished(loss: nn.Module, targets: Tensor, **options) -> Problem:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Linear(6, 3).double().eval()
    return Problem(model, loss, X, targets, **options)


def module_at(problem: Problem, weights: Tensor) -> nn.Module:
    model = copy.deepcopy(problem.risk().model)
    nn.utils.vector_to_parameters(weights, model.parameters())
    return model


def proximal_step(problem: Problem, damping: float):
    """A training that answers a change by ``-(G + δI)⁻¹ b``, with matrices written out."""
    system = GaussNewton(problem.risk()).to_dense() + damping * torch.eye(len(problem.weights())).double()

    def retrain(change) -> nn.Module:
        force = change.applied_to(problem.risk()).gradient() - problem.gradient()
        return module_at(problem, problem.weights() - torch.linalg.solve(system, force))

    return retrain


@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1}], ids=["plain", "decay"])
@pytest.mark.parametrize("damping", [0.01, 1.0])
@pytest.mark.parametrize("parts", LOSSES.values(), ids=LOSSES)
def test_the_damping_of_a_proximal_training_is_found(parts, damping, options):
    problem = unfinished(*parts, **options)
    calibration = calibrate(problem, proximal_step(problem, damping), reruns=2)
    assert calibration.damping == pytest.approx(damping, rel=0.01)
    assert calibration.correlation == pytest.approx(1.0, abs=1e-6)
    assert calibration.size == pytest.approx(1.0, abs=1e-3)
    assert (calibration.optimality, calibration.message) == (Proximal(damping=calibration.damping), "")


def test_its_answer_is_the_rerun_to_first_order():
    problem = unfinished(*LOSSES["squares"])
    retrain = proximal_step(problem, 0.3)
    known = calibrate(problem, retrain, reruns=1).optimality
    answer = problem.estimate(Remove([4]), optimality=known, order="first").min_norm()
    real = nn.utils.parameters_to_vector(retrain(Remove([4])).parameters()).detach()
    change = real - problem.weights()
    assert float((answer.value - real).norm()) < 0.05 * float(change.norm())  # a removal of 1 of 30 points
    assert "not calibrated" not in answer.message


def test_the_size_of_the_default_is_measured_too():
    problem = unfinished(*LOSSES["squares"])
    largest = float(torch.linalg.eigvalsh(GaussNewton(problem.risk()).to_dense())[-1])
    calibration = calibrate(problem, proximal_step(problem, 5e-3 * largest))
    assert calibration.default_size == pytest.approx(1.0, rel=1e-3)


def test_a_training_of_another_seed_is_warned_of():
    problem, generator = unfinished(*LOSSES["squares"]), torch.Generator().manual_seed(1)

    def chance(_) -> nn.Module:
        drawn = torch.randn(problem.weights().shape, generator=generator, dtype=torch.float64)
        return module_at(problem, problem.weights() + drawn)

    with pytest.warns(SolsetWarning, match="correlation of .*another seed"):
        assert "chaotic" in calibrate(problem, chance, reruns=6).message


def test_a_damping_at_the_end_of_the_range_is_warned_of():
    problem = unfinished(*LOSSES["squares"])
    with pytest.warns(SolsetWarning, match="end of the range"):
        assert not calibrate(problem, proximal_step(problem, 1e-9)).is_inside


def blown_up() -> nn.Module:
    model = nn.Linear(6, 3).double().eval()
    nn.init.constant_(model.weight, float("inf"))
    return model


def test_the_module_of_a_rerun_is_not_changed():
    problem, modules = unfinished(*LOSSES["squares"]), []

    def retrain(change) -> nn.Module:
        modules.append(proximal_step(problem, 1.0)(change).train())
        return modules[-1]

    with torch.no_grad():
        assert calibrate(problem, retrain, reruns=1).size == pytest.approx(1.0, abs=1e-3)
    assert modules[0].training


def test_a_loss_without_curvature_is_refused():
    model = nn.Linear(6, 3).double().eval()
    problem = Problem(model, nn.L1Loss(), X, TARGETS)
    with pytest.raises(ValueError, match="`problem`.*curvature"):
        calibrate(problem, lambda _: model)


def test_points_that_are_fitted_exactly_are_refused_before_anything_runs():
    model = nn.Linear(6, 3).double().eval()
    problem = Problem(model, nn.MSELoss(), X, model(X).detach())
    with pytest.raises(ValueError, match="`problem`.*whose gradient the points change.*Remove"):
        calibrate(problem, lambda _: pytest.fail("it ran"))


@pytest.mark.parametrize(
    ("retrain", "options", "error", "words"),
    [
        (lambda _: 3.0, {}, TypeError, "`retrain`.*module.*3.0"),
        (lambda _: unfinished(*LOSSES["squares"]).risk().model, {}, ValueError, "`retrain`.*same outputs"),
        (lambda _: nn.Linear(5, 3).double(), {}, ValueError, "weight"),
        (lambda _: blown_up(), {}, ValueError, "finite"),
        (None, {"reruns": 0}, ValueError, "`reruns`"),
        (None, {"share": 0.9}, ValueError, "`share`"),
        (None, {"share": 0.01}, ValueError, "`share`"),
    ],
)
def test_what_is_no_rerun_is_refused(retrain, options, error, words):
    problem = unfinished(*LOSSES["squares"])
    with pytest.raises(error, match=words):
        calibrate(problem, retrain or proximal_step(problem, 1.0), **options)
