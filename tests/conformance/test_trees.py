"""Every capability gives the same numbers on a tree of tensors as on the tensor that moves alone."""

import math
import warnings
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from solset import (
    Move,
    Problem,
    Remove,
    SolsetWarning,
    audit,
    design_poisoning,
    follow_path,
    lipschitz_modulus,
    plan,
    retrain,
    training_stability,
)
from solset.goals import HeldOutLoss, PointLosses
from solset.landscapes import landscape
from solset.operators import InformativeRows
from solset.poisoning import Budget, judge_poisoning, stability_margin
from solset.retraining import LBFGS, GradientDescent, WithOptimizer, follow_retraining, tangent_recursion

N, POINTS = 6, [0, 3]


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


TABLE, LABELS = drawn(N, 3, seed=1), torch.tensor([0, 1, 0, 1, 1, 0])
IMAGE, COUNTS = drawn(1, 2, seed=2).expand(N, 2).contiguous(), torch.full((N,), 2)
MOVE = Move(POINTS, 0.02 * drawn(2, 3, seed=3))
TESTS = TABLE[:2] + 0.1


class Both(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image, self.table, self.out = nn.Linear(2, 3), nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, table, image, counts):
        h = torch.tanh(self.image(image) + self.table(table))
        return {"scores": self.out(h) * counts.unsqueeze(-1), "hidden": h}


class TableAlone(nn.Module):
    """The same model, with the other inputs built in."""

    def __init__(self, both: nn.Module) -> None:
        super().__init__()
        self.both = both

    def forward(self, table):
        count = len(table)
        return self.both(table, IMAGE[:1].expand(count, 2), COUNTS[:1].expand(count))["scores"]


def tree(table: Tensor) -> dict[str, Tensor]:
    return {"image": IMAGE[: len(table)], "counts": COUNTS[: len(table)], "table": table}


