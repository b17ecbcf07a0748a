"""A recipe is poisoned through the replay of its runs, and judged by runs from other seeds."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from solset import Move, Training
from solset.goals import HeldOutLoss, PointLosses
from solset.poisoning import Budget, poison_training


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    x = torch.rand(24, 5, dtype=torch.float64, generator=generator)
    return x, (x.sum(dim=1) > 2.5).long()


def training() -> Training:
    return Training(
        lambda: nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 2)).double(),
        nn.CrossEntropyLoss(),
        *data(),
        optimizer=partial(torch.optim.AdamW, lr=2e-2),
        epochs=5,
        batch_size=8,
        seed=77,
    )


def goal(model: nn.Module) -> Tensor:
    """The margin of the wrong class of one input."""
    outputs = model(torch.full((1, 5), 0.55, dtype=torch.float64))
    return outputs[0, 0] - outputs[0, 1]


BUDGET = Budget([1, 5, 8, 13], 0.2, norm="linf", lower=0.0, upper=1.0)


@pytest.fixture(scope="module")
def design():
    return poison_training(training(), goal, BUDGET, seeds=(0, 1), rounds=4, progress=False)


def test_the_perturbation_stays_in_the_budget_to_the_last_bit(design):
    moved = data()[0][list(design.points)] + design.dx
    assert float(design.dx.abs().max()) <= 0.2
    assert 0.0 <= float(moved.min()) <= float(moved.max()) <= 1.0


def test_goals_are_those_of_real_runs_on_the_moved_data(design):
    for value, change in ((design.clean, None), (design.reached, Move(list(design.points), design.dx))):
        ends = []
        for seed in (0, 1):
            recipe = training().with_seed(seed)
            model = (recipe if change is None else recipe.on(change)).train()
            ends.append(float(goal(model).detach()))
        assert value == pytest.approx(sum(ends) / 2, rel=1e-12)
    assert design.reached == max(one.goal for one in design.rounds)
    assert design.reached > design.clean + 0.05


def test_a_design_beats_random_perturbations_of_the_same_size_on_other_seeds(design):
    seeds = (10, 11, 12)
    judged = design.judge(seeds)
    assert judged.is_confirmed
    feasible = BUDGET.around(training().features(BUDGET.points))
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        change = Move(list(BUDGET.points), feasible.random(generator))
        for verdict, seed in zip(judged.verdicts, seeds, strict=True):
            with torch.no_grad():
                assert float(goal(training().with_seed(seed).on(change).train())) < verdict.poisoned


def test_exposure_is_the_norm_of_the_derivative_by_points(design):
    norms = [training().with_seed(seed).run().attribute(goal).features for seed in design.seeds]
    expected = torch.stack(norms).mean(dim=0).norm(dim=1)
    torch.testing.assert_close(design.exposure, expected)
    assert design.ranking()[0] == (int(expected.argmax()), pytest.approx(float(expected.max())))


def test_a_recipe_on_changed_data_is_the_recipe_built_with_them():
    x, y = data()
    change = Move([2], torch.full((1, 5), 0.1, dtype=torch.float64))
    moved = x.clone()
    moved[2] += 0.1
    built = Training(
        lambda: nn.Linear(5, 2).double(),
        nn.CrossEntropyLoss(),
        moved,
        y,
        optimizer=torch.optim.AdamW,
        epochs=2,
    )
    changed = Training(
        lambda: nn.Linear(5, 2).double(), nn.CrossEntropyLoss(), x, y, optimizer=torch.optim.AdamW, epochs=2
    ).on(change)
    assert torch.equal(built.run().weights, changed.run().weights)


@pytest.mark.parametrize(
    ("given", "named"),
    [({"seeds": ()}, "seeds"), ({"rounds": 0}, "rounds"), ({"budget": Budget([99], 0.1)}, "points")],
)
def test_bad_arguments_are_named(given, named):
    with pytest.raises(ValueError, match=named):
        poison_training(training(), goal, **{"budget": BUDGET, **given})


def test_a_seed_of_the_design_is_no_judge(design):
    with pytest.raises(ValueError, match="seeds that the design did not use"):
        design.judge([1, 5])


def test_a_goal_of_the_library_is_designed_for_as_the_function_that_it_stands_for():
    tests = torch.full((1, 5), 0.55, dtype=torch.float64), torch.tensor([0])

    def loss(model: nn.Module) -> Tensor:
        return nn.functional.cross_entropy(model(tests[0]), tests[1])

    budget = {"seeds": (0,), "rounds": 1}
    raised = poison_training(training(), HeldOutLoss(*tests), BUDGET, **budget)
    by_hand = poison_training(training(), loss, BUDGET, **budget)
    torch.testing.assert_close(raised.dx, by_hand.dx)
    assert raised.reached == pytest.approx(by_hand.reached, rel=1e-12)
    lowered = poison_training(training(), HeldOutLoss(*tests, is_raised=False), BUDGET, **budget)
    assert lowered.reached < lowered.clean < raised.reached
    with pytest.raises(ValueError, match="`goal`.*one value"):
        poison_training(training(), PointLosses(*(part.repeat_interleave(2, 0) for part in tests)), BUDGET)
