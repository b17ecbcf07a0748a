"""Designed perturbations of digits, judged by real retraining, and the adjoint against finite differences."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import cast

import torch
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks.tables import table
from solset import Move, Problem, design_poisoning, retrain
from solset.goals import HeldOutLoss, TargetWeights
from solset.operators import GaussNewton
from solset.paper import digits
from solset.paper._training import fit_exactly
from solset.poisoning import (
    Ascent,
    Budget,
    FeasibleSet,
    Judgement,
    Poisoning,
    adjoint_gradient,
    judge_poisoning,
    stability_margin,
)
from solset.reports import cross_entropy_directions
from solset.retraining import LBFGS, GradientDescent, LevenbergMarquardt, Method, Newton
from solset.solvers import filters, largest_eigenvalue
from solset.zoo import DFCNN

STEPS = 1000  # of the gradient descent that the poisoner counts on
RANDOM = 10  # random directions of the same size
FROM_SCRATCH = (101, 102)  # seeds of other initial weights


def network(seed: int) -> nn.Module:
    """A tanh network for digits with its initial weights."""
    generator = torch.Generator().manual_seed(seed)
    return DFCNN([64, 128, 64, 10], activation=torch.tanh, generator=generator)


def fitted(inputs: Tensor, targets: Tensor, seed: int) -> nn.Module:
    """The network fitted to rounding."""
    model = network(seed)
    fit_exactly(model, inputs, targets)
    return model.eval()


@dataclass(frozen=True)
class Digit:
    """One seed: ten of 100 fitted digits may move by a tenth of the mean norm, within valid pixels.

    Attributes:
        seed: Seed of the initial weights and of the choice of points.
        share: Radius over the mean norm of the points that move.
    """

    seed: int
    share: float = 0.1

    @cached_property
    def problem(self) -> Problem:
        """The trained point."""
        train = digits().part(0, 100)
        model = fitted(train.inputs, train.one_hot(), self.seed)
        return Problem(model, nn.MSELoss(), train.inputs, train.one_hot())

    @cached_property
    def budget(self) -> Budget:
        """An l2 ball for each of ten points."""
        order = torch.randperm(100, generator=torch.Generator().manual_seed(self.seed))
        points = order[:10].tolist()
        mean = float(digits().inputs[points].norm(dim=1).mean())
        return Budget(points, self.share * mean, lower=0.0, upper=1.0)

    @cached_property
    def feasible(self) -> FeasibleSet:
        """What the budget allows."""
        return self.budget.at(self.problem)

    @cached_property
    def rate(self) -> float:
        """The largest stable learning rate, halved."""
        return 1.0 / largest_eigenvalue(GaussNewton(self.problem.risk()))

    @cached_property
    def methods(self) -> dict[str, Method]:
        """Retraining from the trained weights."""
        return {
            "gradient descent": GradientDescent(STEPS, self.rate),
            "L-BFGS": LBFGS(max_gradients=300),
        }

    @cached_property
    def goal(self) -> HeldOutLoss:
        """The loss of 500 unseen digits."""
        unseen = digits().part(1000, 1500)
        return HeldOutLoss(unseen.inputs, unseen.one_hot())

    def design(self, goal: HeldOutLoss | TargetWeights) -> Poisoning:
        """A perturbation for a goal, counting on gradient descent."""
        element = filters.GradientFlow(STEPS, self.rate)
        return design_poisoning(self.problem, goal, self.budget, element=element)

    def judge(self, change: Poisoning | Move, earlier: Judgement | None = None) -> Judgement:
        """Retrained from the trained weights and from scratch."""
        return judge_poisoning(
            self.problem,
            self.goal,
            change,
            methods=self.methods,
            train=fitted,
            seeds=FROM_SCRATCH,
            clean=earlier.clean if earlier else None,
        )

    def random(self, number: int) -> Move:
        """A random direction of the same size."""
        generator = torch.Generator().manual_seed(1000 + number)
        return Move(self.budget.points, self.feasible.random(generator))


def input_gradient(problem: Problem, feasible: FeasibleSet) -> Move:
    """Projected ascent of the points' own cross-entropy at the trained weights: no solution set."""
    points, dx = list(feasible.budget.points), torch.zeros_like(feasible.inputs)
    labels = digits().labels[points]
    for _ in range(40):
        step = cross_entropy_directions(problem.risk().model, feasible.inputs + dx, labels)
        dx = feasible.project(dx + 0.1 * feasible.budget.radius * step)
    return Move(points, dx)


