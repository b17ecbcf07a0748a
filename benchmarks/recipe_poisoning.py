"""Targeted poisoning of a recipe: adjoints of runs beside the gradient matching of Geiping et al. (2021).

300 digits, a network trained from scratch by AdamW. Up to 31 images of one class may move by 0.15 in each
pixel, so that one test image of another class gets their label. Both attacks have the same budget; success is
counted by fresh trainings from seeds that neither saw. A defender asks which points to guard, from a seed of
another training: before the attack by the exposure of each point, and after it by what each point is worth
for the margin of the wanted label.
"""

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from typing import Any
from unittest.mock import patch

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.tables import table
from solset import Move, Training
from solset.paper import digits
from solset.poisoning import Budget, poison_training

FRESH = tuple(range(100, 106))  # seeds of the trainings that judge
GUARD = 50  # seed of the training that the defender looks at
RADIUS, MOST = 0.15, 31


@dataclass(frozen=True)
class Target:
    """A test image that is to get the label of the images that move.

    Attributes:
        image: Test image, ``(1, 64)``.
        true: Label that training gives it.
        wanted: Label of the images that move, the second choice of a network trained on clean data.
        points: Indices of the images that may move.
    """

    image: Tensor
    true: int
    wanted: int
    points: list[int]

    def margin(self, model: nn.Module) -> Tensor:
        """How far the output of the wanted label lies above that of the true one."""
        outputs = model(self.image)[0]
        return outputs[self.wanted] - outputs[self.true]


Attack = Callable[[Target], tuple[list[int], Tensor]]


def network() -> nn.Module:
    """A rectifier network of 4,810 weights."""
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


@cache
def recipe() -> Training:
    """AdamW for 20 epochs of batch 32."""
    adamw = partial(torch.optim.AdamW, lr=3e-3)
    return Training(network, nn.CrossEntropyLoss(), *images(), optimizer=adamw, epochs=20, batch_size=32)


@cache
def images() -> tuple[Tensor, Tensor]:
    """The training images ``(300, 64)`` and their labels."""
    train = digits().part(0, 300)
    return train.inputs.float(), train.labels


def targets(count: int) -> list[Target]:
    """The first test images that training on clean data gets right from every fresh seed."""
    test = digits().part(300, 500)
    inputs, labels = test.inputs.float(), test.labels
    models = [recipe().with_seed(seed).train(progress=False) for seed in FRESH]
    with torch.no_grad():
        outputs = torch.stack([model(inputs) for model in models])
    is_right = (outputs.argmax(dim=2) == labels).all(dim=0)
    chosen = []
    for place in is_right.nonzero().flatten().tolist()[:count]:
        order = outputs[0, place].argsort(descending=True).tolist()
        same = (images()[1] == order[1]).nonzero().flatten().tolist()
        chosen.append(Target(inputs[place : place + 1], int(labels[place]), order[1], same[:MOST]))
    return chosen


def by_adjoints(target: Target, seeds: int, rounds: int) -> tuple[list[int], Tensor]:
    """Points and perturbation by adjoints of runs from a few seeds."""
    budget = Budget(target.points, RADIUS, norm="linf", lower=0.0, upper=1.0)
    design = poison_training(
        recipe(), target.margin, budget, seeds=range(seeds), rounds=rounds, progress=False
    )
    return target.points, design.dx


def by_matching(target: Target, trials: int) -> tuple[list[int], Tensor]:
    """Points and perturbation by the ART library's gradient matching, from one trained network."""
    model = recipe().with_seed(0).train(progress=False)
    attacks_of_art = import_module("art.attacks.poisoning")  # an optional library
    classifiers_of_art = import_module("art.estimators.classification")
    classifier = classifiers_of_art.PyTorchClassifier(
        model, loss=nn.CrossEntropyLoss(), input_shape=(64,), nb_classes=10, clip_values=(0.0, 1.0)
    )
    x, labels = images()
    attack = attacks_of_art.GradientMatchingAttack(
        classifier,
        percent_poison=len(target.points) / len(x),
        epsilon=RADIUS,
        max_trials=trials,
        clip_values=(0.0, 1.0),
        verbose=0,
    )
    wanted = torch.tensor([target.wanted]).numpy()
    with patch("torch.utils.data.DataLoader", _loader_without_workers):
        moved, _ = attack.poison(target.image.numpy(), wanted, x.numpy(), labels.numpy())
    dx = torch.as_tensor(moved, dtype=x.dtype) - x
    points = (dx.flatten(1) != 0).any(dim=1).nonzero().flatten().tolist()
    return points, dx[points].clamp(-RADIUS, RADIUS)


