"""The length of a proximal answer: that of the recipe where it is given, and said to be unknown elsewhere."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

from solset import Move, Problem, Remove, filters
from solset.errors import SolsetWarning
from solset.operators import GaussNewton, Mixed
from solset.problem import Proximal
from solset.solvers import CG
from solset.training import record

pytestmark = pytest.mark.filterwarnings("ignore::solset.errors.SolsetWarning")
CROSS_ENTROPY = nn.CrossEntropyLoss()
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(120, 6, generator=GENERATOR)
Y = (X[:, 0] * X[:, 1] + 0.3 * X[:, 2] > 0).long()


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 2))


def trained(make_optimizer, epochs: int):
    """A loop of the user's own, with the record that gives real reruns."""
    torch.manual_seed(0)
    model = net()
    optimizer = make_optimizer(model.parameters())
    recorder = record(model, optimizer, CROSS_ENTROPY, X, Y)
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(X, Y), batch_size=24, shuffle=True, generator=GENERATOR
    )
    for _ in range(epochs):
        for inputs, labels in recorder.follow(loader):
            optimizer.zero_grad()
            CROSS_ENTROPY(model(inputs), labels).backward()
            optimizer.step()
    steps = epochs * len(loader)
    run = recorder.run()
    return run, filters.Recipe.of(optimizer, model, steps=steps)


RECIPES = {
    "SGD": (partial(torch.optim.SGD, lr=0.1, momentum=0.9), 10),
    "short SGD": (partial(torch.optim.SGD, lr=0.01), 3),
    "AdamW": (partial(torch.optim.AdamW, lr=3e-3), 10),
    "short AdamW": (partial(torch.optim.AdamW, lr=3e-4, weight_decay=0.1), 3),
}
CHANGES: dict[str, Remove | Move] = {"removal": Remove(range(8)), "move": Move(None, 0.01 * X)}


@pytest.fixture(scope="module", params=RECIPES.values(), ids=RECIPES)
def ended(request):
    run, recipe = trained(*request.param)
    return run, recipe, Problem(run.model, CROSS_ENTROPY, X, Y)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_with_the_recipe_the_length_is_that_of_real_reruns_within_a_factor_of_three(ended, change):
    run, recipe, problem = ended
    real = run.retrain(change, progress=False).change.norm()
    for answer in (
        problem.estimate(change, optimality=Proximal(recipe=recipe)).min_norm(),
        problem.estimate(change).element(recipe),
    ):
        assert real / 3 < (answer.value - problem.weights()).norm() < 3 * real


@pytest.mark.parametrize("solver", [None, CG(tol=1e-12, max_steps=5000)], ids=repr)
def test_the_damping_of_a_recipe_is_a_matrix_in_its_metric(ended, solver):
    _, recipe, problem = ended
    problem = Problem(copy.deepcopy(problem.risk().model).double(), CROSS_ENTROPY, X.double(), Y)
    scale = torch.ones(len(problem.weights())) if recipe.scale is None else recipe.scale
    damping = (1 / recipe.length + torch.as_tensor(recipe.decay)) / scale
    system = GaussNewton(problem.risk()).to_dense() + torch.diag(damping.double())
    dx = 0.1 * X[:1].double()
    answer = problem.estimate(Move([0], dx), optimality=Proximal(recipe=recipe), solver=solver).min_norm()
    expected = -torch.linalg.solve(system, Mixed(problem.risk(), [0]) @ dx.flatten())
    torch.testing.assert_close(answer.value - problem.weights(), expected, rtol=1e-5, atol=1e-8)


def test_without_recipe_and_damping_the_length_is_said_to_be_unknown(ended):
    _, recipe, problem = ended
    assert "length is not calibrated" in problem.estimate(Remove([1])).min_norm().message
    assert "length is not calibrated" in problem.attribute(lambda model: model(X[:1])[0, 0]).message
    for known in (Proximal(damping=0.1), Proximal(recipe=recipe)):
        assert "not calibrated" not in problem.estimate(Remove([1]), optimality=known).min_norm().message


def test_the_door_says_so_too():
    with pytest.warns(SolsetWarning, match=r"no calibrated length without Proximal\(recipe="):
        Problem(net().eval(), CROSS_ENTROPY, X, Y)


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"damping": 0.1, "recipe": filters.Recipe(1.0)}, ValueError, "`damping`.*beside a recipe"),
        ({"recipe": 3.0}, TypeError, "recipe"),
    ],
)
def test_what_is_no_recipe_is_refused(given, error, words):
    with pytest.raises(error, match=words):
        Proximal(**given)


def test_a_recipe_of_other_weights_is_refused():
    problem = Problem(net().eval(), CROSS_ENTROPY, X, Y)
    with pytest.raises(ValueError, match="`recipe`.*110 weights"):
        problem.estimate(Remove([1]), optimality=Proximal(recipe=filters.Recipe(1.0, scale=torch.ones(5))))


def test_weights_that_a_recipe_holds_stay():
    problem = Problem(net().eval(), CROSS_ENTROPY, X, Y)
    scale = torch.ones(110)
    scale[:50] = 0
    recipe = filters.Recipe(1.0, scale=scale)
    change = problem.estimate(Remove([1]), optimality=Proximal(recipe=recipe)).min_norm().value
    change = change - problem.weights()
    assert float(change[:50].norm()) < 1e-4 * float(change[50:].norm())


def test_running_statistics_that_are_held_are_said():
    model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).eval()
    with pytest.warns(SolsetWarning, match="running statistics of one BatchNorm layer are held"):
        problem = Problem(model, CROSS_ENTROPY, X, Y)
    assert "running statistics held" in repr(problem)
    assert "solset.Training moves both" in problem.derivative().reason
