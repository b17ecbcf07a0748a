"""The linear datamodeling score and leave-one-out correlations of attributions of logistic regression.

The protocol is that of dattri (Deng et al. 2024, section 4): logistic regression on MNIST with 5,000 training
and 500 test images, trained again on random halves of the data. The linear datamodeling score is the rank
correlation, over the halves, of the summed scores of the points in a half with the test loss after training
on it, averaged over test images. Here every training goes to the end. What noise is left is measured by
training on some halves again from other starts: the correlation of both is the largest that is to be had.
A Newton step for a whole half is no sum over its points: it shows what a sum cannot follow.
"""

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.handwriting import Images, digits, mnist, trained
from benchmarks.tables import table
from solset import Problem, Remove
from solset.goals import PointLosses
from solset.operators import PointGradients
from solset.solvers import Dense

PUBLISHED = "dattri, MNIST and logistic regression: LDS 0.80 (explicit, CG), TRAK-50 0.68; leave-one-out 0.88"
AGAIN = 10  # halves that are trained on again from other starts
MOST_WEIGHTS = 2000  # weights up to which a Newton step is taken to each half, which decomposes a matrix
TO_THE_END = 1e-9  # largest entry of the gradient after which a training without one point has ended


@dataclass(frozen=True)
class Case:
    """Data with the decay of the training, and how much of it is trained again."""

    data: Images
    decay: float
    halves: int
    alone: int


def run(*, small: bool, large: bool) -> dict[str, object]:
    """Prints the scores on digits, and on MNIST where it is asked for and can be had."""
    results: dict[str, object] = {"published": PUBLISHED}
    cases = [Case(digits(500, 200), 1e-3, 20, 20) if small else Case(digits(1000, 300), 1e-3, 40, 100)]
    if large and (data := mnist(5000, 500)) is not None:
        cases.append(Case(data, 1e-2, 50, 100))
    for case in cases:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a step to half of the data is long, which a warning says
            results[f"{case.data.name}, decay {case.decay:g}"] = _scores(case)
    print(f"\nPublished: {PUBLISHED}")
    return results


def _losses(model: nn.Module, data: Images) -> Tensor:
    with torch.no_grad():
        return cross_entropy(model(data.test_inputs), data.test_labels, reduction="none")


def _scores(case: Case) -> dict[str, float]:
    """The scores of each attribution, on one data set."""
    data, count, width = case.data, *case.data.inputs.shape
    start = nn.Linear(width, 10, dtype=torch.float64)
    nn.init.zeros_(start.weight)
    nn.init.zeros_(start.bias)
    model = trained(start, data.inputs, data.labels, case.decay)
    options = {"weight_decay": case.decay, "memory_budget": 12 * 2**30}
    problem = Problem(model, nn.CrossEntropyLoss(), data.inputs, data.labels, **options)
    goal = PointLosses(data.test_inputs, data.test_labels)
    attribution = problem.attribute(goal, features=False, solver=Dense(), optimality="stationary")
    gradients = goal.slopes(problem.risk(), problem.weights()).gradients
    whole = {
        "attribute, first order": -torch.as_tensor(attribution.weights),
        "gradient dot product": -_of_gradients(problem, gradients),
    }
    generator = torch.Generator().manual_seed(1)
    left_out = torch.randperm(count, generator=generator)[: case.alone].tolist()
    real, steps = _left_out(problem, model, case, left_out)
    truth, again, inside, steps_to = _halves(problem, model, case, generator)
    rows = {
        name: (
            _mean_correlation(-scores @ inside, truth, rank=True),
            _mean_correlation(scores[:, left_out], real, rank=False),
        )
        for name, scores in whole.items()
    }
    newton = float("nan") if steps_to is None else _mean_correlation(steps_to, truth, rank=True)
    rows["estimate(Remove), Newton step"] = newton, _mean_correlation(steps, real, rank=False)
    rows["the same halves trained on again"] = (
        _mean_correlation(again, truth[:, : again.shape[1]], rank=True),
        float("nan"),
    )
    print(
        f"{data.name}: {count} points, {len(data.test_labels)} tests, {len(problem.weights())} weights, "
        f"decay {case.decay:g}"
    )
    heads = ["score", f"LDS, {case.halves} halves", f"leave-one-out, {case.alone} points"]
    lines = [[name, *("" if s != s else f"{s:.4f}" for s in pair)] for name, pair in rows.items()]
    print(table(heads, lines), end="\n\n", flush=True)
    numbers = {f"{name}, LDS": lds for name, (lds, _) in rows.items()}
    numbers |= {f"{name}, leave-one-out": loo for name, (_, loo) in rows.items()}
    return numbers | {"halves": case.halves, "points": count, "weights": len(problem.weights())}


