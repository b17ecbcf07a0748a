"""The proximal map: the default where training stopped early, with its formula and its size."""

import warnings
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from solset import (
    Move,
    Problem,
    Remove,
    Training,
    WholeBatch,
    audit,
    filters,
    follow_path,
    lipschitz_modulus,
    plan,
)
from solset.errors import SolsetWarning, Status
from solset.linalg import DenseOperator
from solset.modulus import Certainty
from solset.operators import GaussNewton, Hessian, Mixed
from solset.problem import Proximal
from solset.solvers import CG, Dense, Dual

pytestmark = [
    pytest.mark.filterwarnings("ignore:the weights are not stationary:solset.errors.SolsetWarning"),
    pytest.mark.filterwarnings("ignore:training had not stopped:solset.errors.SolsetWarning"),
]


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unfinished(dtype: torch.dtype = torch.float64, **options) -> Problem:
    """A network that was not trained at all."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).to(dtype).eval()
    x, y = draw(12, 4, seed=1), draw(12, 2, seed=2)
    return Problem(model, nn.MSELoss(), x.to(dtype), y.to(dtype), **options)


DX = 0.1 * draw(2, 4, seed=3)
MOVE = Move([0, 3], DX)


def exact(problem: Problem, damping: float) -> Tensor:
    """``-(G + δI)⁻¹ B Δx`` with matrices written out."""
    G = GaussNewton(problem.risk()).to_dense()
    force = Mixed(problem.risk(), [0, 3]) @ DX.flatten()
    return -torch.linalg.solve(G + damping * torch.eye(len(G)).double(), force)


def dice(outputs: Tensor, targets: Tensor) -> Tensor:
    """One minus the overlap of all points together."""
    shares = outputs.sigmoid()
    return 1 - (2 * (shares * targets).sum() + 1) / (shares.sum() + targets.sum() + 1)


class TestALossOfAllOutputsAtOnce:
    def of(self, loss) -> Problem:
        before = unfinished()
        x, y = before.risk().points[range(12)]
        return Problem(before.risk().model, WholeBatch(loss), x, (y > 0).double())

    def test_is_answered_without_an_option_by_its_coupled_curvature(self):
        problem = self.of(dice)
        matrix = GaussNewton(problem.risk()).to_dense()
        estimate = problem.estimate(MOVE, verify=False)
        assert "proximal" in str(estimate)
        change = estimate.min_norm().value - problem.weights()
        torch.testing.assert_close(
            change, exact(problem, 0.005 * float(torch.linalg.eigvalsh(matrix).max())), rtol=1e-4, atol=1e-9
        )

    def test_without_curvature_it_takes_the_stationary_map(self):
        problem = self.of(lambda outputs, targets: (outputs.mean(0) * targets.mean(0)).sum())
        assert Proximal().refusal(problem.point) == "a loss without curvature at the present outputs"
        assert "stationary" in str(problem.estimate(MOVE, verify=False))


class TestFormula:
    @pytest.mark.parametrize(
        "options", [{}, {"weight_decay": 0.02}, {"weight_decay": {"*.bias": 0.0, "*": 0.1}}]
    )
    def test_is_the_damped_gauss_newton_answer(self, options):
        problem = unfinished(**options)
        change = problem.estimate(MOVE, optimality=Proximal(damping=0.3)).min_norm()
        torch.testing.assert_close(
            change.value - problem.weights(), exact(problem, 0.3), rtol=1e-10, atol=1e-12
        )

    @pytest.mark.parametrize("solver", [Dense(), Dual(), CG(tol=1e-12)], ids=repr)
    def test_by_every_solver(self, solver):
        problem = unfinished()
        estimate = problem.estimate(MOVE, optimality=Proximal(0.3), solver=solver)
        change = estimate.min_norm().value - problem.weights()
        torch.testing.assert_close(change, exact(problem, 0.3), rtol=1e-9, atol=1e-11)

    def test_the_damping_is_a_share_of_the_largest_eigenvalue(self):
        problem = unfinished()
        largest = float(torch.linalg.eigvalsh(GaussNewton(problem.risk()).to_dense())[-1])
        change = problem.estimate(MOVE, optimality="proximal").min_norm().value - problem.weights()
        torch.testing.assert_close(change, exact(problem, 5e-3 * largest), rtol=1e-3, atol=1e-6)

    def test_the_set_is_one_point_and_its_rank_is_known(self):
        problem = unfinished()
        estimate = problem.estimate(MOVE)
        assert (estimate.dimension, estimate.is_empty()) == (0, False)
        assert problem.derivative().rank == len(problem.weights())

    def test_filters_act_on_the_hessian_without_damping(self):
        problem = unfinished()
        few = problem.estimate(MOVE).element(filters.GradientFlow(2, 0.1)).value - problem.weights()
        force = Mixed(problem.risk(), [0, 3]) @ DX.flatten()
        turned = Hessian(problem.risk()) @ force
        torch.testing.assert_close(few, -(0.2 * force - 0.01 * turned), rtol=1e-10, atol=1e-12)

    def test_both_dtypes_agree(self):
        changes = []
        for dtype in (torch.float32, torch.float64):
            problem = unfinished(dtype)
            move = Move([0, 3], DX.to(dtype))
            changes.append((problem.estimate(move).min_norm().value - problem.weights()).double())
        torch.testing.assert_close(*changes, rtol=1e-3, atol=1e-5)

    def test_a_damping_that_is_no_number_is_refused(self):
        with pytest.raises(ValueError, match="damping"):
            Proximal(damping=0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_steps_of_the_default_suffice_at_its_condition_number(dtype):
    many = SimpleNamespace(weights=3000, rows=3000)
    solver = Proximal().default_solver(many)
    spectrum = 5e-3 + torch.linspace(0, 1, 3000, dtype=torch.float64)
    matrix = DenseOperator(torch.diag(spectrum).to(dtype))
    solution = solver.solve(matrix, draw(3000, 2, seed=1).to(dtype))
    assert solution.status is Status.CONVERGED
    assert solution.steps < solver.max_steps < 1000
    assert Proximal(damping=0.1).default_solver(many).max_steps > 1000


class TestDefault:
    def test_is_taken_where_the_weights_are_not_stationary_and_said(self):
        with pytest.warns(SolsetWarning, match=r"not stationary.*proximal map.*optimality=\"stationary\""):
            problem = unfinished()
        derivative = problem.derivative()
        assert derivative.optimality == "proximal"
        assert "not stationary (gradient norm" in derivative.reason
        solution = problem.estimate(MOVE).min_norm()
        assert (solution.status, solution.drift) == (Status.CONVERGED, 0.0)
        assert "element of the proximal map" in solution.message
        assert 'optimality="stationary"' in solution.message

    def test_minimum_norm_on_request(self):
        problem = unfinished()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SolsetWarning)
            solution = problem.estimate(MOVE, optimality="stationary").min_norm()
        force = Mixed(problem.risk(), [0, 3]) @ DX.flatten()
        smallest = -torch.linalg.pinv(Hessian(problem.risk()).to_dense(), hermitian=True) @ force
        torch.testing.assert_close(solution.value - problem.weights(), smallest, rtol=1e-6, atol=1e-8)

    def test_is_not_taken_where_the_gradient_was_accepted(self):
        assert unfinished(gradient_tol=1e3).derivative().optimality == "stationary"

    def test_parts_of_the_problem_take_the_same(self):
        problem = unfinished()
        assert problem.restrict(parameters=["0.*"]).derivative().optimality == "proximal"
        assert problem.with_model(problem.risk().model).derivative().optimality == "proximal"

    def test_a_loss_without_curvature_keeps_the_stationary_map(self):
        model = nn.Linear(3, 1).double()
        problem = Problem(model, nn.L1Loss(), draw(8, 3, seed=1), draw(8, 1, seed=2))
        assert problem.derivative().optimality == "stationary"

    def test_the_plan_and_the_audit_know_it(self):
        problem = unfinished()
        taken = plan(problem).automatic
        assert taken.optimality == "proximal"
        assert taken.name in {"proximal by Dual", "proximal by Dense"}
        result = audit(problem)
        assert result.optimality == "proximal"
        assert result.modulus is not None
        assert bool(torch.isfinite(result.modulus).all())
        assert any("proximal map" in note for note in result.notes)

    def test_its_modulus_is_finite_and_no_certificate(self):
        modulus = lipschitz_modulus(unfinished(), points=[0])
        assert 0 < modulus.value < float("inf")
        assert modulus.certificate.certainty is Certainty.UNKNOWN
        assert "not stationary" in modulus.certificate.reason

    @pytest.mark.filterwarnings("ignore::solset.errors.SolsetWarning")
    def test_a_path_leads_to_stationary_weights(self):
        problem = unfinished(weight_decay=3.0)
        assert problem.derivative().optimality == "proximal"
        assert follow_path(problem, MOVE, progress=False, max_gradients=3).optimality == "stationary"


def digits(activation: type[nn.Module], optimizer, count: int = 400) -> Training:
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images[:count], dtype=torch.float32) / 16, torch.tensor(labels[:count])

    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(64, 12), activation(), nn.Linear(12, 10))

    return Training(make, nn.CrossEntropyLoss(), x, y, optimizer=optimizer, epochs=10, batch_size=64, seed=0)


SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
ADAMW = partial(torch.optim.AdamW, lr=3e-3, weight_decay=1e-2)


def predicted_and_real(
    training: Training, dtype: torch.dtype, removals: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Changes of 200 test losses by the default, by the recipe run again, and by the plain gradient."""
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images[-200:], dtype=torch.float32) / 16, torch.tensor(labels[-200:])
    run = training.run(progress=False)
    inputs, targets = load_digits(return_X_y=True)
    count = 400
    problem = Problem(
        run.model.to(dtype),
        nn.CrossEntropyLoss(),
        torch.tensor(inputs[:count], dtype=dtype) / 16,
        torch.tensor(targets[:count]),
    )
    run.model.float()
    generator = torch.Generator().manual_seed(1)
    predicted, real, plain = [], [], []
    for _ in range(removals):
        change = Remove(torch.randperm(count, generator=generator)[:40].tolist())
        solution = problem.estimate(change).min_norm()
        direction = (solution.value - problem.weights()).float()
        slope = (problem.gradient() - change.applied_to(problem.risk()).gradient()).float()
        weights = torch.nn.utils.parameters_to_vector(run.model.parameters()).detach()

        def losses(flat: Tensor) -> Tensor:
            names = dict(run.model.named_parameters())
            parts = torch.split(flat, [value.numel() for value in names.values()])
            given = {n: p.reshape(v.shape) for (n, v), p in zip(names.items(), parts, strict=True)}
            return cross_entropy(torch.func.functional_call(run.model, given, (x,)), y, reduction="none")

        with torch.no_grad():
            for changes, step in ((predicted, direction), (plain, slope)):
                changes.append((losses(weights + 1e-2 * step) - losses(weights - 1e-2 * step)) / 2e-2)
            real.append(losses(weights + run.retrain(change, progress=False).change) - losses(weights))
    return torch.stack(predicted), torch.stack(real), torch.stack(plain)


