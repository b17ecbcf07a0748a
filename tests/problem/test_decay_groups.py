"""One weight decay for each group of weights, against autograd, dense algebra and closed forms."""

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from solset import Move, Problem, Remove, follow_path, retrain
from solset.linalg import Counted
from solset.operators import GaussNewton, GaussNewtonInverse, Hessian, InformativeInverse
from solset.retraining import LBFGS, GradientDescent, Newton, WithOptimizer, follow_retraining
from solset.risk import identity
from solset.solvers import CG, MINRES, Dense, Dual

N, D = 14, 3
GROUPS = {"*.bias": 0.0, "0.*": 0.02, "*": 0.1}
ALL_DECAY = {"*.bias": 0.03, "*": 0.1}
HINTS = {"gradient_tol": float("inf")}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(D, 4), nn.Tanh(), nn.Linear(4, 2)).double().eval()


def problem(weight_decay=None, **options) -> Problem:
    weight_decay = GROUPS if weight_decay is None else weight_decay
    options = {**HINTS, **options}
    return Problem(
        network(), nn.MSELoss(), draw(N, D), draw(N, 2, seed=1), weight_decay=weight_decay, **options
    )


@pytest.fixture(scope="module")
def trained() -> Problem:
    """The problem at its minimum, where all weights decay."""
    start, still = problem(ALL_DECAY), Move(None, torch.zeros(N, D).double())
    near = retrain(start, still, method=LBFGS(gradient_tol=1e-6, max_gradients=2000)).weights
    start = start.moved_to(still, near)
    return start.moved_to(still, retrain(start, still, method=Newton(gradient_tol=1e-12)).weights)


def decays(groups: dict[str, float]) -> Tensor:
    """The vector written out by hand: first weight and bias of layer 0, then of layer 2."""
    bias = groups["*.bias"]
    return torch.tensor(
        [groups.get("0.*", groups["*"])] * 12 + [bias] * 4 + [groups["*"]] * 8 + [bias] * 2,
        dtype=torch.float64,
    )


def risk_by_hand(flat: Tensor, groups: dict[str, float]) -> Tensor:
    model, parts = network(), {}
    for name, value in model.named_parameters():
        parts[name], flat_rest = flat[: value.numel()].view(value.shape), flat[value.numel() :]
        flat = flat_rest
    whole = torch.cat([part.reshape(-1) for part in parts.values()])
    outputs = torch.func.functional_call(model, parts, (draw(N, D),))
    return nn.functional.mse_loss(outputs, draw(N, 2, seed=1)) + 0.5 * (decays(groups) * whole) @ whole


def test_value_gradient_and_hessian_are_those_of_the_risk():
    risk = problem().risk()
    weights = risk.weights.clone().requires_grad_()
    value = risk_by_hand(weights, GROUPS)
    assert risk.value() == pytest.approx(float(value.detach()), rel=1e-13)
    torch.testing.assert_close(risk.gradient(), torch.autograd.grad(value, weights)[0])
    dense = torch.autograd.functional.hessian(lambda w: risk_by_hand(w, GROUPS), risk.weights)
    torch.testing.assert_close(Hessian(risk).to_dense(), dense)


@pytest.mark.parametrize("groups", [GROUPS, ALL_DECAY])
@pytest.mark.parametrize("count", [4, N])  # a wide and a tall factor
def test_the_gauss_newton_matrix_and_its_inverses(groups, count):
    risk = problem(groups).restrict(points=list(range(count))).risk()
    plain = GaussNewton(problem(0.0).restrict(points=list(range(count))).risk()).to_dense()
    dense = plain + torch.diag(decays(groups))
    operator = GaussNewton(risk)
    torch.testing.assert_close(operator.to_dense(), dense)
    torch.testing.assert_close(operator @ risk.weights, dense @ risk.weights)  # forward mode
    floor = decays(groups)[decays(groups) > 0].min()
    stand_in = plain + torch.diag(decays(groups).where(decays(groups) > 0, floor))
    for inverse in (
        GaussNewtonInverse(risk, memory_budget=2**30),
        InformativeInverse(risk, [0], discard=0.0, memory_budget=2**30),
    ):
        torch.testing.assert_close(inverse.to_dense(), torch.linalg.inv(stand_in), rtol=1e-7, atol=1e-7)
    rhs = draw(risk.layout.size, seed=3)
    counted = Counted(operator)
    solution = CG(tol=1e-12, preconditioner=GaussNewtonInverse(risk, memory_budget=2**30)).solve(counted, rhs)
    torch.testing.assert_close(solution.value, torch.linalg.solve(dense, rhs), rtol=1e-6, atol=1e-8)
    damped = CG(tol=1e-12, damping=0.5).solve(operator, rhs).value
    torch.testing.assert_close(
        damped, torch.linalg.solve(dense + 0.5 * torch.eye(len(rhs), dtype=torch.float64), rhs)
    )