def validation(seed: int) -> list[dict[str, object]]:
    """Change of the loss of unseen digits by each retraining: designed, input gradient, random."""
    run = Digit(seed)
    designed = run.design(run.goal)
    first = run.judge(designed)
    ascent = run.judge(input_gradient(run.problem, run.feasible), first)
    random = [run.judge(run.random(number), first) for number in range(RANDOM)]
    rows = []
    for place, verdict in enumerate(first.verdicts):
        others = torch.tensor([judged.verdicts[place].change for judged in random])
        rows.append(
            {
                "seed": seed,
                "retraining": verdict.name,
                "clean": verdict.clean,
                "linear": designed.linear - designed.clean,
                "predicted": designed.predicted - designed.clean,
                "designed": verdict.change,
                "input_gradient": ascent.verdicts[place].change,
                "random_mean": float(others.mean()),
                "random_mean_size": float(others.abs().mean()),
                "random_largest": float(others.max()),
                "reason": designed.reason.value,
            }
        )
    return rows


@dataclass(frozen=True)
class Logistic:
    """Logistic regression with weight decay on 200 digits: one solution, wherever training starts."""

    weight_decay: float = 1e-3

    @cached_property
    def problem(self) -> Problem:
        """The trained point."""
        data = digits().part(0, 200)
        start = Problem(
            nn.Linear(64, 10, dtype=torch.float64).eval(),
            nn.CrossEntropyLoss(),
            data.inputs,
            data.labels,
            weight_decay=self.weight_decay,
            gradient_tol=float("inf"),
        )
        weights = self.train(start, data.inputs, 0)
        nn.utils.vector_to_parameters(weights, start.risk().model.parameters())
        return start.moved_to(Move(None, 0 * data.inputs), weights)

    @staticmethod
    def train(problem: Problem, inputs: Tensor, seed: int) -> Tensor:
        """Random initial weights, then L-BFGS to the end."""
        generator = torch.Generator().manual_seed(seed)
        begin = 0.1 * torch.randn(650, generator=generator, dtype=torch.float64)
        inputs_before, _ = problem.risk().points[range(len(inputs))]
        risk = problem.risk().move(range(len(inputs)), inputs - inputs_before).at(begin)
        return LBFGS(gradient_tol=1e-9, max_gradients=2000).run(risk, problem.risk().outputs).weights

    def row(self, seed: int) -> dict[str, object]:
        """Three digits may move by 1.0 within valid pixels; judged from the weights and from scratch."""
        problem, unseen = self.problem, digits().part(1000, 1500)
        points = torch.randperm(200, generator=torch.Generator().manual_seed(seed))[:3].tolist()
        goal, budget = HeldOutLoss(unseen.inputs, unseen.labels), Budget(points, 1.0, lower=0.0, upper=1.0)
        designed = design_poisoning(problem, goal, budget, ascent=Ascent(max_rounds=6))

        def train(inputs: Tensor, _: Tensor, start: int) -> Tensor:
            return self.train(problem, inputs, start)

        methods: dict[str, Method] = {"Newton": Newton()}
        first = judge_poisoning(problem, goal, designed, methods=methods, train=train, seeds=(1, 2))
        feasible, others = budget.at(problem), []
        for number in range(RANDOM):
            change = Move(points, feasible.random(torch.Generator().manual_seed(1000 + number)))
            judged = judge_poisoning(problem, goal, change, methods=methods, clean=first.clean)
            others.append(judged.verdicts[0].change)
        sizes = torch.tensor(others)
        plain = input_gradient(problem, feasible)
        ascent = judge_poisoning(problem, goal, plain, methods=methods, clean=first.clean)
        return {
            "seed": seed,
            "clean": first.trained,
            "linear": designed.linear - designed.clean,
            "predicted": designed.predicted - designed.clean,
            **{verdict.name: verdict.change for verdict in first.verdicts},
            "input_gradient": ascent.verdicts[0].change,
            "random_mean": float(sizes.mean()),
            "random_mean_size": float(sizes.abs().mean()),
            "random_largest": float(sizes.max()),
        }