def correlation(predicted: Tensor, real: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([predicted.flatten(), real.flatten()]))[0, 1])


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", [SGD, ADAMW], ids=["SGD", "AdamW"])
@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU])
def test_the_default_is_of_the_right_size_and_beats_the_plain_gradient_but_once(activation, optimizer):
    """The size is within a factor of 3 of real reruns, where minimum norm is 18 to 290 times too long."""
    single = predicted_and_real(digits(activation, optimizer), torch.float32, 6)
    predicted, real, plain = predicted_and_real(digits(activation, optimizer), torch.float64, 6)
    torch.testing.assert_close(single[0], predicted, rtol=1e-2, atol=1e-3 * float(predicted.abs().max()))
    assert 1 / 3 <= float(predicted.norm() / real.norm()) <= 3
    print(f"default {correlation(predicted, real):.3f}, plain gradient {correlation(plain, real):.3f}")
    if (activation, optimizer) != (nn.ReLU, ADAMW):  # where the plain gradient wins, as docs say
        assert correlation(predicted, real) > correlation(plain, real)


@pytest.mark.parametrize("optimizer", [SGD, ADAMW])
def test_the_default_after_few_epochs(optimizer):
    predicted, real, _ = predicted_and_real(digits(nn.Tanh, optimizer), torch.float32, 2)
    assert 1 / 3 <= float(predicted.norm() / real.norm()) <= 3
    assert correlation(predicted, real) >= 0.5
