"""The linear datamodeling score and leave-one-out correlations of attributions of logistic regression.

The protocol is that of dattri (Deng et al. 2024, section 4): logistic regression on MNIST with 5,000 training
and 500 test images, trained again on random halves of the data. The linear datamodeling score is the rank
correlation, over the halves, of the summed scores of the points in a half with the test loss after training
on it, averaged over test images. Here every training goes to the end, so that the truth has no noise, and a
perfect prediction scores 1. A Newton step for a whole half is no sum over its points: it shows what is left.
"""

import warnings
from typing import cast

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


def run(*, small: bool, large: bool) -> dict[str, object]:
    """Prints the scores on digits, and on MNIST where it is asked for and can be had."""
    results: dict[str, object] = {"published": PUBLISHED}
    cases = [(digits(500, 200), 1e-3, 20, 20) if small else (digits(1000, 300), 1e-3, 40, 100)]
    if large:
        cases += [(data, 1e-3, 50, 100) for data in (mnist(5000, 500, side=14),) if data is not None]
    for data, decay, halves, alone in cases:
        results[data.name] = _scores(data, decay, halves, alone)
    print(f"\nPublished: {PUBLISHED}")
    return results


def _losses(model: nn.Module, data: Images) -> Tensor:
    with torch.no_grad():
        return cross_entropy(model(data.test_inputs), data.test_labels, reduction="none")


def _scores(data: Images, decay: float, halves: int, alone: int) -> dict[str, float]:
    """The scores of each attribution, on one data set."""
    count, width = data.inputs.shape
    start = nn.Linear(width, 10, dtype=torch.float64)
    nn.init.zeros_(start.weight)
    nn.init.zeros_(start.bias)
    model = trained(start, data.inputs, data.labels, decay)
    options = {"weight_decay": decay, "memory_budget": 12 * 2**30}
    problem = Problem(model, nn.CrossEntropyLoss(), data.inputs, data.labels, **options)
    goal = PointLosses(data.test_inputs, data.test_labels)
    worth = problem.attribute(goal, features=False, solver=Dense(), optimality="stationary")
    first = -cast(Tensor, worth.weights)
    gradients = goal.slopes(problem.risk(), problem.weights()).gradients
    dots = -_of_gradients(problem, gradients)
    base, generator = _losses(model, data), torch.Generator().manual_seed(1)

    left_out = torch.randperm(count, generator=generator)[:alone].tolist()
    effects, newton = [], []
    for i in left_out:
        rest = [j for j in range(count) if j != i]
        again = trained(model, data.inputs[rest], data.labels[rest], decay)
        effects.append(_losses(again, data) - base)
        element = problem.estimate(Remove([i]), optimality="stationary", solver=Dense()).min_norm()
        newton.append(_losses(element.apply_to(model), data) - base)
    real, steps = torch.stack(effects, dim=1), torch.stack(newton, dim=1)  # (tests, points)

    truths, members, steps_to = [], [], []
    for _ in range(halves):
        chosen = torch.randperm(count, generator=generator)[: count // 2]
        truths.append(_losses(trained(model, data.inputs[chosen], data.labels[chosen], decay), data))
        away = sorted(set(range(count)) - set(chosen.tolist()))
        element = problem.estimate(Remove(away), optimality="stationary", solver=Dense()).min_norm()
        steps_to.append(_losses(element.apply_to(model), data))
        members.append(torch.zeros(count, dtype=torch.float64).index_fill(0, chosen, 1.0))
    truth, inside = torch.stack(truths, dim=1), torch.stack(members, dim=1)  # (tests, halves), (n, halves)
    whole = {
        "attribute, first order": first,
        "gradient dot product": dots,
    }
    lines, numbers = [], {}
    for name, scores in whole.items():
        lds = _mean_correlation(-scores @ inside, truth, rank=True)
        loo = _mean_correlation(scores[:, left_out], real, rank=False)
        lines.append([name, f"{lds:.3f}", f"{loo:.4f}"])
        numbers |= {f"{name}, LDS": lds, f"{name}, leave-one-out": loo}
    loo = _mean_correlation(steps, real, rank=False)
    whole_step = _mean_correlation(torch.stack(steps_to, dim=1), truth, rank=True)
    lines.append(["estimate(Remove), Newton step", f"{whole_step:.3f}", f"{loo:.4f}"])
    numbers |= {
        "Newton, LDS": whole_step,
        "Newton, leave-one-out": loo,
        "halves": halves,
        "points": count,
        "weights": len(problem.weights()),
    }
    print(
        f"{data.name}: {count} points, {len(base)} tests, {len(problem.weights())} weights, decay {decay:g}"
    )
    print(table(["score", f"LDS, {halves} halves", f"leave-one-out, {alone} points"], lines), end="\n\n")
    return numbers


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
