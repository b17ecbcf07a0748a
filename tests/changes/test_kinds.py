"""Every kind of change, on every map and route, against dense autograd of the risk written out."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import hessian, jacobian
from torch.func import functional_call

from solset import Add, Decay, Move, Problem, Relabel, Remove, Reweight
from solset.changes import Change
from solset.solvers import CG, LSMR, MINRES, Dense, Dual

F64 = torch.float64
CLASS_WEIGHTS = torch.tensor([1.0, 3.0, 0.5], dtype=F64)
DECAY, COUNT, CHANGED = 0.7, 10, [2, 5]


@dataclass(frozen=True)
class Setting:
    """A problem beside its risk written out: the losses of points, their factors, and the divisor."""

    problem: Problem
    x: Tensor
    y: Tensor
    losses: Callable[[Tensor, Tensor], Tensor]
    factors: Callable[[Tensor], Tensor]
    reduction: str

    def outputs(self, weights: Tensor, x: Tensor) -> Tensor:
        model, shapes = self.problem.risk().model, self.problem.risk().layout.shapes
        parts = weights.split([shape.numel() for shape in shapes.values()])
        named = {name: part.reshape(shapes[name]) for name, part in zip(shapes, parts, strict=True)}
        return functional_call(model, named, (x,))

    def risk(
        self, weights: Tensor, x: Tensor, y: Tensor, factors: Tensor, divisor: Tensor | None = None
    ) -> Tensor:
        total = factors @ self.losses(self.outputs(weights, x), y)
        if self.reduction == "mean":
            total = total / (factors.sum() if divisor is None else divisor)
        return total + 0.5 * DECAY * weights @ weights


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def network() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).to(F64)
    for seed, part in enumerate(model.parameters()):
        part.data = 0.5 * drawn(seed, *part.shape)
    return model


def setting(kind: str, model: nn.Module | None = None) -> Setting:
    """A problem whose targets are labels, weighed labels, soft labels or numbers."""
    x, labels = drawn(10, COUNT, 3), torch.arange(COUNT) % 3
    reduction = "sum" if kind == "summed numbers" else "mean"
    y = {"soft": torch.softmax(drawn(11, COUNT, 3), dim=1), "numbers": drawn(12, COUNT, 3)}.get(
        kind.removeprefix("summed "), labels
    )
    ones = lambda targets: torch.ones(len(targets), dtype=F64)  # noqa: E731
    if kind.endswith("numbers"):
        loss, losses = nn.MSELoss(reduction=reduction), lambda out, t: (out - t).square().mean(dim=1)
        if reduction == "sum":
            losses = lambda out, t: (out - t).square().sum(dim=1)  # noqa: E731
    else:
        loss = nn.CrossEntropyLoss(weight=CLASS_WEIGHTS if kind == "weighed labels" else None)
        losses = nn.CrossEntropyLoss(reduction="none")
    factors = (lambda targets: CLASS_WEIGHTS[targets]) if kind == "weighed labels" else ones
    problem = Problem(
        model or network(),
        loss,
        x,
        y,
        weight_decay=DECAY,
        gradient_tol=float("inf"),
    )
    return Setting(problem, x, y, losses, factors, reduction)


def case(name: str, s: Setting) -> tuple[Change, Callable[[Tensor, Tensor], Tensor]]:
    """A change, and the risk on the way of it as a function of the weights and of its share."""
    x, y, c = s.x, s.y, s.factors(s.y)
    mask = torch.zeros(COUNT, dtype=F64)
    mask[CHANGED] = 1.0
    new_x, dx = drawn(20, 2, 3), drawn(21, 2, 3)
    is_real = y.is_floating_point()
    new_y = drawn(22, 2, 3).softmax(dim=1) if is_real else (y[CHANGED] + 1) % 3
    fade = torch.cat([-mask * c, torch.zeros(2, dtype=F64)])
    come = torch.cat([torch.zeros(COUNT, dtype=F64), s.factors(new_y)])
    base = torch.cat([c, torch.zeros(2, dtype=F64)])
    if name == "move":
        step = torch.zeros_like(x).index_put((torch.tensor(CHANGED),), dx)
        return Move(CHANGED, dx), lambda w, t: s.risk(w, x + t * step, y, c)
    if name == "remove":
        return Remove(CHANGED), lambda w, t: s.risk(w, x, y, c * (1 - t * mask))
    if name == "remove, α kept":
        return Remove(CHANGED, divisor="before"), lambda w, t: s.risk(w, x, y, c * (1 - t * mask), c.sum())
    if name == "reweight":
        step = torch.zeros(COUNT, dtype=F64).index_put(
            (torch.tensor(CHANGED),), torch.tensor([0.5, -0.3], dtype=F64)
        )
        return Reweight(CHANGED, [0.5, -0.3]), lambda w, t: s.risk(w, x, y, c * (1 + t * step))
    if name == "add":
        joined = (torch.cat([x, new_x]), torch.cat([y, new_y]))
        return Add(new_x, new_y), lambda w, t: s.risk(w, *joined, base + t * come)
    if name == "decay":
        return Decay(0.05), lambda w, t: s.risk(w, x, y, c) + 0.5 * t * 0.05 * w @ w
    if is_real:
        step = torch.zeros_like(y).index_put((torch.tensor(CHANGED),), new_y - y[CHANGED])
        return Relabel(CHANGED, new_y), lambda w, t: s.risk(w, x, y + t * step, c)
    joined = (torch.cat([x, x[CHANGED]]), torch.cat([y, new_y]))
    return Relabel(CHANGED, new_y), lambda w, t: s.risk(w, *joined, base + t * (fade + come))


KINDS = ["move", "relabel", "remove", "remove, α kept", "reweight", "add", "decay"]
TARGETS = ["labels", "weighed labels", "soft", "numbers", "summed numbers"]


def pull_of(risk: Callable[[Tensor, Tensor], Tensor], weights: Tensor, share: float) -> Tensor:
    """The derivative of the gradient in the share of the change, entry by entry."""
    w, t = weights.clone().requires_grad_(), torch.tensor(share, dtype=F64, requires_grad=True)
    (gradient,) = torch.autograd.grad(risk(w, t), w, create_graph=True)
    parts = [
        torch.autograd.grad(entry, t, retain_graph=True, materialize_grads=True, allow_unused=True)[0]
        for entry in gradient
    ]
    return torch.stack(parts)


def value_and_gradient(risk: Callable[[Tensor, Tensor], Tensor], weights: Tensor) -> tuple[float, Tensor]:
    w = weights.clone().requires_grad_()
    value = risk(w, torch.tensor(1.0, dtype=F64))
    return float(value.detach()), torch.autograd.grad(value, w)[0]


@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_change_is_the_derivative_of_the_gradient_on_its_way(kind, targets):
    s = setting(targets)
    change, risk = case(kind, s)
    here, weights = s.problem.risk(), s.problem.weights()
    expected = pull_of(risk, weights, 0.0)
    operator, direction = change.of_gradient(here, 2**30), change.direction(here)
    torch.testing.assert_close(operator @ direction, expected, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(change.rate(here, 0.5), pull_of(risk, weights, 0.5), rtol=1e-10, atol=1e-13)
    u, v = drawn(30, operator.shape[0]), drawn(31, operator.shape[1])
    left, right = float(u @ (operator @ v)), float((operator.T @ u) @ v)
    assert abs(left - right) <= 1e-12 * float(u.norm() * (operator @ v).norm())


@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_changed_risk_is_the_end_of_the_way(kind, targets):
    s = setting(targets)
    change, risk = case(kind, s)
    here, weights = s.problem.risk(), s.problem.weights()
    value, gradient = value_and_gradient(risk, weights)
    for changed in (change.applied_to(here), change.partly(here, 1.0)):
        assert abs(changed.value() - value) <= 1e-12
        torch.testing.assert_close(changed.gradient(), gradient, rtol=1e-10, atol=1e-13)


ROUTES = [
    ("stationary", Dense()),
    pytest.param("stationary", MINRES(tol=1e-14), marks=pytest.mark.slow),
    ("gauss_newton", Dual()),
    ("gauss_newton", Dense()),
    pytest.param("gauss_newton", CG(tol=1e-14), marks=pytest.mark.slow),
]


@pytest.mark.parametrize("targets", ["weighed labels", "numbers"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("optimality", "solver"), ROUTES, ids=lambda part: type(part).__name__)
def test_an_estimate_of_any_kind_solves_the_dense_system(kind, targets, optimality, solver):
    s = setting(targets)
    change, risk = case(kind, s)
    weights, zero = s.problem.weights(), torch.tensor(0.0, dtype=F64)
    if optimality == "stationary":
        matrix = hessian(lambda w: risk(w, zero), weights)
    else:
        rows = jacobian(lambda w: s.outputs(w, s.x).flatten(), weights)
        factors = s.factors(s.y)
        of_outputs = lambda out: factors @ s.losses(out.reshape(COUNT, 3), s.y) / factors.sum()  # noqa: E731
        curvature = hessian(of_outputs, s.outputs(weights, s.x).detach().flatten())
        matrix = rows.T @ curvature @ rows + DECAY * torch.eye(len(weights), dtype=F64)
    expected = -torch.linalg.solve(matrix, pull_of(risk, weights, 0.0))
    solution = s.problem.estimate(change, optimality=optimality, solver=solver, order="first").min_norm()
    torch.testing.assert_close(solution.value - weights, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("targets", ["labels", "weighed labels", "numbers"])
@pytest.mark.parametrize("kind", ["relabel", "remove", "remove, α kept", "reweight", "add"])
def test_a_newton_step_of_any_kind_solves_the_dense_system_of_the_changed_risk(kind, targets):
    s = setting(targets)
    change, risk = case(kind, s)
    weights, end = s.problem.weights(), torch.tensor(1.0, dtype=F64)
    shift = value_and_gradient(risk, weights)[1] - s.problem.gradient()
    matrix = hessian(lambda w: risk(w, end), weights)
    expected = -torch.linalg.solve(matrix, shift)
    solution = s.problem.estimate(change, optimality="stationary", order="newton").min_norm()
    torch.testing.assert_close(solution.value - weights, expected, rtol=1e-6, atol=1e-8)


def test_one_factorisation_serves_every_kind():
    problem = setting("numbers").problem
    constraints = set()
    for kind in KINDS:
        change, _ = case(kind, setting("numbers"))
        line = problem.derivative(change, optimality="stationary").linearisation
        constraints.add(id(line.constraint))
    assert len(constraints) == 1


def fitted() -> tuple[Setting, Tensor]:
    """A fitted problem with more weights than outputs, and its Jacobian written out."""
    model = nn.Sequential(nn.Linear(3, 12), nn.Tanh(), nn.Linear(12, 2)).to(F64)
    x = drawn(10, 6, 3)
    y = model(x).detach()
    problem = Problem(model, nn.MSELoss(), x, y)
    s = Setting(problem, x, y, lambda out, t: (out - t).square().mean(dim=1), lambda t: t[:, 0], "mean")
    return s, jacobian(lambda w: s.outputs(w, x).flatten(), problem.weights())


@pytest.mark.parametrize("solver", [None, LSMR(tol=1e-14)], ids=["Gram", "LSMR"])
def test_where_outputs_are_kept_new_targets_are_new_outputs(solver):
    s, rows = fitted()
    step = 1e-3 * drawn(1, 2, 2)
    wanted = torch.zeros(6, 2, dtype=F64)
    wanted[[1, 4]] = step
    change = Relabel([1, 4], s.y[[1, 4]] + step)
    solution = s.problem.estimate(change, optimality="interpolating", solver=solver).min_norm()
    expected = torch.linalg.pinv(rows) @ wanted.flatten()
    torch.testing.assert_close(solution.value - s.problem.weights(), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("solver", [None, LSMR(tol=1e-14)], ids=["Gram", "LSMR"])
def test_where_outputs_are_kept_new_points_bring_new_rows(solver):
    s, rows = fitted()
    weights = s.problem.weights()
    x = drawn(2, 2, 3)
    here = s.outputs(weights, x)
    step = 1e-3 * drawn(3, 2, 2)
    new_rows = jacobian(lambda w: s.outputs(w, x).flatten(), weights)
    wanted = torch.cat([torch.zeros(12, dtype=F64), step.flatten()])
    change = Add(x, (here + step).detach())
    solution = s.problem.estimate(change, optimality="interpolating", solver=solver).min_norm()
    expected = torch.linalg.pinv(torch.cat([rows, new_rows])) @ wanted
    torch.testing.assert_close(solution.value - weights, expected, rtol=1e-9, atol=1e-12)


def test_where_outputs_are_kept_factors_change_nothing_and_it_is_said():
    s, _ = fitted()
    derivative = s.problem.derivative(Reweight([1]))
    assert "nothing changes" in derivative.reason
    assert float(s.problem.estimate(Reweight([1], 0.5)).min_norm().value.sub(s.problem.weights()).norm()) == 0


def test_a_target_that_only_a_direction_at_infinity_fits_is_refused():
    model = nn.Linear(4, 3, dtype=F64)
    x, y = torch.eye(4, dtype=F64)[:3], torch.arange(3)
    model.weight.data = 30 * torch.eye(3, 4, dtype=F64)
    problem = Problem(model, nn.CrossEntropyLoss(), x, y)
    with pytest.raises(ValueError, match="without a finite minimum"):
        problem.estimate(Relabel([0], [1]), optimality="interpolating")


def test_smoothed_labels_have_a_finite_minimum_that_outputs_go_to():
    loss = nn.CrossEntropyLoss(label_smoothing=0.3)
    x, y = torch.eye(4, dtype=F64)[:3], torch.arange(3)
    model = nn.Linear(4, 3, dtype=F64)
    logits = torch.log(torch.full((3, 3), 0.1, dtype=F64) + 0.7 * torch.eye(3, dtype=F64))
    model.weight.data = torch.cat([logits.T, torch.zeros(3, 1, dtype=F64)], dim=1)
    model.bias.data.zero_()
    problem = Problem(model, loss, x, y)
    end = problem.estimate(Relabel([0], [1]), optimality="interpolating").min_norm().value
    layout = problem.risk().layout
    named = dict(zip(layout.shapes, layout.split(end), strict=True))
    moved = functional_call(model, named, (x,))
    torch.testing.assert_close(moved[0].softmax(dim=0), torch.tensor([0.1, 0.8, 0.1], dtype=F64))
    torch.testing.assert_close(moved[1:], logits[1:])
