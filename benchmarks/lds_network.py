"""The linear datamodeling score of a network with dropout that training leaves early, on MNIST.

The protocol is that of dattri (Deng et al. 2024, section 4): a rectifier network of 109,386 weights with
dropout 0.1, trained by SGD with momentum for 50 epochs on 5,000 images, and trained again on random halves.
The truth is the mean test loss over six trainings on each half, each with its own seed. The noise ceiling is
the score of the mean of three of them as a prediction of the mean of the other three, over all ways to halve.

Every predictor is a sum over points. Three things help the damped Gauss–Newton answer: the margin in place
of the loss, the mean over seeds, and checkpoints from before the losses of most points vanish. A fitted point
has no curvature left, although training felt it.
"""

import time
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.handwriting import Images, mnist
from benchmarks.tables import table
from solset import Problem, Training
from solset.goals import Margin
from solset.judge import agreement_of_halves, rank_agreement
from solset.operators import PointGradients
from solset.problem import Proximal
from solset.solvers import CG

PUBLISHED = "dattri, MNIST and MLP: LDS 0.448 (TRAK-50), 0.258 (CG), leave-one-out at most 0.023"
TRUTHS = Path("runs") / "lds_network.pt"  # outputs after training on halves, which take most of the time
HALVES, AGAIN, EPOCHS = 40, 6, 50
CHECKPOINTS = (8, 20, 50)
FEW = 5  # tests whose margins are replayed, each for the price of a few trainings
FIRST, HALFWAY, LAST = CHECKPOINTS


@dataclass(frozen=True, eq=False)
class Halves:
    """Trainings on random halves.

    Attributes:
        inside: One where a point is in a half, ``(halves, n)``.
        losses: Test losses after each training, ``(trainings, halves, tests)``.
    """

    inside: Tensor
    losses: Tensor

    def score(self, worth: Tensor) -> tuple[float, float]:
        """LDS of a prediction for the mean over trainings, and that for one training on each half.

        Args:
            worth: Derivative of each goal in each point's factor, ``(tests, n)``.
        """
        predicted = self.inside @ worth.double().T
        return rank_agreement(predicted, self.losses.mean(0)), rank_agreement(predicted, self.losses[0])


def network() -> nn.Module:
    """The network of the protocol."""
    hidden = [nn.Linear(784, 128), nn.ReLU(), nn.Dropout(0.1), nn.Linear(128, 64), nn.ReLU(), nn.Dropout(0.1)]
    return nn.Sequential(*hidden, nn.Linear(64, 10))


def training(inputs: Tensor, labels: Tensor, seed: int, epochs: int = EPOCHS) -> Training:
    """The recipe of the protocol on some points.

    Args:
        inputs: Training images, ``(n, 784)`` in float32.
        labels: Labels of the images, ``(n,)``.
        seed: Seed of initial weights, batches and dropout.
        epochs: Number of passes after which training stops.
    """
    sgd = partial(torch.optim.SGD, lr=0.01, momentum=0.9)
    return Training(
        network,
        nn.CrossEntropyLoss(),
        inputs,
        labels,
        optimizer=sgd,
        epochs=epochs,
        batch_size=64,
        seed=seed,
    )


def run(*, seeds: int, tests: int = 30, large: bool = False) -> dict[str, object]:
    """Prints the score of each predictor as seeds are added.

    Args:
        seeds: Number of seeds over which predictors are averaged.
        tests: Number of test images whose losses are predicted.
        large: Whether the first seed's run is replayed too, for a few of the test images.
    """
    data = mnist(5000, 500)
    if data is None:
        print("MNIST could not be had\n")
        return {}
    train, labels = data.inputs.float(), data.labels
    test, test_labels = data.test_inputs.float()[:tests], data.test_labels[:tests]
    halves = _halves(data, train, tests)
    ceiling = agreement_of_halves(halves.losses)
    results: dict[str, object] = {"published": PUBLISHED, "ceiling": ceiling}
    print(f"{tests} tests, {HALVES} halves; ceiling {ceiling:.3f}. Published: {PUBLISHED}", flush=True)
    totals: dict[str, Tensor] = {}
    lines: list[list[str]] = []
    warnings.simplefilter("ignore")  # weights that are not stationary, and rough solves, are what is studied
    if large:
        fewer = Halves(halves.inside, halves.losses[:, :, :FEW])
        replayed = _replayed(train, labels, Margin(test[:FEW], test_labels[:FEW]), fewer)
        print(table([f"first {FEW} tests, 1 seed", "LDS"], [[n, f"{v:.3f}"] for n, v in replayed.items()]))
        results |= {f"{name}, first {FEW} tests": value for name, value in replayed.items()}
    for seed in range(seeds):
        start = time.process_time()
        for name, worth in _worths(train, labels, Margin(test, test_labels), seed).items():
            totals[name] = totals.get(name, torch.zeros(())) + worth
        seconds = time.process_time() - start
        for name, total in totals.items():
            mean, single = halves.score(-total)
            results[f"{name}, {seed + 1} seeds"] = mean
            lines.append([name, str(seed + 1), f"{mean:.3f}", f"{single:.3f}"])
        print(f"seed {seed}: {seconds:.0f} s of CPU", flush=True)
    heads = ["predictor", "seeds", f"LDS, mean of {AGAIN} trainings", "LDS, one training"]
    print(table(heads, [line for line in lines if line[1] in {"1", str(seeds)}]))
    return results


