"""The judge: every number is that of a real retraining, on moved and on clean data alike."""

import copy
from math import inf

import pytest
import torch
from torch import Tensor, nn

from solset import Move, Problem, Relabel, Remove, design_poisoning, retrain
from solset.goals import HeldOutLoss, WeightFunction
from solset.poisoning import Budget, judge_poisoning
from solset.retraining import GradientDescent, LevenbergMarquardt, Newton

POINTS = [4, 1]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def goal() -> HeldOutLoss:
    return HeldOutLoss(draw(5, 3, seed=1), draw(5, 1, seed=2))


@pytest.fixture
def problem(isolated_net):
    case, weight_decay = isolated_net
    return case.problem(weight_decay=weight_decay)


def test_numbers_are_those_of_retraining(problem, goal):
    moved = Move(POINTS, 0.1 * draw(2, 3))
    method = GradientDescent(20, 0.05)
    (verdict,) = judge_poisoning(problem, goal, moved, methods={"twenty steps": method}).verdicts
    real = retrain(problem, Move(POINTS, moved.dx), method=method)
    still = retrain(problem, Move(POINTS, 0 * moved.dx), method=method)
    assert verdict.poisoned == goal.value(problem.risk(), real.weights)
    assert verdict.clean == goal.value(problem.risk(), still.weights)
    assert verdict.change == verdict.poisoned - verdict.clean
    assert verdict.gradient_norm == pytest.approx(real.gradient_norm)
    assert verdict.predicted is None


@pytest.mark.parametrize("change", [Relabel([0], torch.tensor([[3.0]]).double()), Remove([1])], ids=repr)
def test_a_search_for_outputs_aims_at_those_of_the_changed_data(change):
    model = nn.Linear(2, 1, bias=False).double()
    x, y = torch.eye(2, dtype=torch.float64), torch.tensor([[2.0], [5.0]]).double()
    with torch.no_grad():
        model.weight.copy_(y.T)  # each weight is a target
    goal = WeightFunction(lambda w: w.sum())
    judged = judge_poisoning(
        Problem(model, nn.MSELoss(), x, y), goal, change, methods={"nearest": LevenbergMarquardt()}
    )
    assert judged.verdicts[0].clean == pytest.approx(7)
    assert judged.verdicts[0].poisoned == pytest.approx(8 if isinstance(change, Relabel) else 7)


def test_says_whether_every_retraining_confirms(problem, goal):
    found = design_poisoning(problem, goal, Budget(POINTS, 0.1))
    judged = judge_poisoning(problem, goal, found, methods={"to the end": Newton()})
    assert judged.is_confirmed
    assert judged.trained == found.clean
    assert judged.verdicts[0].predicted == found.predicted
    away = judge_poisoning(problem, goal, Move(POINTS, -found.dx), methods={"to the end": Newton()})
    assert not away.is_confirmed


def test_trains_from_scratch_on_all_points_with_every_seed(isolated_net, problem, goal):
    case, _ = isolated_net
    moved, seen = Move(POINTS, 0.1 * draw(2, 3)), []

    def train(inputs: Tensor, targets: Tensor, seed: int):
        seen.append((inputs, targets, seed))
        model = copy.deepcopy(case.model)
        with torch.no_grad():
            for value in model.parameters():
                value.fill_(seed * float(inputs.sum()))
        return model if seed else problem.weights() * 2

    judged = judge_poisoning(problem, goal, moved, train=train, seeds=(0, 3))
    assert [seed for _, _, seed in seen] == [0, 0, 3, 3]
    assert torch.equal(seen[0][0], case.inputs)
    assert torch.equal(seen[1][0], case.inputs.index_add(0, torch.tensor(POINTS), moved.dx))
    assert torch.equal(seen[1][1], case.targets)
    first, second = judged.verdicts
    assert (first.name, second.name) == ("from scratch, seed 0", "from scratch, seed 3")
    assert first.change == 0
    filled = torch.full_like(problem.weights(), 3 * float(seen[3][0].sum()))
    assert second.poisoned == goal.value(problem.risk(), filled)
    seen.clear()
    again = judge_poisoning(problem, goal, moved, train=train, seeds=(0, 3), clean=judged.clean)
    assert again == judged
    assert len(seen) == 2