@pytest.mark.parametrize("solver", [None, Dense(), MINRES(tol=1e-12), CG(tol=1e-12)])
@pytest.mark.parametrize("name", ["stationary", "gauss_newton"])
def test_estimates_solve_the_dense_system(trained, name, solver):
    change = Move([1, 5], draw(2, D, seed=2))
    risk = trained.risk()
    matrix = (Hessian(risk) if name == "stationary" else GaussNewton(risk)).to_dense()
    data = Move([1, 5]).of_gradient(risk, 2**30).to_dense()
    truth = -torch.linalg.solve(matrix, data @ change.dx.reshape(-1))
    solution = trained.estimate(change, optimality=name, solver=solver).min_norm()
    torch.testing.assert_close(solution.value - risk.weights, truth, rtol=1e-6, atol=1e-8)


def test_a_solver_for_one_damping_is_refused_by_name(trained):
    with pytest.raises(TypeError, match="`solver` must be one for the GaussNewton.*all weights decay alike"):
        trained.derivative(optimality="gauss_newton", solver=Dual())


def test_outputs_are_not_kept_where_only_some_weights_decay():
    model = network()
    targets = model(draw(N, D)).detach()
    fitted = Problem(
        model, nn.MSELoss(), draw(N, D), targets, weight_decay={"2.bias": 1e-9, "*": 0.0}, **HINTS
    )
    assert not fitted.is_fitted
    with pytest.raises(ValueError, match="weight decay 1e-09"):
        fitted.derivative(optimality="interpolating")


def test_a_part_of_the_weights_keeps_its_decays():
    part = problem().restrict(parameters=["0.*"])
    assert torch.equal(part.risk().weight_decay, decays(GROUPS)[:16])
    assert problem().restrict(parameters=["*.bias"]).risk().weight_decay == 0.0
    torch.testing.assert_close(part.gradient(), problem().gradient()[:16])


def test_ways_to_retrain_agree(trained):
    change = Move([1, 5], 0.1 * draw(2, D, seed=2))
    ends = [
        retrain(trained, change, method=method).weights for method in (Newton(), LBFGS(gradient_tol=1e-7))
    ]
    torch.testing.assert_close(*ends, rtol=1e-5, atol=1e-6)
    moved = trained.moved_to(change, trained.weights())
    steps = {"steps": 3, "learning_rate": 0.1}
    descent = retrain(trained, change, method=GradientDescent(**steps)).weights
    of_torch = WithOptimizer(lambda w: torch.optim.SGD(w, lr=0.1), epochs=3, batch_size=N)
    torch.testing.assert_close(retrain(trained, change, method=of_torch).weights, descent)
    by_hand = trained.weights()
    for _ in range(3):
        by_hand = by_hand - 0.1 * moved.risk().at(by_hand).gradient()
    torch.testing.assert_close(descent, by_hand)


def test_retraining_of_a_network_linear_in_its_weights_is_followed_exactly():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Linear(D, 2).double().eval()
    decay = {"weight": 0.1, "bias": 0.0}
    start = Problem(model, nn.MSELoss(), draw(N, D), draw(N, 2, seed=1), weight_decay=decay, **HINTS)
    change, steps = Move([1, 5], draw(2, D, seed=2)), {"steps": 40, "learning_rate": 0.1}
    real = retrain(start, change, method=GradientDescent(**steps)).weights
    course = follow_retraining(start, change, **steps, max_builds=1)
    torch.testing.assert_close(course.weights, real, rtol=1e-8, atol=1e-10)