def _left_out(problem: Problem, model: nn.Module, case: Case, left_out: list[int]) -> tuple[Tensor, Tensor]:
    """The real changes of test losses without each point, and those by a Newton step, ``(tests, points)``.

    The real ones end where the gradient without the point does: how its steps were found is no matter.
    """
    data, solver = case.data, Dense()
    solve = problem.derivative(Remove([0]), optimality="stationary", solver=solver).linearisation.solve
    base, effects, newton = _losses(model, data), [], []
    for i in left_out:
        stays = torch.arange(len(data.inputs)) != i
        ended = _ended(model, data.inputs[stays], data.labels[stays], case.decay, solve)
        effects.append(_losses(ended, data) - base)
        element = problem.estimate(Remove([i]), optimality="stationary", solver=solver).min_norm()
        newton.append(_losses(element.apply_to(model), data) - base)
    return torch.stack(effects, dim=1), torch.stack(newton, dim=1)


def _ended(
    model: nn.Module, inputs: Tensor, labels: Tensor, decay: float, solve: Callable[[Tensor], object]
) -> nn.Module:
    """The model trained to the end on data that differ little, by steps with one matrix for all."""
    model = copy.deepcopy(model)
    parameters = list(model.parameters())
    for _ in range(100):
        size = torch.stack([part.square().sum() for part in parameters]).sum()
        value = cross_entropy(model(inputs), labels) + 0.5 * decay * size
        gradient = torch.cat([part.flatten() for part in torch.autograd.grad(value, parameters)])
        if float(gradient.abs().max()) <= TO_THE_END:
            return model
        step = solve(gradient).value  # type: ignore[attr-defined]
        with torch.no_grad():
            for part, change in zip(parameters, step.split([p.numel() for p in parameters]), strict=True):
                part -= change.view_as(part)
    raise RuntimeError("a training without one point did not end")


def _halves(
    problem: Problem, model: nn.Module, case: Case, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Test losses after training on each half, those of some again, the points in them, and Newton's losses.

    Newton steps need the matrix of each half, which is decomposed only if it is small.
    """
    data, count = case.data, len(case.data.inputs)
    truths, again, members, steps_to = [], [], [], []
    for place in range(case.halves):
        chosen = torch.randperm(count, generator=generator)[: count // 2]
        half = data.inputs[chosen], data.labels[chosen], case.decay
        truths.append(_losses(trained(model, *half, gradient_tol=1e-8), data))
        if place < AGAIN:
            other = copy.deepcopy(model)
            with torch.no_grad():
                for part in other.parameters():
                    part.copy_(0.1 * torch.randn(part.shape, dtype=part.dtype, generator=generator))
            again.append(_losses(trained(other, *half, gradient_tol=1e-8), data))
        if len(problem.weights()) <= MOST_WEIGHTS:
            away = sorted(set(range(count)) - set(chosen.tolist()))
            element = problem.estimate(Remove(away), optimality="stationary", solver=Dense()).min_norm()
            steps_to.append(_losses(element.apply_to(model), data))
        members.append(torch.zeros(count, dtype=torch.float64).index_fill(0, chosen, 1.0))
    stacked = [torch.stack(part, dim=1) for part in (truths, again, members)]
    return stacked[0], stacked[1], stacked[2], torch.stack(steps_to, dim=1) if steps_to else None


def _of_gradients(problem: Problem, gradients: Tensor) -> Tensor:
    """The dot products of test gradients with the gradients of the points in the mean, ``(tests, n)``."""
    return -(
        PointGradients(problem.risk(), problem.risk().select(range(problem.point_count))).T @ gradients
    ).T


def _mean_correlation(predicted: Tensor, real: Tensor, *, rank: bool) -> float:
    """The correlation over the columns, averaged over the rows."""
    if rank:
        predicted, real = (part.argsort(dim=1).argsort(dim=1).double() for part in (predicted, real))
    predicted, real = (part - part.mean(dim=1, keepdim=True) for part in (predicted, real))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        each = (predicted * real).sum(1) / (predicted.norm(dim=1) * real.norm(dim=1))
    return float(each.nanmean())
