"""How well the derivative of a training predicts the same recipe run again, on scikit-learn's digits.

Three tables. The first is about four recipes of ten epochs, each asked for a move of ten points by 1 % and
for the removal of 50 of 1,000 points. The second tells curvature of the truth from faults of the derivative:
for a part of the move the error of a right derivative is that part of its error. The third is about one
backward replay: its price in trainings, and its correlation with what real reruns do to the mean test loss.
"""

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from statistics import mean, median

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.tables import table
from benchmarks.timing import medians
from solset import Move, Remove, Training
from solset.training import Run

POINTS, TESTS = 1000, 500
PARTS = (1.0, 0.5, 0.25, 0.1, 0.01)
Optimizer = Callable[..., torch.optim.Optimizer]
SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=5e-4)
ADAMW = partial(torch.optim.AdamW, lr=3e-3, weight_decay=1e-2)


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """1,000 training and 500 test images with their labels."""
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels)
    return x[:POINTS], y[:POINTS], x[POINTS : POINTS + TESTS], y[POINTS : POINTS + TESTS]


def training(
    widths: list[int], activation: type[nn.Module], optimizer: Optimizer, dtype: torch.dtype = torch.float32
) -> Training:
    """Ten epochs of batch 64 on the training images."""

    def make() -> nn.Module:
        layers: list[nn.Module] = []
        for i in range(len(widths) - 1):
            layers += [nn.Linear(widths[i], widths[i + 1]), activation()]
        return nn.Sequential(*layers[:-1]).to(dtype)

    x, y, _, _ = digits()
    loss = nn.CrossEntropyLoss()
    return Training(make, loss, x.to(dtype), y, optimizer=optimizer, epochs=10, batch_size=64)


def test_losses(model: nn.Module) -> Tensor:
    """The loss of each test image, ``(500,)``."""
    _, _, x, y = digits()
    return cross_entropy(model(x), y, reduction="none")


