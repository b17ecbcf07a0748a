"""One Newton step on the changed risk: equal to dense algebra by every solver."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import pytest
import torch
from tests.problem.test_removal import ridge
from torch import Tensor, nn

from solset import Add, Decay, Move, Problem, Relabel, Remove, Reweight, SolsetWarning, operators
from solset.changes import Change
from solset.linalg import DenseOperator
from solset.operators import Hessian
from solset.problem import GaussNewton, Order, Stationary
from solset.risk import EmpiricalRisk
from solset.solvers import CG, MINRES, Decomposed, Dense, Dual, Update, Updated, filters

N, D = 14, 3


def data(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(N, D, dtype=torch.float64, generator=generator)
    return x, torch.randn(N, 2, dtype=torch.float64, generator=generator)


def net(*layers: nn.Module) -> nn.Sequential:
    torch.manual_seed(1)
    model = nn.Sequential(*[layer.double() for layer in layers])
    for part in model.parameters():
        part.data = 0.3 * torch.randn_like(part)
    return model


def softmax(**options: Any) -> Problem:
    x, y = data()
    model = net(nn.Linear(D, 2))
    return Problem(model, nn.CrossEntropyLoss(**options), x, (y[:, 0] > 0).long(), **LOOSE, weight_decay=0.2)


def tanh(loss: nn.Module | None = None, **options: Any) -> Problem:
    x, y = data()
    options = {"weight_decay": 0.3, **options}
    model = net(nn.Linear(D, 3), nn.Tanh(), nn.Linear(3, 2))
    return Problem(model, loss or nn.MSELoss(), x, y, **LOOSE, **options)


LOOSE = {"gradient_tol": float("inf"), "verify_derivatives": False}
PROBLEMS: dict[str, Callable[[], Problem]] = {
    "softmax": softmax,
    "softmax, class weights": partial(softmax, weight=torch.tensor([1.0, 3.0], dtype=torch.float64)),
    "softmax, sum": partial(softmax, reduction="sum"),
    "tanh": tanh,
    "tanh, sum": partial(tanh, nn.MSELoss(reduction="sum")),
    "unequal decays": partial(tanh, weight_decay={"*.bias": 0.1, "*": 0.3}),
    "penalty": partial(tanh, penalty=lambda w: 0.01 * sum((part**4).sum() for part in w.values())),
    "weights of samples": partial(tanh, sample_weights=torch.linspace(0.5, 2.0, N, dtype=torch.float64)),
}
CHANGES: dict[str, Change] = {
    "remove one": Remove([3]),
    "remove four": Remove([0, 12, 5, 6]),
    "move": Move([2, 7], 0.5 * torch.ones(2, D, dtype=torch.float64)),
}

CASES = [(name, list(CHANGES)[i % 3]) for i, name in enumerate(PROBLEMS)] + [("tanh", "remove four")]


def dense(risk: EmpiricalRisk, *, gauss_newton: bool) -> tuple[Any, Any]:
    """Gradient and Hessian, or Gauss–Newton matrix, of a risk by dense autograd."""
    inputs, targets = risk.points[list(range(len(risk.points)))]
    weights = risk.weights.clone()

    def outputs(w: Tensor) -> Tensor:
        return risk.forward(risk.layout.split(w), inputs)

    def value(w: Tensor, out: Tensor | None = None) -> Tensor:
        out = outputs(w) if out is None else out
        return risk.batch_scale(len(inputs)) * risk.loss(out, targets) + risk.regularisation(
            risk.layout.split(w)
        )

    with torch.enable_grad():
        slope = torch.autograd.functional.jacobian(value, weights)
        if not gauss_newton:
            return slope, torch.autograd.functional.hessian(value, weights)
        middle = outputs(weights).detach()
        rows: Any = torch.autograd.functional.jacobian(outputs, weights).flatten(0, 1)
        curved: Any = torch.autograd.functional.hessian(lambda out: value(weights, out), middle)
        rest = torch.autograd.functional.hessian(lambda w: value(w, middle), weights)
    return slope, rows.T @ curved.reshape(len(rows), -1) @ rows + rest


def step(problem: Problem, change: Change, **options: Any) -> Tensor:
    answer = problem.estimate(change, order="newton", **options).min_norm()
    assert answer.status == "converged"
    return answer.value - problem.weights()


@pytest.mark.filterwarnings("ignore:the change of the weights:solset.SolsetWarning")
@pytest.mark.parametrize("optimality", ["stationary", "gauss_newton"])
@pytest.mark.parametrize(("name", "change"), CASES)
def test_newton_step_equals_dense_algebra_on_the_changed_risk(name, change, optimality):
    problem = PROBLEMS[name]()
    changed = CHANGES[change].applied_to(problem.risk())
    before, _ = dense(problem.risk(), gauss_newton=False)
    after, matrix = dense(changed, gauss_newton=optimality == "gauss_newton")
    expected = -torch.linalg.solve(matrix, after - before)
    solvers = [None, Dense(), MINRES(tol=1e-12)] + (
        [Dual()] if "decays" not in name and "pen" not in name else []
    )
    for solver in solvers if optimality == "gauss_newton" else solvers[:3]:
        value = step(problem, CHANGES[change], optimality=optimality, solver=solver)
        torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-10)


def test_removal_takes_a_newton_step_by_default_and_a_move_the_derivative():
    x, y, model = ridge()
    problem = Problem(model, nn.MSELoss(), x, y, weight_decay=0.1)
    orders: list[tuple[Change, Order]] = [
        (Remove([2]), "newton"),
        (Move([2], torch.ones(1, 4, dtype=torch.float64)), "first"),
    ]
    for change, order in orders:
        default, named = problem.estimate(change), problem.estimate(change, order=order)
        torch.testing.assert_close(default.min_norm().value, named.min_norm().value, rtol=0, atol=0)
    with pytest.raises((ValueError, TypeError), match="order"):
        problem.estimate(Remove([2]), order=cast("Any", "second"))


def test_further_changes_run_few_points_and_factorise_nothing(monkeypatch):
    problem, short = tanh(), 1e-3 * torch.ones(1, D, dtype=torch.float64)
    _ = step(problem, Move([3], short))
    decompositions, passes = [], []
    monkeypatch.setattr(Dense, "prepare", lambda *_: decompositions.append(1))
    forward = EmpiricalRisk.returned
    monkeypatch.setattr(
        EmpiricalRisk, "returned", lambda self, w, x: (passes.append(len(x)), forward(self, w, x))[1]
    )
    _ = step(problem, Move([5], short))
    assert not decompositions
    assert max(passes) < N


def test_point_that_alone_holds_a_direction_is_named_and_the_set_grows():
    x, y, model = ridge()
    x[:, 3] = 0.0
    x[4, 3] = 2.0
    model.weight.data = torch.linalg.lstsq(x, y).solution.T.clone()
    problem = Problem(model, nn.MSELoss(), x, y)
    for optimality in ("stationary", "gauss_newton"):
        estimate = problem.estimate(Remove([1, 4]), optimality=optimality)
        with pytest.warns(SolsetWarning, match=r"1 direction of the weights decided by point 4 alone"):
            answer = estimate.min_norm()
        assert "point 4 alone" in answer.message
        if optimality == "stationary":
            assert estimate.dimension == problem.estimate(Remove([1])).dimension + 1 == 1
        rest = [i for i in range(15) if i not in {1, 4}]
        expected = torch.linalg.lstsq(x[rest][:, :3], y[rest]).solution.flatten()
        torch.testing.assert_close(answer.value[:3], expected, rtol=1e-8, atol=1e-9)


def test_negative_curvature_of_the_rest_is_named():
    matrix = torch.diag(torch.tensor([1.0, 2.0], dtype=torch.float64))
    prepared = Dense().prepare(DenseOperator(matrix))
    row = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    changed = DenseOperator(matrix - 3 * row.T @ row)
    factor = prepared.factor()
    assert factor is not None
    update = Update(row, -3 * torch.ones(1, 1, 1, dtype=torch.float64))
    updated = Updated(changed, factor, update, partial(Dense().prepare, changed))
    assert updated.smallest_pivot == pytest.approx(-2.0)
    assert updated.turns_negative
    value = updated.solve(torch.tensor([2.0, 2.0], dtype=torch.float64)).value
    torch.testing.assert_close(value, torch.tensor([-1.0, 1.0], dtype=torch.float64))
    torch.testing.assert_close(Decomposed(factor, prepared.operator) @ row[0], matrix @ row[0])


def test_filters_of_a_changed_system_are_those_of_the_changed_matrix():
    problem = softmax()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SolsetWarning)
        for solver, optimality in ((None, Stationary()), (Dual(), GaussNewton()), (CG(), GaussNewton())):
            answers = problem.estimate(Remove([3]), optimality=optimality, solver=solver)
            damped = answers.element(filters.Tikhonov(0.5)).value - problem.weights()
            before, _ = dense(problem.risk(), gauss_newton=False)
            after, matrix = dense(Remove([3]).applied_to(problem.risk()), gauss_newton=False)
            expected = -torch.linalg.solve(matrix + 0.5 * torch.eye(len(matrix)), after - before)
            torch.testing.assert_close(damped, expected, rtol=1e-6, atol=1e-9)


def test_a_step_after_which_another_one_is_long_says_how_long_at_any_length():
    for problem, change in (
        (logistic(), Remove([4])),
        (logistic(), Reweight([4], 4.0)),
        (saturated(), Move([0], 1.5 * torch.ones(1, 2, dtype=torch.float64))),
    ):
        with pytest.warns(SolsetWarning, match="the next Newton step would be .* times as long"):
            step = problem.estimate(change).min_norm()
        changed = change.applied_to(problem.risk())
        order = "newton" if change.is_finite(problem.risk()) else "first"
        risk = changed if order == "newton" else problem.risk()
        left = changed.at(step.weights).gradient() - problem.gradient()
        again = torch.linalg.solve(Hessian(risk).to_dense(), left).norm() / step.change.norm()
        assert f"{float(again):.2g} times as long" in step.message
    assert float(step.change.norm()) < 0.1 * float(problem.weights().norm())  # short, and wrong


def test_an_estimate_that_is_not_verified_says_so_and_runs_no_point(monkeypatch):
    problem, change = logistic(), Move([4], 0.3 * torch.ones(1, 2, dtype=torch.float64))
    verified = problem.estimate(change).min_norm()
    monkeypatch.setattr(EmpiricalRisk, "gradient", None)  # a gradient of all points would fail
    step = problem.estimate(change, verify=False).min_norm()
    assert torch.equal(step.value, verified.value)
    assert "not asked (verify=False)" in step.message


def saturated() -> Problem:
    """A logistic regression with one feature of large weight, and so with a gradient that nothing moves."""
    x = torch.tensor([[3.0, 0.2], [-3.0, 0.1], [2.5, -0.3], [-2.0, 0.4]], dtype=torch.float64)
    model = nn.Linear(2, 2, dtype=torch.float64)
    torch.nn.init.zeros_(model.weight)
    return solved(
        Problem(model, nn.CrossEntropyLoss(), x, torch.tensor([0, 1, 0, 1]), weight_decay=1e-2, **LOOSE)
    )


def logistic() -> Problem:
    """Logistic regression with two features at its minimum."""
    generator = torch.Generator().manual_seed(0)
    x, noise = (torch.randn(12, k, dtype=torch.float64, generator=generator) for k in (2, 1))
    labels = (x[:, 0] + 0.8 * noise[:, 0] > 0).long()
    model = nn.Linear(2, 2, dtype=torch.float64)
    model.load_state_dict({name: torch.zeros_like(value) for name, value in model.state_dict().items()})
    return solved(Problem(model, nn.CrossEntropyLoss(), x, labels, weight_decay=1e-2, **LOOSE))


def solved(problem: Problem) -> Problem:
    """The problem at its minimum, by Newton steps with dense algebra."""
    for _ in range(40):
        hessian = Stationary().operator(problem.point).to_dense()
        weights = problem.weights() - torch.linalg.solve(hessian, problem.gradient())
        problem = problem._of(problem.risk(), weights)
    return problem


def test_a_step_that_is_exact_is_not_called_short():
    x, y, model = ridge()
    problem = Problem(model, nn.MSELoss(), x, y, weight_decay=0.1)
    step = problem.estimate(Remove([0])).min_norm()
    assert float(step.change.norm()) > 0.1 * float(problem.weights().norm())  # long, and right
    assert "the linear model does not hold" not in step.message


def test_a_sum_without_a_newton_step_says_that_it_is_first_order():
    x, y, model = ridge()
    problem = Problem(model, nn.MSELoss(), x, y, weight_decay=0.1)
    change = Remove([0]) + Decay(1e-3)
    with pytest.warns(SolsetWarning, match="to first order, though a part of it is never small"):
        estimate = problem.estimate(change)
    torch.testing.assert_close(
        estimate.min_norm().value, problem.estimate(change, order="first").min_norm().value
    )


@pytest.mark.parametrize(
    "change", [Reweight([4], 4.0), Move([4], 3.0 * torch.ones(1, 2, dtype=torch.float64))]
)
def test_a_long_step_of_first_order_is_flagged_and_a_short_one_is_not(change):
    problem = logistic()
    with pytest.warns(SolsetWarning, match="the linear model does not hold that far"):
        problem.estimate(change, order="first").min_norm()
    short = Reweight([4], 1e-3) + Move([4], 1e-3 * torch.ones(1, 2, dtype=torch.float64))
    assert "the linear model does not hold" not in problem.estimate(short).min_norm().message


def test_a_fitted_network_that_a_new_point_spoils_is_flagged():
    torch.manual_seed(0)
    x = torch.linspace(-1, 1, 4, dtype=torch.float64)[:, None]
    model = nn.Sequential(nn.Linear(1, 6), nn.Tanh(), nn.Linear(6, 1)).double()
    problem = Problem(model, nn.MSELoss(), x, model(x).detach())
    added = Add(torch.tensor([[0.5]], dtype=torch.float64), torch.tensor([[2.0]], dtype=torch.float64))
    step = problem.estimate(added).min_norm()
    changed = added.applied_to(problem.risk())
    assert changed.at(step.weights).gradient().norm() > 0.1 * changed.gradient().norm()
    assert (
        "the linear model does not hold that far" in step.message or "larger than the weights" in step.message
    )


@pytest.mark.parametrize(
    ("change", "most"),
    [
        (Remove([3]), 2),  # the gradient of the loss that leaves, and its rows of J
        (Relabel([3], torch.ones(1, 2, dtype=torch.float64)), 4),  # two losses share their rows
        (Move([3], torch.full((1, D), 0.1, dtype=torch.float64)), 4),
    ],
)
def test_a_further_change_runs_the_points_that_change_and_no_others(monkeypatch, change, most):
    problem = tanh()
    options = {"optimality": "gauss_newton", "order": "newton", "verify": False}
    problem.estimate(change, **options).min_norm()  # factorises, and looks at the loss once
    passes, returned = [], EmpiricalRisk.returned
    monkeypatch.setattr(
        EmpiricalRisk, "returned", lambda self, w, x: (passes.append(len(x)), returned(self, w, x))[1]
    )
    problem.estimate(change, **options).min_norm()
    assert len(passes) <= most
    assert set(passes) == {1}


@pytest.mark.parametrize("make", [softmax, tanh])
def test_new_labels_of_several_points_are_one_newton_step(make):
    problem = make()
    points, targets = [1, 4, 5], data()[1][:3]
    if make is softmax:
        targets = 1 - problem.risk().points[points][1]
    change = Relabel(points, targets)
    for name, matrix in (("stationary", Hessian), ("gauss_newton", operators.GaussNewton)):
        options = {"optimality": name, "order": "newton", "verify": False}
        step = problem.estimate(change, **options).min_norm().value - problem.weights()
        changed = change.applied_to(problem.risk())
        expected = torch.linalg.solve(
            matrix(changed).to_dense(), problem.risk().gradient() - changed.gradient()
        )
        torch.testing.assert_close(step, expected, rtol=1e-9, atol=1e-12)