def _replayed(train: Tensor, labels: Tensor, goal: Margin, halves: Halves) -> dict[str, float]:
    """LDS of the adjoint of the first seed's run, and of every other predictor of the same goals."""
    ended = training(train, labels, 0).run(memory_budget=2 * 2**30, progress=False)
    adjoint = ended.attribute(goal, features=False, verify=False, progress=False).weights
    worths = {"adjoint of the run": torch.as_tensor(adjoint), **_worths(train, labels, goal, 0)}
    return {name: halves.score(-worth)[0] for name, worth in worths.items()}


def _worths(train: Tensor, labels: Tensor, goal: Margin, seed: int) -> dict[str, Tensor]:
    """The worth of each point for each margin by every predictor, from one seed, ``(tests, n)``."""
    answers, products = {}, {}
    for epochs in CHECKPOINTS:
        model = training(train, labels, seed, epochs).train(progress=False)
        problem = Problem(model, nn.CrossEntropyLoss(), train, labels)
        worth = problem.attribute(goal, features=False, optimality=Proximal(), solver=CG(tol=0.1)).weights
        answers[epochs] = _alike(torch.as_tensor(worth))
        gradients = goal.slopes(problem.risk(), problem.weights()).gradients
        points = PointGradients(problem.risk(), problem.risk().select(range(len(train))))
        products[epochs] = -(points.T @ gradients).T
    return {
        "proximal answer, the end": answers[LAST],
        f"proximal answer, epoch {HALFWAY}": answers[HALFWAY],
        f"proximal answer, epoch {FIRST}": answers[FIRST],
        f"proximal answers, epochs {FIRST}, {HALFWAY} and {LAST}": sum(answers.values(), torch.zeros(())),
        f"TracIn, epochs {FIRST}, {HALFWAY} and {LAST}": sum(products.values(), torch.zeros(())),
        "dot products of gradients, the end": products[LAST],
    }


def _alike(worth: Tensor) -> Tensor:
    """Scores whose sizes are alike for each goal, so that every checkpoint counts as much in a sum."""
    return worth / worth.std(dim=1, keepdim=True)


def _halves(data: Images, train: Tensor, tests: int) -> Halves:
    """The truth, read from the file of an earlier run where there is one."""
    generator, count = torch.Generator().manual_seed(1), len(train)
    chosen = [torch.randperm(count, generator=generator)[: count // 2].sort().values for _ in range(HALVES)]
    if TRUTHS.exists():
        outputs = torch.load(TRUTHS)
    else:
        outputs = torch.stack([_outputs(data, train, chosen, 1000 + 100 * k) for k in range(AGAIN)])
        TRUTHS.parent.mkdir(exist_ok=True)
        torch.save(outputs, TRUTHS)
    outputs, labels = outputs[:, :, :tests], data.test_labels[:tests]
    repeated = labels.expand(outputs.shape[:3]).flatten()
    losses = cross_entropy(outputs.flatten(0, 2), repeated, reduction="none").reshape(outputs.shape[:3])
    inside = torch.stack(
        [torch.zeros(count, dtype=torch.float64).index_fill(0, half, 1.0) for half in chosen]
    )
    return Halves(inside, losses.double())


def _outputs(data: Images, train: Tensor, halves: list[Tensor], first_seed: int) -> Tensor:
    """Test outputs after one training on each half, ``(halves, tests, 10)``."""
    ends = []
    for place, half in enumerate(halves):
        model = training(train[half], data.labels[half], first_seed + place).train(progress=False)
        with torch.no_grad():
            ends.append(model(data.test_inputs.float()))
    return torch.stack(ends)
