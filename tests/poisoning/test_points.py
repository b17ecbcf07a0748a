"""Labels to flip and points to drop: against brute force over every choice, really solved for."""

from dataclasses import replace
from itertools import combinations, product

import pytest
import torch
from torch import Tensor, nn

from solset import Problem, Relabel, Remove, SolsetWarning, design_poisoning
from solset.errors import Status
from solset.goals import HeldOutLoss, WeightFunction
from solset.poisoning import Ascent, Drops, Flips, judge_poisoning
from solset.retraining import Newton

DECAY = 0.05
DOUBLE = torch.float64


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def solved(x: Tensor, y: Tensor, classes: int) -> Tensor:
    """The weights of a logistic regression with decay, by Newton's method on dense matrices."""
    n, w, one_hot = len(x), torch.zeros(classes * x.shape[1], dtype=DOUBLE), nn.functional.one_hot(y, classes)
    for _ in range(12):
        p = (x @ w.reshape(classes, -1).T).softmax(dim=1)
        gradient = ((p - one_hot).T @ x / n).flatten() + DECAY * w
        curvature = torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)
        hessian = torch.einsum("ncd,ni,nj->cidj", curvature, x, x).reshape(len(w), len(w)) / n
        w = w - torch.linalg.solve(hessian + DECAY * torch.eye(len(w), dtype=DOUBLE), gradient)
    return w


CLASSES = 3
X, TEST_X = drawn(12, 2, seed=0), drawn(10, 2, seed=1)
TRUTH = torch.tensor([[2.0, -1.0, 0.0], [0.0, 2.0, -1.0]], dtype=DOUBLE)
Y, TEST_Y = (X @ TRUTH + drawn(12, 3, seed=2)).argmax(dim=1), (TEST_X @ TRUTH).argmax(dim=1)


@pytest.fixture(scope="module")
def problem() -> Problem:
    model, weights = nn.Linear(2, CLASSES, bias=False, dtype=DOUBLE), solved(X, Y, CLASSES)
    with torch.no_grad():
        model.weight.copy_(weights.reshape(CLASSES, 2))
    return Problem(model, nn.CrossEntropyLoss(), X, Y, weight_decay=DECAY)


def held_out(w: Tensor) -> float:
    return float(nn.functional.cross_entropy(TEST_X @ w.reshape(CLASSES, 2).T, TEST_Y))


def after_flips(flips: dict[int, int]) -> float:
    y = Y.clone()
    for point, label in flips.items():
        y[point] = label
    return held_out(solved(X, y, CLASSES))


def after_drops(points: tuple[int, ...]) -> float:
    rest = [i for i in range(len(X)) if i not in points]
    return held_out(solved(X[rest], Y[rest], CLASSES))


def test_the_one_label_to_flip_is_that_of_brute_force(problem: Problem) -> None:
    poisoning = design_poisoning(problem, HeldOutLoss(TEST_X, TEST_Y), Flips(1))
    every = {(i, c): after_flips({i: c}) for i, c in product(range(12), range(CLASSES)) if c != int(Y[i])}
    best = max(every, key=every.__getitem__)
    (one,) = poisoning.course
    assert (one.point, one.label) == best
    assert poisoning.real == pytest.approx(every[best], rel=1e-8)
    assert poisoning.status is Status.CONVERGED
    assert isinstance(poisoning.change, Relabel)
    assert poisoning.clean == pytest.approx(held_out(problem.weights()), rel=1e-8)
    estimate = problem.estimate(poisoning.change).min_norm()
    assert poisoning.predicted == pytest.approx(held_out(estimate.value), rel=1e-8)
    assert ("one Newton step predicts" in poisoning.message) is not poisoning.is_confirmed


@pytest.mark.slow
def test_a_search_of_full_width_finds_the_best_pair_of_labels(problem: Problem) -> None:
    some = [2, 5, 7]  # of the best pair, no label is among the best single ones
    poisoning = design_poisoning(
        problem, HeldOutLoss(TEST_X, TEST_Y), Flips(2, points=some, tried=6, breadth=6)
    )
    best = max(
        after_flips({i: a, j: b})
        for i, j in combinations(some, 2)
        for a, b in product(range(CLASSES), repeat=2)
        if a != int(Y[i]) and b != int(Y[j])
    )
    assert poisoning.real == pytest.approx(best, rel=1e-8)
    assert isinstance(poisoning.change, Relabel)
    flips = dict(zip(poisoning.points, poisoning.change.targets.tolist(), strict=True))
    assert poisoning.real == pytest.approx(after_flips(flips), rel=1e-8)