def reached_by(run: Digit, problem: Problem, dx: Tensor) -> Tensor:
    """Weights after gradient descent from the trained ones."""
    method = GradientDescent(STEPS, run.rate)
    return retrain(problem, Move(run.budget.points, dx), method=method).weights


def targets(seed: int) -> list[dict[str, object]]:
    """Distances to target weights before and after, for a target within reach and one that is not."""
    run = Digit(seed)
    problem, train = run.problem, digits().part(0, 100)
    hidden = cast(Tensor, run.random(99).dx)
    others = [i for i in range(100) if i not in set(run.budget.points)][:5]
    labels = train.labels.clone()
    labels[others] = (labels[others] + 1) % 10
    wrong = torch.nn.functional.one_hot(labels, 10).to(torch.float64)
    flipped = Problem(problem.risk().model, nn.MSELoss(), train.inputs, wrong, gradient_tol=float("inf"))
    wanted = {
        "digits moved in secret": reached_by(run, problem, hidden),
        "five other labels wrong": reached_by(run, flipped, 0 * hidden),
    }
    rows = []
    for name, weights in wanted.items():
        goal = TargetWeights(weights)
        designed = run.design(goal)
        judged = judge_poisoning(problem, goal, designed, methods=run.methods)
        random = judge_poisoning(problem, goal, run.random(0), methods=run.methods, clean=judged.clean)
        for verdict, other in zip(judged.verdicts, random.verdicts, strict=True):
            rows.append(
                {
                    "seed": seed,
                    "target": name,
                    "retraining": verdict.name,
                    "before": judged.trained,
                    "predicted": designed.predicted,
                    "after": verdict.poisoned,
                    "random": other.poisoned,
                }
            )
    return rows


def differences(problem: Problem, goal: HeldOutLoss, method: Method, element: filters.Filter | None) -> float:
    """Relative error of the adjoint gradient against central differences of real re-solving."""
    points, size = [4, 1], 1e-4
    adjoint = adjoint_gradient(problem, goal, points=points, element=element).gradient

    def solved(dx: Tensor) -> float:
        return goal.value(problem.risk(), retrain(problem, Move(points, dx), method=method).weights)

    truth = torch.zeros_like(adjoint)
    for place in range(truth.numel()):
        dx = torch.zeros_like(truth)
        dx.view(-1)[place] = size
        truth.view(-1)[place] = (solved(dx) - solved(-dx)) / (2 * size)
    return float((adjoint - truth).norm() / truth.norm())


def adjoints() -> list[dict[str, object]]:
    """The adjoint on three smooth problems: nearest solution, training of 50 steps, isolated solution."""
    generator = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    inputs, wanted, unseen = draw(6, 3), draw(6, 2), HeldOutLoss(draw(5, 3), draw(5, 2))
    model = DFCNN([3, 12, 2], activation=torch.tanh, generator=generator)
    fit_exactly(model, inputs, wanted)
    problem = Problem(model.eval(), nn.MSELoss(), inputs, wanted)
    rate = 1.0 / largest_eigenvalue(GaussNewton(problem.risk()))
    start = Problem(model, nn.MSELoss(), inputs, wanted, weight_decay=0.01, gradient_tol=float("inf"))
    minimum = Newton(gradient_tol=1e-13, max_steps=200).run(start.risk(), start.risk().outputs)
    regular = start.moved_to(Move(None, 0 * inputs), minimum.weights)
    flow = filters.GradientFlow(50, rate)
    cases: dict[str, Callable[[], float]] = {
        "nearest solution, Levenberg–Marquardt": lambda: differences(
            problem, unseen, LevenbergMarquardt(output_tol=1e-12, max_steps=60), None
        ),
        "50 steps of gradient descent": lambda: differences(problem, unseen, GradientDescent(50, rate), flow),
        "isolated solution, Newton": lambda: differences(regular, unseen, Newton(gradient_tol=1e-13), None),
    }
    return [{"solution": name, "error": measure()} for name, measure in cases.items()]


