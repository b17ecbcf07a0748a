"""Targeted poisoning of a recipe: adjoints of runs beside the gradient matching of Geiping et al. (2021).

300 digits, a network trained from scratch by AdamW. Up to 31 images of one class may move by 0.15 in each
pixel, so that one test image of another class gets their label. Both attacks have the same budget; success is
counted by fresh trainings from seeds that neither saw.
"""

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module

import torch
from torch import Tensor, nn

from benchmarks.tables import table
from solset import Move, Training
from solset.paper import digits
from solset.poisoning import Budget, poison_training

FRESH = tuple(range(100, 106))  # seeds of the trainings that judge
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
    moved, _ = attack.poison(target.image.numpy(), wanted, x.numpy(), labels.numpy())
    dx = torch.as_tensor(moved, dtype=x.dtype) - x
    points = (dx.flatten(1) != 0).any(dim=1).nonzero().flatten().tolist()
    return points, dx[points].clamp(-RADIUS, RADIUS)


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
    """Prints how often each attack changes the label in fresh trainings, and what it costs.

    Args:
        large: Whether to take ten targets instead of three.
    """
    warnings.simplefilter("ignore")  # kinks of AdamW at pixels that are 0 in every image
    start = time.perf_counter()
    recipe().train(progress=False)
    one_training = time.perf_counter() - start
    chosen, results = targets(10 if large else 3), dict[str, dict[str, float]]()
    for name, attack in attacks().items():
        flips, wins, seconds = 0, 0, 0.0
        for target in chosen:
            start = time.perf_counter()
            points, dx = attack(target)
            seconds += time.perf_counter() - start
            changed = recipe().on(Move(points, dx))
            flipped = sum(_is_flipped(changed.with_seed(seed), target) for seed in FRESH)
            flips, wins = flips + flipped, wins + (flipped > len(FRESH) // 2)
        each = seconds / len(chosen)
        results[name] = {
            "flipped": flips / (len(chosen) * len(FRESH)),
            "targets": wins / len(chosen),
            "seconds": each,
            "trainings": each / one_training,
        }
    rows = [
        [name, f"{one['flipped']:.0%}", f"{one['targets']:.0%}", f"{one['trainings']:.0f}"]
        for name, one in results.items()
    ]
    head = ["attack", "fresh trainings flipped", "targets flipped by most", "price of one, in trainings"]
    print(table(head, rows))
    print(f"\n{len(chosen)} targets, {len(FRESH)} fresh trainings each")
    return results


def _is_flipped(training: Training, target: Target) -> bool:
    with torch.no_grad():
        model = training.train(progress=False)
        return int(model(target.image).argmax()) == target.wanted