@pytest.mark.slow
def test_two_points_to_drop_come_near_those_of_brute_force(problem: Problem) -> None:
    poisoning = design_poisoning(problem, HeldOutLoss(TEST_X, TEST_Y), Drops(2))
    best = max(after_drops(pair) for pair in combinations(range(12), 2))
    assert poisoning.real - poisoning.clean >= 0.98 * (best - poisoning.clean)
    assert poisoning.real == pytest.approx(after_drops(poisoning.points), rel=1e-8)
    assert isinstance(poisoning.change, Remove)
    assert {row["label"] for row in poisoning.rows()} == {None}


def test_points_and_labels_stay_within_the_budget(problem: Problem) -> None:
    goal = HeldOutLoss(TEST_X, TEST_Y)
    poisoning = design_poisoning(problem, goal, Flips(3, points=[2, 7], labels=[1]))
    assert set(poisoning.points) <= {2, 7}
    assert all(one.label == 1 for one in poisoning.course)
    values = [poisoning.clean, *(one.value for one in poisoning.course)]
    assert values == sorted(values)
    assert poisoning.reason == ("no other point raises the goal")


def test_a_goal_that_is_lowered_drops_the_points_that_harm(problem: Problem) -> None:
    poisoning = design_poisoning(problem, HeldOutLoss(TEST_X, TEST_Y, is_raised=False), Drops(1))
    singles = {i: after_drops((i,)) for i in range(12)}
    best = min(singles, key=singles.__getitem__)
    assert poisoning.points == (best,)
    assert poisoning.real == pytest.approx(singles[best], rel=1e-8)


def test_retraining_judges_a_choice_of_points(problem: Problem) -> None:
    goal = HeldOutLoss(TEST_X, TEST_Y)
    poisoning = design_poisoning(problem, goal, Drops(1))
    judged = judge_poisoning(problem, goal, poisoning, methods={"Newton": Newton()})
    assert judged.is_confirmed
    assert judged.verdicts[0].poisoned == pytest.approx(poisoning.real, rel=1e-8)
    assert judged.verdicts[0].gradient_norm < 1e-9


@pytest.mark.slow
def test_labels_that_are_numbers_of_two_classes_flip_as_well() -> None:
    y = (Y > 0).to(DOUBLE).unsqueeze(1)
    model = nn.Linear(2, 1, bias=False, dtype=DOUBLE)
    nn.init.zeros_(model.weight)
    start = Problem(model, nn.BCEWithLogitsLoss(), X, y, weight_decay=DECAY, gradient_tol=1.0)
    trained = Newton().run(start.risk(), start.risk().outputs).apply_to(model)
    problem = Problem(trained, nn.BCEWithLogitsLoss(), X, y, weight_decay=DECAY)
    goal = HeldOutLoss(TEST_X, (TEST_Y > 0).to(DOUBLE).unsqueeze(1))
    poisoning = design_poisoning(problem, goal, Flips(1))
    values = []
    for i in range(12):
        flipped = Relabel([i], 1 - y[[i]]).applied_to(problem.risk())
        values.append(goal.value(problem.risk(), Newton().run(flipped, flipped.outputs).weights))
    assert poisoning.real == pytest.approx(max(values), rel=1e-8)
    assert poisoning.points == (int(torch.tensor(values).argmax()),)


def test_given_labels_take_the_type_of_the_targets() -> None:
    model = nn.Linear(2, 1, bias=False, dtype=DOUBLE)
    nn.init.zeros_(model.weight)
    y = X.sum(1, keepdim=True)
    numbers = Problem(model, nn.MSELoss(), X, y, weight_decay=DECAY, gradient_tol=1e3)
    assert [label.tolist() for label in Flips(1, labels=[-2.0, 2]).choices(numbers.risk(), 0)] == [
        [-2.0],
        [2.0],
    ]
    classes = Problem(
        nn.Linear(2, 3, dtype=DOUBLE),
        nn.CrossEntropyLoss(),
        X,
        Y.long(),
        weight_decay=DECAY,
        gradient_tol=1e3,
    )
    chance = Flips(1, points=[0, 1, 2, 3], labels=[int(Y[0])]).random(classes.risk(), 3, torch.Generator())
    assert isinstance(chance, Relabel)
    assert all(int(Y[i]) != int(Y[0]) for i in chance.points or [])  # no label flips to itself
    with pytest.raises(ValueError, match=r"`labels` must be finite numbers"):
        Flips(1, labels=[float("nan")])
    with pytest.raises(ValueError, match=r"`labels` must be of torch.int64; got \[0.5\]"):
        Flips(1, labels=[0.5]).choices(classes.risk(), 0)


