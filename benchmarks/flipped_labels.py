"""Wrong labels found without a test set: 5 % of the labels are flipped, and points are ranked by scores.

Numbers are areas under the ROC curve. Models are trained with the wrong labels. TracIn (Pruthi et al. 2020)
sums the squared gradient norms of a point over checkpoints of a training by SGD with the same weight decay.
"""

import warnings
from functools import partial
from typing import cast

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy

from benchmarks.handwriting import Images, digits, mnist, trained
from benchmarks.tables import table
from solset import Problem
from solset.goals import PointLosses
from solset.removal import leave_one_out
from solset.solvers import Dense

SHARE = 0.05


def run(*, small: bool, large: bool) -> dict[str, object]:
    """Prints the areas for each data set and model, and returns them."""
    sets, seeds = [digits(400 if small else 1000, 100)], 1 if small else 2
    if large:
        sets += [data for data in (mnist(2000, 100, side=14),) if data is not None]
    models = {"logistic regression": (0, 1e-3), "network of 16 tanh units": (16, 3e-3)}
    results: dict[str, object] = {}
    for data in sets:
        lines, columns = [], []
        for name, (hidden, decay) in models.items():
            parts = [_areas(data, hidden, decay, seed) for seed in range(seeds)]
            areas = {score: sum(part[score] for part in parts) / seeds for score in parts[0]}
            columns = list(areas)
            lines.append([name, *(f"{area:.3f}" for area in areas.values())])
            results[f"{data.name}, {name}"] = areas
        print(f"{data.name}, {len(data.inputs)} points, {SHARE:.0%} of labels flipped, {seeds} draws")
        print(table(["model", *columns], lines), end="\n\n")
    return results


def _flipped(labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Labels of which some are wrong, and which."""
    generator = torch.Generator().manual_seed(seed)
    wrong = torch.zeros(len(labels), dtype=torch.bool)
    wrong[torch.randperm(len(labels), generator=generator)[: round(SHARE * len(labels))]] = True
    shift = torch.randint(1, 10, labels.shape, generator=generator)
    return torch.where(wrong, (labels + shift) % 10, labels), wrong


def _network(width: int, hidden: int, seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if not hidden:
            return nn.Sequential(nn.Linear(width, 10)).double()
        return nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), nn.Linear(hidden, 10)).double()


def _areas(data: Images, hidden: int, decay: float, seed: int) -> dict[str, float]:
    labels, wrong = _flipped(data.labels, seed)
    start = _network(data.inputs.shape[1], hidden, seed)
    model = trained(start, data.inputs, labels, decay)
    norms, losses = _of_points(model, data.inputs, labels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a network's minimum may be reached to 1e-6 only
        problem = Problem(
            model, nn.CrossEntropyLoss(), data.inputs, labels, weight_decay=decay, memory_budget=12 * 2**30
        )
        optimality = "gauss_newton" if hidden else "stationary"
        worth = problem.attribute(
            PointLosses(data.inputs, labels), optimality=optimality, solver=Dense(), features=False
        )
        left_out = leave_one_out(problem, optimality=optimality, solver=Dense())
    scores = {
        "loss": losses,
        "gradient norm": norms,
        "TracIn": _tracin(start, data.inputs, labels, decay, seed),
        "self-influence": -cast(Tensor, worth.weights).diagonal(),
        "loss left out": left_out.losses.nan_to_num(nan=float("inf")),
    }
    truth = wrong.numpy()
    return {
        name: float(roc_auc_score(truth, score.clamp(max=1e30).numpy())) for name, score in scores.items()
    }


def _of_points(model: nn.Module, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient norm and the loss of each point."""
    named = {name: value.detach() for name, value in model.named_parameters()}

    def loss(values: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(functional_call(model, values, (x.unsqueeze(0),)), y.unsqueeze(0))

    slopes = vmap(partial(grad(loss), named))(inputs, labels)
    squares = torch.stack([part.flatten(1).square().sum(1) for part in slopes.values()]).sum(0)
    with torch.no_grad():
        return squares.sqrt(), cross_entropy(model(inputs), labels, reduction="none")


def _tracin(start: nn.Module, inputs: Tensor, labels: Tensor, decay: float, seed: int) -> Tensor:
    """The squared gradient norms summed over ten checkpoints, one for every three epochs of SGD."""
    model, rate = trained(start, inputs, labels, decay, steps=0), 0.1
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, weight_decay=decay)
    generator, total = torch.Generator().manual_seed(seed), torch.zeros(len(inputs), dtype=inputs.dtype)
    for epoch in range(30):
        for batch in torch.randperm(len(inputs), generator=generator).split(64):
            optimizer.zero_grad()
            cross_entropy(model(inputs[batch]), labels[batch]).backward()
            optimizer.step()
        if epoch % 3 == 2:
            total += rate * _of_points(model, inputs, labels)[0].square()
    return total