def cosines() -> list[dict[str, object]]:
    """How alike the adjoint gradients of one goal are at networks with other initial weights."""
    run, gradients = Digit(0), []
    for seed in (0, 11, 12, 13):
        problem = Digit(seed).problem
        rate = 1.0 / largest_eigenvalue(GaussNewton(problem.risk()))
        element = filters.GradientFlow(STEPS, rate)
        adjoint = adjoint_gradient(problem, run.goal, points=run.budget.points, element=element)
        gradients.append(adjoint.gradient)
    first = gradients[0]
    return [
        {"seed": seed, "cosine with seed 0": float((first * other).sum() / (first.norm() * other.norm()))}
        for seed, other in zip((11, 12, 13), gradients[1:], strict=True)
    ]


def margins(logistic: Logistic, count: int = 5) -> list[dict[str, object]]:
    """The smallest radius that flips a prediction, by the linear model and for real, of doubtful digits."""
    problem, unseen, budget = logistic.problem, digits().part(1000, 1500), Budget([0, 3, 7, 20, 50], 1.5)
    budget = replace(budget, lower=0.0, upper=1.0)
    with torch.no_grad():
        outputs = problem.risk().forward(problem.risk().layout.split(problem.weights()), unseen.inputs)
    first, second = outputs.topk(2).values.unbind(1)
    rows = []
    for digit in (first - second).argsort()[5 : 5 * (count + 1) : 5].tolist():
        margin = stability_margin(problem, unseen.inputs[digit], budget, ascent=Ascent(max_rounds=2))
        rows.append(
            {
                "digit": 1000 + digit,
                "label": margin.label,
                "rival": margin.rival,
                "gap": float(first[digit] - second[digit]),
                "linear": margin.linear,
                "verified": margin.verified,
                "unflipped": margin.unflipped,
                "re-solvings": len(margin.trials),
            }
        )
    return rows


def show(title: str, rows: list[dict[str, object]]) -> None:
    """A table of rows that have the same keys."""
    cells = [[f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows]
    print(f"{title}\n{table(list(rows[0]), cells)}\n", flush=True)


def run(seeds: range = range(5)) -> dict[str, object]:
    """All of it, printed as it comes."""
    exact = adjoints()
    show("relative error of the adjoint gradient against central differences of real re-solving", exact)
    alike = cosines()
    show("adjoint gradients at other fitted networks", alike)
    logistic = Logistic()
    isolated = [logistic.row(seed) for seed in tqdm(seeds, desc="isolated")]
    show("change of the loss of 500 unseen digits, logistic regression with weight decay", isolated)
    flipped = margins(logistic)
    show("stability margins of doubtful digits, logistic regression, five training digits move", flipped)
    raised: list[dict[str, object]] = []
    reached: list[dict[str, object]] = []
    for seed in tqdm(seeds, desc="seeds"):
        raised += validation(seed)
        show(f"change of the loss of 500 unseen digits, seeds to {seed}", raised)
        reached += targets(seed)
        show(f"distance to target weights, seeds to {seed}", reached)
    return {
        "adjoint": exact,
        "cosines": alike,
        "isolated": isolated,
        "margins": flipped,
        "validation": raised,
        "targets": reached,
    }