def run() -> dict[str, object]:
    """Prints both tables and returns the numbers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the verdicts are columns
        recipes = {
            f"{name}, {activation.__name__}": _recipe(training([64, 32, 10], activation, optimizer).run())
            for name, optimizer in (("SGD 0.1, momentum 0.9", SGD), ("AdamW 3e-3", ADAMW))
            for activation in (nn.Tanh, nn.ReLU)
        }
        heads = ["recipe", "move, error", "correlation", "verdict", "holds to", "removal, correlation"]
        lines = [
            [
                name,
                f"{row['error']:.3f}",
                f"{row['correlation']:.3f}",
                str(row["verdict"]),
                f"{row['holds_to']:.2g}",
                f"{row['removal']:.3f}",
            ]
            for name, row in recipes.items()
        ]
        print(table(heads, lines), end="\n\n")
        parts = {f"{name}, {pixels}": errors for name, pixels, errors in _parts()}
        heads = ["move by 1 %: error at", *(f"{part:g} of it" for part in PARTS)]
        print(table(heads, [[n, *(f"{e:.4f}" for e in row)] for n, row in parts.items()]), end="\n\n")
        replays = {activation.__name__: _replay(activation) for activation in (nn.Tanh, nn.GELU)}
    heads = ["64-128-128-10, AdamW 1e-3", *next(iter(replays.values()))]
    print(table(heads, [[name, *(f"{v:.3f}" for v in row.values())] for name, row in replays.items()]))
    return {"recipes": recipes, "parts": parts, "replays": replays}


def _parts() -> Iterator[tuple[str, str, list[float]]]:
    """Median errors of the derivative in float64 over five moves, at parts of them, for both tanh recipes.

    Moves are in the pixels that are lit in the first batch, or only in those lit in every twentieth image.
    """
    x, *_ = digits()
    for name, optimizer in (("SGD, tanh", SGD), ("AdamW, tanh", ADAMW)):
        run = training([64, 32, 10], nn.Tanh, optimizer, dtype=torch.float64).run()
        first, often = x[run.batches[0]].sum(dim=0) > 0, (x > 0).double().mean(dim=0) > 0.05
        for pixels, lit in (("lit in the first batch", first), ("lit in 5 % of images", often)):
            moves = [_move(torch.Generator().manual_seed(1 + k), lit, torch.float64) for k in range(5)]
            errors = [run.smoothness(move, scales=PARTS, progress=False).errors for move in moves]
            yield name, pixels, [median(each) for each in zip(*errors, strict=True)]


def _move(generator: torch.Generator, lit: Tensor, dtype: torch.dtype = torch.float32) -> Move:
    """A random move of ten points by 1 % of their lengths, in some pixels."""
    x, points = digits()[0], torch.randperm(POINTS, generator=generator)[:10].tolist()
    dx = torch.randn(10, 64, generator=generator) * lit
    dx = 0.01 * x[points].norm(dim=1, keepdim=True) * dx / dx.norm(dim=1, keepdim=True)
    return Move(points, dx.to(dtype))


def _recipe(run: Run) -> dict[str, object]:
    """Ten points moved by 1 % in the pixels lit in the first batch, and twelve removals of 50 points."""
    generator = torch.Generator().manual_seed(1)
    # A pixel that is dark at first has no derivative under AdamW.
    move = _move(generator, digits()[0][run.batches[0]].abs().sum(dim=0) > 0)
    smooth = run.smoothness(move, scales=(1.0, 0.1, 0.01))
    predicted, real = _effects(run, move)
    removals = [
        torch.stack(_effects(run, Remove(torch.randperm(POINTS, generator=generator)[:50].tolist())))
        for _ in range(12)
    ]
    each = torch.stack(removals, dim=2)  # (2, tests, removals)
    return {
        "error": smooth.errors[0],
        "correlation": float(torch.corrcoef(torch.stack([predicted, real]))[0, 1]),
        "verdict": smooth.verdict,
        "holds_to": smooth.holds_to,
        "removal": mean(float(torch.corrcoef(each[:, i])[0, 1]) for i in range(TESTS)),
    }


def _effects(run: Run, change: Move | Remove) -> tuple[Tensor, Tensor]:
    """Predicted change of each test loss, to first order in the weights, and that of a real rerun."""
    estimate = run.estimate(change, verify=False)
    weights = dict(run.model.named_parameters())
    ends = estimate.as_parameters()
    directions = tuple(ends[name] - weights[name].detach() for name in weights)

    def losses(*values: Tensor) -> Tensor:
        _, _, x, y = digits()
        outputs = torch.func.functional_call(run.model, dict(zip(weights, values, strict=True)), (x,))
        return cross_entropy(outputs, y, reduction="none")

    now, predicted, *_ = torch.func.jvp(losses, tuple(w.detach() for w in weights.values()), directions)
    with torch.no_grad():
        return predicted, test_losses(run.retrain(change, progress=False).model) - now


def _replay(activation: type[nn.Module]) -> dict[str, float]:
    """Price of a replay in trainings, and correlations of predicted and real change of the mean test loss."""
    at = training([64, 128, 128, 10], activation, partial(torch.optim.AdamW, lr=1e-3))
    runs = {"all states": at.run(), "√T states": at.run(memory_budget=11 * 2**20)}

    def goal(model: nn.Module) -> Tensor:
        return test_losses(model).mean()

    jobs: dict[str, Callable[[], object]] = {"training": lambda: runs["all states"].retrain(Remove([0]))}
    jobs |= {name: partial(each.attribute, goal, verify=False) for name, each in runs.items()}
    seconds = medians(jobs, rounds=3)
    run = runs["all states"]
    worth, x = run.attribute(goal, verify=False), digits()[0]
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        base = float(goal(run.model))
    pairs: dict[str, list[tuple[float, float]]] = {"30 removed": [], "2 % of lit pixels": []}
    for _ in range(16):
        points = torch.randperm(POINTS, generator=generator)[:30].tolist()
        dx = x * torch.randn(x.shape, generator=generator)
        dx = 0.02 * x.norm(dim=1, keepdim=True) * dx / dx.norm(dim=1, keepdim=True)
        assert worth.weights is not None and worth.features is not None  # noqa: S101, PT018
        for name, change, predicted in (
            ("30 removed", Remove(points), -float(worth.weights[points].sum())),
            ("2 % of lit pixels", Move(None, dx), float((worth.features * dx).sum())),
        ):
            with torch.no_grad():
                real = float(goal(run.retrain(change, progress=False).model)) - base
            pairs[name].append((predicted, real))
    costs = {f"replay, {name}": seconds[name] / seconds["training"] for name in runs}
    correlations = {name: float(torch.corrcoef(torch.tensor(each).T)[0, 1]) for name, each in pairs.items()}
    return {**costs, **correlations}