class TestModelsThatAreMoreThanTheirMovingWeights:
    """A model trained from scratch is judged as it is: buffers, constants, everything."""

    @staticmethod
    def trained(inputs: Tensor, targets: Tensor, seed: int) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 2)).double()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        for _ in range(60):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
        return model

    @staticmethod
    def data(count: int, seed: int) -> tuple[Tensor, Tensor]:
        inputs = 5 + 3 * draw(count, 3, seed=seed)
        return inputs, (inputs[:, 0] > 5).long()

    @pytest.mark.parametrize("parameters", [None, ["3.*"]])
    @pytest.mark.parametrize("is_training", [False, True])
    def test_are_judged_whole(self, parameters, is_training):
        inputs, targets = self.data(60, seed=0)
        unseen, labels = self.data(200, seed=1)
        problem = Problem(
            self.trained(inputs, targets, 0).eval(),
            nn.CrossEntropyLoss(),
            inputs,
            targets,
            parameters=parameters,
            gradient_tol=inf,
        )
        real, slopes = [], []

        def train(x: Tensor, y: Tensor, seed: int) -> nn.Module:
            model = self.trained(x, y, seed).train(is_training)
            judged = copy.deepcopy(model).eval()
            real.append(nn.functional.cross_entropy(judged(unseen), labels).item())
            moving = [v for name, v in judged.named_parameters() if name in problem.risk().layout.shapes]
            parts = torch.autograd.grad(nn.functional.cross_entropy(judged(x), y), moving)
            slopes.append(float(torch.cat([part.flatten() for part in parts]).norm()))
            state = copy.deepcopy(model.state_dict())
            kept.append((model, state))
            return model

        kept: list[tuple[nn.Module, dict[str, Tensor]]] = []
        moved = Move([0], 0.01 * torch.ones(1, 3).double())
        (verdict,) = judge_poisoning(
            problem, HeldOutLoss(unseen, labels), moved, train=train, seeds=(1,)
        ).verdicts
        assert [verdict.clean, verdict.poisoned] == pytest.approx(real, rel=1e-9)
        assert verdict.gradient_norm == pytest.approx(slopes[1], rel=1e-9)
        for model, state in kept:  # what training returned is not changed
            assert model.training is is_training
            assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())

    def test_weights_of_another_shape_are_refused(self, problem, goal):
        shapes = {name: tuple(shape) for name, shape in problem.risk().layout.shapes.items()}
        name, (rows, columns) = next((n, s) for n, s in shapes.items() if len(s) == 2 and s[0] != s[1])

        def train(*_: object) -> nn.Module:
            model = copy.deepcopy(problem.risk().model)
            owner, _, own = name.rpartition(".")
            turned = nn.Parameter(torch.zeros(columns, rows, dtype=torch.float64))
            setattr(model.get_submodule(owner), own, turned)
            return model

        with pytest.raises(ValueError, match=rf"the problem's kind of model; got .* one without .*'{name}'"):
            judge_poisoning(problem, goal, Move(POINTS, 0.1 * draw(2, 3)), train=train, seeds=(1,))


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({}, ValueError, "`methods` must be one way to retrain or more; got none"),
        ({"methods": {"newton": Newton()}, "seeds": (1,)}, ValueError, "`train` must be a trainer for the"),
        ({"train": lambda *_: 3, "seeds": (1,)}, TypeError, "returns a model or flat weights; got int"),
        ({"train": lambda *data: data[0], "seeds": (1,)}, ValueError, "`weights` must be of shape"),
        (
            {"train": lambda *_: torch.nn.Linear(1, 1), "seeds": (1,)},
            ValueError,
            "returns the problem's kind of model; got .* one without",
        ),
    ],
)
def test_bad_calls_are_refused(problem, goal, options, error, says):
    with pytest.raises(error, match=says):
        judge_poisoning(problem, goal, Move(POINTS, 0.1 * draw(2, 3)), **options)


def test_a_perturbation_of_the_wrong_shape_is_refused(problem, goal):
    with pytest.raises(ValueError, match=r"`dx` must be of shape \(2, 3\)"):
        judge_poisoning(problem, goal, Move(POINTS, draw(3, 3)), methods={"newton": Newton()})