def test_a_path_ends_where_newton_ends(trained):
    change = Move([1, 5], 0.5 * draw(2, D, seed=2))
    path = follow_path(trained, change, max_error=1e-6)
    truth = retrain(trained, change, method=Newton()).weights
    assert float((path.weights - truth).norm() / (truth - trained.weights()).norm()) < 1e-4


def test_the_identity_knows_the_groups():
    marks = [identity(problem(decay).risk()) for decay in (0.1, GROUPS, ALL_DECAY, {"*": 0.1})]
    assert marks[0] == marks[3]
    assert marks[0] != marks[1] != marks[2] != marks[0]


class TestLogisticRegressionOfScikitLearn:
    """Its intercept is free: ``½‖w‖² + C Σ ℓ_i`` penalises the weights alone."""

    C = 0.5

    @pytest.fixture
    def data(self) -> tuple[Tensor, Tensor]:
        inputs = draw(60, 4)
        return inputs, (inputs[:, :1] + 1.0 + draw(60, 1, seed=1) > 0).double()

    def fitted(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """``(w, b)`` of scikit-learn, to rounding by Newton's method on its own objective."""
        start = LogisticRegression(C=self.C).fit(inputs.numpy(), targets[:, 0].numpy())
        flat = torch.tensor([*start.coef_[0], *start.intercept_], dtype=torch.float64)
        for _ in range(8):
            gradient, matrix = self.derivatives(flat, inputs, targets)
            flat = flat - torch.linalg.solve(matrix, gradient)
        return flat

    def derivatives(self, flat: Tensor, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient and Hessian of ``½‖w‖² + C Σ ℓ_i`` in closed form."""
        design = torch.cat([inputs, torch.ones(len(inputs), 1)], dim=1).double()
        p, free = torch.sigmoid(design @ flat), torch.tensor([1.0] * 4 + [0.0], dtype=torch.float64)
        gradient = free * flat + self.C * design.T @ (p - targets[:, 0])
        return gradient, torch.diag(free) + self.C * (design.T * (p * (1 - p))) @ design

    def problem(self, data, decay: dict[str, float] | None = None) -> Problem:
        model = nn.Linear(4, 1).double().eval()
        nn.utils.vector_to_parameters(self.fitted(*data), model.parameters())
        decay = decay or {"weight": 1 / (self.C * 60), "bias": 0.0}
        return Problem(model, nn.BCEWithLogitsLoss(), *data, weight_decay=decay, gradient_tol=1e-10)

    def test_moved_and_removed_points_are_closed_forms(self, data):
        inputs, targets = data
        fitted = self.problem(data, {"*.bias": 0.0, "*": 1 / (self.C * 60)})
        gradient, matrix = self.derivatives(fitted.weights(), inputs, targets)
        design = torch.cat([inputs, torch.ones(60, 1)], dim=1).double()
        p = torch.sigmoid(design @ fitted.weights())
        slope, curve = self.C * (p - targets[:, 0]), self.C * p * (1 - p)
        dx = draw(1, 4, seed=4)
        moved = slope[7] * torch.cat([dx[0], torch.zeros(1)]) + curve[7] * design[7] * (
            dx[0] @ fitted.weights()[:4]
        )
        truth = -torch.linalg.solve(matrix, moved)
        change = fitted.estimate(Move([7], dx)).min_norm().value - fitted.weights()
        torch.testing.assert_close(change, truth, rtol=1e-8, atol=1e-10)
        gone = fitted.derivative(Remove([7]))(-torch.ones(1).double()).min_norm().value
        slopes = slope.unsqueeze(1) * design
        truth = torch.linalg.solve(matrix, slopes[7] - slopes.mean(dim=0))  # the mean is over the others
        torch.testing.assert_close(gone, truth, rtol=1e-8, atol=1e-10)
        assert float(gradient.norm()) < 1e-10

    def test_retraining_ends_where_scikit_learn_ends(self, data):
        inputs, targets = data
        dx = draw(2, 4, seed=5)
        real = retrain(self.problem(data), Move([3, 9], dx), method=Newton())
        moved = inputs.clone()
        moved[[3, 9]] += dx
        torch.testing.assert_close(real.weights, self.fitted(moved, targets), rtol=1e-8, atol=1e-9)
