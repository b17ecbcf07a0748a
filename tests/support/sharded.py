"""What must come out the same however many processes share the points."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from solset import (
    Move,
    Problem,
    WholeBatch,
    audit,
    follow_path,
    lipschitz_modulus,
    plan,
    retrain,
    training_stability,
)
from solset.goals import PointLosses
from solset.landscapes import landscape
from solset.operators import GaussNewton, Hessian, InformativeRows, InputJacobian, Jacobian, Mixed
from solset.retraining import GradientDescent, LevenbergMarquardt
from solset.solvers import CG, LSMR, MINRES, Dual
from solset.solvers.filters import GradientFlow
from support.fitted import net as fitted
from support.interpolators import fitted as interpolator
from support.systems import Tiled


class Counted(Dataset):
    """Points that count how often they are read."""

    def __init__(self, inputs: Tensor, targets: Tensor) -> None:
        self.inputs, self.targets, self.reads = inputs, targets, 0

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        self.reads += 1
        return self.inputs[index], self.targets[index]


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def convolutional(count: int, **options) -> tuple[Problem, Counted]:
    """A small net on images, not trained: derivatives do not ask whether it is."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 36, 3)
        )
    data = Counted(draw(count, 1, 8, 8, seed=1), torch.arange(count) % 3)
    options = {"batch_size": 4, "gradient_tol": float("inf"), "weight_decay": 0.1, **options}
    return Problem(net.double().eval(), nn.CrossEntropyLoss(), data, **options), data


def whole_batch(count: int) -> Problem:
    """A loss of all outputs at once, whose points different processes hold."""
    net, data = nn.Linear(5, 3).double(), draw(count, 5, seed=8)
    with torch.no_grad():
        net.weight.copy_(draw(3, 5, seed=9))
        net.bias.zero_()
    loss = WholeBatch(lambda outputs, _: (outputs @ outputs.T).logsumexp(dim=1).mean())
    return Problem(net, loss, data, torch.zeros(count), batch_size=4, gradient_tol=float("inf"))


def derivatives(count: int, points: Sequence[int], memory_budget: int) -> dict[str, Tensor]:
    """Every product with every operator."""
    risk = convolutional(count)[0].risk()
    p, kept = risk.layout.size, {"memory_budget": memory_budget}
    found = {"value": torch.tensor(risk.value()), "gradient": risk.gradient(), "outputs": risk.outputs()}
    found |= {"losses": risk.losses(), "input_gradients": risk.input_gradients()}
    for operator in (
        Hessian(risk, **kept),
        GaussNewton(risk, **kept),
        Jacobian(risk, **kept),
        Mixed(risk, points, **kept),
        InputJacobian(risk, points, **kept),
    ):
        name, (m, columns) = type(operator).__name__, operator.shape
        for k in (1, 3):
            found[f"{name} @ {k}"] = operator @ draw(columns, k, seed=2)
            found[f"{name}.T @ {k}"] = operator.T @ draw(m, k, seed=3)
            found[f"{name} twice"] = operator @ draw(columns, seed=4)
    pairs = whole_batch(count).risk()
    found["value of all at once"], found["gradient of all at once"] = (
        torch.tensor(pairs.value()),
        pairs.gradient(),
    )
    for operator in (Hessian(pairs, **kept), Mixed(pairs, points, **kept), GaussNewton(pairs, **kept)):
        found[f"{type(operator).__name__} of all at once"] = operator @ draw(operator.shape[1], 2, seed=2)
    found["rows"] = Jacobian(risk).rows(1, 8)
    found["blocks"] = InputJacobian(risk, points).gram_blocks()
    assert len(found["gradient"]) == p
    return found


def solutions() -> dict[str, Tensor]:
    """Every solver, and the analyses above them."""
    found: dict[str, Tensor] = {}
    isolated, _ = convolutional(11, weight_decay=5.0)
    dx = 0.01 * draw(2, 1, 8, 8, seed=5)
    for solver in (CG(tol=1e-12), MINRES(tol=1e-12)):
        change = isolated.estimate(Move([1, 9], dx), solver=solver, optimality="stationary").min_norm().value
        found[f"influence by {type(solver).__name__}"] = change
    worth = isolated.attribute(PointLosses(dx, torch.tensor([0, 1])))
    found |= {"worth of points": worth.weights, "worth of features": worth.features}
    net = interpolator()
    problem, dx = net.problem(), 0.01 * draw(2, 64, seed=6)
    for name, solver in {
        "kept": Dual(),
        "recomputed": Dual(memory_budget=300_000),
        "tiles": Tiled(side=7),
        "LSMR": LSMR(tol=1e-13),
    }.items():
        derivative = problem.derivative(points=[3, 7], optimality="interpolating", solver=solver)
        found[f"minimum norm, {name}"] = derivative(dx).min_norm().value
        found[f"trained, {name}"] = derivative(dx).element(GradientFlow(steps=50, learning_rate=0.05)).value
    stability = training_stability(
        problem, Move([3, 7], dx), samples=2, generator=torch.Generator().manual_seed(0)
    )
    found["distances"] = torch.tensor([stability.distance, stability.sampled_distance])
    found["modulus"] = torch.tensor([lipschitz_modulus(problem, points=[3]).value])
    found["audit"] = torch.stack([audit(problem, joint=joint).isolated_modulus for joint in (True, False)])
    start = problem.weights()
    found["path"] = follow_path(problem, Move([3, 7], 10 * dx)).weights - start
    found["nearest"] = retrain(problem, Move([3, 7], dx), method=LevenbergMarquardt()).weights - start
    slow = GradientDescent(steps=5, learning_rate=0.1)
    found["descent"] = retrain(problem, Move([3, 7], dx), method=slow).weights - start
    return found


def chosen_rows() -> dict[str, Tensor]:
    """The Gram route on informative rows, with more rows taken in by its check."""
    problem = fitted("convolutional").problem()
    rows = InformativeRows(tol=1e-4)
    dx = 0.01 * draw(2, 64, seed=7)
    derivative = problem.derivative(points=[3, 17], optimality="interpolating", rows=rows)
    change = derivative(dx).min_norm().value
    assert derivative.check is not None
    surface = landscape(problem, {"change": change}, resolution=3, progress=False)
    planned = [route.rows or 0 for route in plan(problem, points=[3, 17]).routes]
    return {
        "on chosen rows": change,
        "checked": torch.tensor([derivative.check.residual, derivative.check.rows]),
        "landscape": surface.values["all"],
        "planned": torch.tensor(planned, dtype=torch.float64),
    }


def everything() -> dict[str, Tensor]:
    """All of it, for points that do and do not divide evenly, and fewer points than processes."""
    found = {}
    for count, points in ((11, [1, 9, 4]), (3, [2])):
        for budget in (0, 2**30):
            many = derivatives(count, points, budget)
            found |= {f"{count} points, {budget} bytes: {name}": part for name, part in many.items()}
    return {**found, **solutions(), **chosen_rows()}


def reads(products: int) -> int:
    """How often points are read in so many Hessian products and gradients."""
    problem, data = convolutional(64)
    hessian = Hessian(problem.risk(), memory_budget=0)
    vector = draw(problem.risk().layout.size, seed=8)
    before = data.reads
    for _ in range(products):
        hessian @ vector
        problem.risk().gradient()
    return data.reads - before