def test_what_means_nothing_is_refused(problem: Problem) -> None:
    goal = HeldOutLoss(TEST_X, TEST_Y)
    with pytest.raises(ValueError, match="`most` must be"):
        Flips(0)
    with pytest.raises(ValueError, match="`ascent` must be left out for a budget of whole points"):
        design_poisoning(problem, goal, Drops(1), ascent=Ascent())
    with pytest.raises(ValueError, match="in 0..11"):
        design_poisoning(problem, goal, Drops(1, points=[12]))
    model = nn.Linear(2, 1, bias=False, dtype=DOUBLE)
    numbers = Problem(model, nn.MSELoss(), X, X.sum(1, keepdim=True), gradient_tol=1e3, weight_decay=DECAY)
    with pytest.raises(ValueError, match="`labels` must be given"):
        design_poisoning(numbers, HeldOutLoss(TEST_X, TEST_X[:, :1]), Flips(1))
    fitted = Problem(model, nn.MSELoss(), X, model(X).detach())
    with pytest.raises(ValueError, match="one of whole points"):
        design_poisoning(fitted, HeldOutLoss(TEST_X, TEST_X[:, :1]), Drops(1))


def test_points_chosen_for_another_model_than_the_trained_one_are_warned_of() -> None:
    """Training to the end moves the goal more than the best point does, so that they are not its points."""
    model = nn.Linear(2, CLASSES, bias=False, dtype=DOUBLE)
    nn.init.constant_(model.weight, 0.0)
    with pytest.warns(SolsetWarning, match="not stationary"):
        unfinished = Problem(model, nn.CrossEntropyLoss(), X, Y, weight_decay=DECAY)
    with pytest.warns(SolsetWarning) as seen:
        poisoning = design_poisoning(unfinished, HeldOutLoss(TEST_X, TEST_Y), Drops(1))
    assert any("its end on the clean data alone takes the goal from" in str(one.message) for one in seen)
    assert poisoning.is_drifting
    assert poisoning.trained == pytest.approx(held_out(unfinished.weights()))
    assert poisoning.clean == pytest.approx(held_out(solved(X, Y, CLASSES)), rel=1e-6)


def test_no_point_is_tried_where_the_clean_data_have_no_solution() -> None:
    """A loss without a minimum: each further solve would run to its limit, and be compared with none."""
    model = nn.Linear(1, 1, bias=False, dtype=DOUBLE)
    x, y = torch.tensor([[-1.0], [1.0], [2.0]], dtype=DOUBLE), torch.ones(3, 1, dtype=DOUBLE)
    with pytest.warns(SolsetWarning, match="not stationary"):
        unfinished = Problem(model, lambda out, target: (out * target).mean(), x, y)
    with pytest.warns(SolsetWarning) as seen:
        poisoning = design_poisoning(unfinished, WeightFunction(torch.sum), Drops(1))
    assert any("no point was tried" in str(one.message) for one in seen)
    assert poisoning.points == ()
    assert poisoning.status is not Status.CONVERGED


@pytest.mark.parametrize("budget", [Flips(3, breadth=2), Drops(3, breadth=2)])
def test_an_interrupted_search_goes_on_to_the_same_points(problem, budget, tmp_path, monkeypatch) -> None:
    goal, path = HeldOutLoss(TEST_X, TEST_Y), tmp_path / "search.safetensors"
    whole, runs, solve = design_poisoning(problem, goal, budget), [0], Newton.run

    def counted(self, *given):
        runs[0] += 1
        return solve(self, *given)

    def interrupted(self, *given):
        if runs[0] == 20:
            raise KeyboardInterrupt
        return counted(self, *given)

    monkeypatch.setattr(Newton, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        design_poisoning(problem, goal, budget, checkpoint=path)
    monkeypatch.setattr(Newton, "run", counted)
    runs[0] = 0
    again = design_poisoning(problem, goal, budget, checkpoint=path)
    rest = runs[0]
    assert again.points == whole.points
    assert again.course[0] == whole.course[0]
    torch.testing.assert_close(again.weights, whole.weights, rtol=1e-10, atol=1e-12)
    runs[0] = 0
    design_poisoning(problem, goal, budget)
    assert rest < runs[0]
    with pytest.raises(ValueError, match="`checkpoint` must be of this problem"):
        design_poisoning(problem, goal, replace(budget, most=2), checkpoint=path)