def _loader_without_workers(data: Dataset[Any], **settings: Any) -> DataLoader[Any]:
    """A loader of the same batches; the library starts a process for each epoch, most of its time."""
    settings["num_workers"] = 0
    return DataLoader(data, **settings)


def attacks() -> dict[str, Attack]:
    """The attacks by name; that of a library that is not installed is left out with a line that says so."""
    chosen: dict[str, Attack] = {
        "adjoints, 1 seed, 4 rounds": partial(by_adjoints, seeds=1, rounds=4),
        "adjoints, 3 seeds, 4 rounds": partial(by_adjoints, seeds=3, rounds=4),
    }
    try:
        version = import_module("art").__version__
    except ImportError:
        print("gradient matching: left out, pip install adversarial-robustness-toolbox\n")
        return chosen
    for trials in (8, 32):
        name = f"gradient matching, {trials} trials (ART {version})"
        chosen[name] = partial(by_matching, trials=trials)
    return chosen


def run(*, large: bool = False) -> dict[str, dict[str, float]]:
    """Prints how often each attack changes the label, what it costs, and what a defender sees.

    Args:
        large: Whether to take ten targets instead of three.
    """
    warnings.simplefilter("ignore")  # kinks of AdamW at pixels that are 0 in every image
    one_training, chosen = _seconds_of_training(), targets(10 if large else 3)
    guarded = [_guarded(recipe(), target) for target in chosen]
    results = {name: _of(attack, chosen, one_training) for name, attack in attacks().items()}
    head = [
        "attack",
        "fresh trainings flipped",
        "targets flipped by most",
        "margin",
        "price of one, in trainings",
    ]
    rows = [
        [
            name,
            f"{one['flipped']:.0%}",
            f"{one['targets']:.0%}",
            f"{one['margin']:.2f}",
            f"{one['trainings']:.0f}",
            f"{one['found']:.3f}",
        ]
        for name, one in results.items()
    ]
    print(table([*head, "points found by their worth"], rows))
    results["clean"] = {
        "exposed": sum(exposed for exposed, _ in guarded) / len(guarded),
        "found": sum(found for _, found in guarded) / len(guarded),
    }
    print(
        f"\n{len(chosen)} targets, {len(FRESH)} fresh trainings each; one training {one_training:.2f} s of "
        f"CPU; area under the ROC curve before any attack: exposure {results['clean']['exposed']:.3f}, "
        f"worth {results['clean']['found']:.3f}"
    )
    return results


def _seconds_of_training() -> float:
    """Seconds of CPU that one training takes, after a first one."""
    recipe().train(progress=False)
    start = time.process_time()
    recipe().train(progress=False)
    return time.process_time() - start


def _of(attack: Attack, chosen: list[Target], one_training: float) -> dict[str, float]:
    """What an attack does to the targets on average, and how well its points are found afterwards."""
    margins, flips, wins, seconds, found = [], 0, 0, 0.0, 0.0
    for target in chosen:
        start = time.process_time()
        points, dx = attack(target)
        seconds += time.process_time() - start
        changed = recipe().on(Move(points, dx))
        ends = [changed.with_seed(seed).train(progress=False) for seed in FRESH]
        with torch.no_grad():
            labels = [int(model(target.image).argmax()) for model in ends]
            margins += [float(target.margin(model)) for model in ends]
        flipped = labels.count(target.wanted)
        flips, wins = flips + flipped, wins + (flipped > len(FRESH) // 2)
        found += _guarded(changed, target)[1]
    count = len(chosen)
    return {
        "flipped": flips / (count * len(FRESH)),
        "targets": wins / count,
        "margin": sum(margins) / len(margins),
        "seconds": seconds / count,
        "trainings": seconds / count / one_training,
        "found": found / count,
    }


def _guarded(training: Training, target: Target) -> tuple[float, float]:
    """How well exposure and worth tell points that may move from others: areas under the ROC curve."""
    run = training.with_seed(GUARD).run(progress=False)
    worth = run.attribute(target.margin, verify=False, progress=False)
    assert worth.weights is not None and worth.features is not None  # noqa: S101, PT018 - an image has both
    may_move = torch.zeros(len(worth.weights)).index_fill(0, torch.tensor(target.points), 1.0)
    exposure = worth.features.flatten(1).norm(dim=1)
    return float(roc_auc_score(may_move, exposure)), float(roc_auc_score(may_move, worth.weights))