@pytest.fixture(scope="module", params=["with decay", "fitted"])
def pair(request) -> tuple[Problem, Problem, Tensor]:
    """The problem of a tree, that of the moving tensor alone, and the targets of both."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        both = Both().double().eval()
    alone, is_fitted = TableAlone(both).eval(), request.param == "fitted"
    loss, decay = (nn.MSELoss(), 0.0) if is_fitted else (nn.CrossEntropyLoss(), 0.05)
    targets = alone(TABLE).detach() if is_fitted else LABELS
    weights = list(both.parameters())
    optimizer = torch.optim.LBFGS(weights, max_iter=500, tolerance_grad=1e-11, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        value = loss(alone(TABLE), targets) + decay / 2 * sum(w.square().sum() for w in weights)
        value.backward()
        return value

    optimizer.step(closure)
    of_tree = Problem(both, loss, tree(TABLE), targets, moves="table", outputs="scores", weight_decay=decay)
    return of_tree, Problem(alone, loss, TABLE, targets, weight_decay=decay), targets


def inputs_of(problem: Problem, table: Tensor):
    return table if problem.risk().points.tree is None else tree(table)


def trained(inputs, targets, seed):  # noqa: ARG001 - the interface of a trainer
    """One step from the trained weights on the data that the judge passes."""
    if isinstance(inputs, dict):
        assert set(inputs) == {"image", "counts", "table"}
        assert inputs["counts"].dtype == torch.int64
        inputs = inputs["table"]
    return torch.full((29,), float(inputs.sum() + targets.sum()) / 1e3, dtype=torch.float64)


def goal(problem: Problem, targets: Tensor) -> HeldOutLoss:
    return HeldOutLoss(inputs_of(problem, TESTS), targets[:2])


BUDGET = Budget(points=POINTS, radius=0.02)
CAPABILITIES = {
    "auto": lambda p, _: p.estimate(MOVE).min_norm().weights,
    "stationary": lambda p, _: p.estimate(MOVE, optimality="stationary").min_norm().weights,
    "gauss-newton": lambda p, _: p.estimate(MOVE, optimality="gauss_newton").min_norm().weights,
    "coderivative": lambda p, _: p.coderivative(points=POINTS)(torch.ones_like(p.weights())).min_norm().value,
    "modulus": lambda p, _: lipschitz_modulus(p, points=POINTS).value,
    "audit": lambda p, y: audit(p, validation=(inputs_of(p, TESTS), y[:2])).maps,
    "audit of the stationary map": lambda p, _: audit(p, optimality="stationary").modulus,
    "stability": lambda p, _: training_stability(p, MOVE).distance,
    "retraining": lambda p, _: retrain(p, MOVE, method=LBFGS()).weights,
    "gradient descent": lambda p, _: retrain(p, MOVE, method=GradientDescent(20, 0.1)).weights,
    "an optimizer": lambda p, _: (
        retrain(
            p, MOVE, method=WithOptimizer(lambda w: torch.optim.SGD(w, lr=0.1), epochs=2, batch_size=4)
        ).weights
    ),
    "a course": lambda p, _: follow_retraining(p, MOVE, steps=3, learning_rate=0.1, progress=False).weights,
    "a recursion": lambda p, _: tangent_recursion(p, MOVE, steps=3, learning_rate=0.1, progress=False),
    "a design": lambda p, y: design_poisoning(p, goal(p, y), BUDGET).dx,
    "a judgement": lambda p, y: str(
        judge_poisoning(p, goal(p, y), MOVE, methods={}, train=trained, seeds=[0]).rows()
    ),
    "a margin": lambda p, _: stability_margin(p, inputs_of(p, TESTS[:1]), BUDGET).linear,
    "left out": lambda p, _: p.estimate(Remove([1, 4]), optimality="stationary").min_norm().weights,
    "retraining without": lambda p, _: retrain(p, Remove([1]), method=GradientDescent(20, 0.1)).weights,
    "worth of points": lambda p, y: (
        p.attribute(PointLosses(inputs_of(p, TESTS), y[:2]), optimality="stationary").weights
    ),
    "worth of features": lambda p, y: p.attribute(PointLosses(inputs_of(p, TESTS), y[:2])).features,
    "plan": lambda p, _: plan(p).reason,
    "moved to": lambda p, _: p.moved_to(MOVE, p.weights()).gradient(),
    "some points": lambda p, _: p.restrict(points=[3, 0]).estimate(Move([1], MOVE.dx[:1])).min_norm().weights,
    "a landscape": lambda p, _: landscape(p, {"a": p.gradient() + 1.0}, resolution=3).values,
}


SLOW = {"a design", "a margin"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in CAPABILITIES]
)
def test_a_tree_gives_what_its_moving_tensor_gives(pair, name):
    of_tree, alone, targets = pair
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SolsetWarning)  # both warn alike of a singular Hessian
        results = [CAPABILITIES[name](problem, targets) for problem in (of_tree, alone)]
    if isinstance(results[0], Mapping):
        results = [torch.cat([value.flatten() for value in result.values()]) for result in results]
    if isinstance(results[0], Tensor):
        torch.testing.assert_close(*results)
    elif isinstance(results[0], float):
        assert math.isclose(*results, rel_tol=1e-9)
    else:
        assert results[0] == results[1]


def test_a_path_is_the_same(pair):
    of_tree, alone, _ = pair
    ends = []
    for problem in (of_tree, alone):
        try:
            ends.append(follow_path(problem, MOVE, progress=False).weights)
        except ValueError as error:  # the fitted set of this net is not isolated
            ends.append(str(error))
    if isinstance(ends[0], str):
        assert ends[0] == ends[1]
    else:
        torch.testing.assert_close(*ends)


def test_a_stored_derivative_is_that_of_the_tree(pair, tmp_path):
    of_tree, _, _ = pair
    if not of_tree.is_fitted:
        return
    of_tree.derivative(points=POINTS, rows=InformativeRows()).save(tmp_path)
    again = of_tree.load_derivative(tmp_path)(MOVE.dx).min_norm().value
    expected = of_tree.derivative(points=POINTS, rows=InformativeRows())(MOVE.dx).min_norm().value
    torch.testing.assert_close(again, expected)
