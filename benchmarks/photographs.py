"""A residual network trained on photographs as people train: what a run's adjoint says, beside real reruns.

2,000 CIFAR-10 images, batch normalisation in training mode, flips and shifts, AdamW with a cosine schedule,
float32. The goal is the loss of one test image that training gets wrong. Its adjoint ranks the training
images; the highest are removed and the recipe is run again, beside as many images at random, for each of
three seeds. The second recipe is the everyday one, whose derivative the verdict has to call noise.
"""

import resource
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from tests.support.reference import shared_folder
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.tables import table
from solset import Remove, Training
from solset.goals import HeldOutLoss
from solset.paper import CIFAR10, cifar10
from solset.plotting import figure_bytes, sensitivity_maps

DATA = shared_folder() / "data"
SEEDS = (0, 1, 2)
REMOVED, RANDOM_SETS = 20, 2
Activation = Callable[[Tensor], Tensor]


class Block(nn.Module):
    """Two normalised convolutions, and a convolution of one pixel around them."""

    def __init__(self, inputs: int, outputs: int, stride: int, activation: Activation) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.around = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(outputs) for _ in range(2))
        self.activation = activation

    def forward(self, inputs: Tensor) -> Tensor:
        """``(b, outputs, h / stride, w / stride)`` from ``(b, inputs, h, w)``."""
        hidden = self.activation(self.norms[0](self.first(inputs)))
        return self.activation(self.norms[1](self.second(hidden)) + self.around(inputs))


def network(activation: Activation) -> nn.Module:
    """Seven convolutions in three stages of 12, 24 and 48 channels, and a linear layer."""
    widths = (12, 24, 48)
    blocks = [Block(a, b, 2, activation) for a, b in zip((3, *widths), widths, strict=False)]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 10))


def flips_and_shifts(images: Tensor) -> Tensor:
    """Half the images mirrored, each shifted by up to four pixels."""
    count, _, height, width = images.shape
    mirrored = torch.where(torch.rand(count, 1, 1, 1) < 0.5, images.flip(3), images)
    padded = functional.pad(mirrored, (4, 4, 4, 4))
    top, left = torch.randint(9, (count, 1, 1)), torch.randint(9, (count, 1, 1))
    rows, columns = top + torch.arange(height)[:, None], left + torch.arange(width)[None]
    return padded.permute(0, 2, 3, 1)[torch.arange(count)[:, None, None], rows, columns].permute(0, 3, 1, 2)


def recipe(images: Tensor, labels: Tensor, activation: Activation, *, eps: float, epochs: int) -> Training:
    """AdamW with a cosine schedule, batches of 100.

    Args:
        images: Images ``(n, 3, 32, 32)``.
        labels: Classes of the images.
        activation: Activation of the network.
        eps: Term beside the root in the step of AdamW; a large one makes training smoother.
        epochs: Number of passes over the images.
    """
    steps = epochs * (len(images) // 100)
    return Training(
        partial(network, activation),
        nn.CrossEntropyLoss(),
        images,
        labels,
        optimizer=partial(torch.optim.AdamW, lr=3e-3, weight_decay=1e-2, eps=eps),
        epochs=epochs,
        batch_size=100,
        schedule=partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=steps),
        schedule_each="step",
        augment=flips_and_shifts,
    )


@dataclass(frozen=True, eq=False)
class Judged:
    """What removals do to the loss of the test image, in the mean over the seeds.

    Attributes:
        trusted: Whether :meth:`Run.smoothness` of the removal of the top images calls the derivative good.
        removals: Name of each removed set, with the predicted and the real change of the loss.
        scores: Derivative of the loss in the weight of each training image, mean over the seeds.
        features: Derivative of the loss in the pixels of the ten most helpful images.
        top: Indices of these images.
        accuracy: Share of the other test images that the first run gets right.
        trainings: Cost of one adjoint, in trainings.
    """

    trusted: str
    removals: dict[str, tuple[float, float]]
    scores: Tensor
    features: Tensor
    top: list[int]
    accuracy: float
    trainings: float


def judged(training: Training, image: Tensor, label: Tensor, others: tuple[Tensor, Tensor]) -> Judged:
    """Adjoints of each seed, and the recipe run again without the images that they name."""
    goal = HeldOutLoss(image, label)
    runs, adjoints, costs = [], [], []
    for seed in SEEDS:
        start = time.perf_counter()
        runs.append(training.with_seed(seed).run(memory_budget=2**28, progress=False))
        between = time.perf_counter()
        adjoints.append(runs[-1].attribute(goal, verify=False, progress=False))
        costs.append((time.perf_counter() - between) / (between - start))
    scores = torch.stack([each.weights for each in adjoints]).mean(0)
    draw = torch.Generator().manual_seed(0)
    sets = {
        "the most helpful": (-scores).topk(REMOVED).indices,
        "the most harmful": scores.topk(REMOVED).indices,
    }
    for number in range(RANDOM_SETS):
        sets[f"at random, {number + 1}"] = torch.randperm(len(scores), generator=draw)[:REMOVED]
    removals = {}
    for name, removed in sets.items():
        change = Remove(removed.tolist())
        real = [loss_of(run.retrain(change, progress=False).model, image, label) for run in runs]
        before = [float(each.value) for each in adjoints]
        removals[name] = (-float(scores[removed].sum()), sum(real) / len(real) - sum(before) / len(before))
    top = sets["the most helpful"].tolist()
    smooth = runs[0].smoothness(Remove(top), scales=(1.0, 0.1), progress=False)
    features = torch.stack([each.features[top[:10]] for each in adjoints]).mean(0)
    with torch.no_grad():
        outputs = runs[0].model.eval()(others[0])
    accuracy = float((outputs.argmax(1) == others[1]).double().mean())
    return Judged(str(smooth), removals, scores, features, top[:10], accuracy, sorted(costs)[1])


def loss_of(model: nn.Module, image: Tensor, label: Tensor) -> float:
    """The loss of the test image in evaluation mode."""
    with torch.no_grad():
        return float(functional.cross_entropy(model.eval()(image), label))


def wrong_image(training: Training, images: Tensor, labels: Tensor) -> int:
    """The first test image that training gets wrong from each seed."""
    models = [training.with_seed(seed).train(progress=False) for seed in SEEDS]
    with torch.no_grad():
        outputs = torch.stack([model(images) for model in models])
    return int((outputs.argmax(2) != labels).all(0).nonzero()[0])


def draw(file: Path, train: CIFAR10, seen: Judged) -> None:
    """The ten most helpful images above the size of the derivative in each of their pixels."""
    images = train.pixels()[seen.top].permute(0, 2, 3, 1).double().numpy()
    maps = seen.features.norm(dim=1).double().numpy()
    captions = [f"{train.classes[int(train.labels[point])]}\n{seen.scores[point]:+.2f}" for point in seen.top]
    file.write_bytes(figure_bytes(sensitivity_maps(images, maps, captions), "png"))


RECIPES: dict[str, tuple[Activation, float]] = {
    "GELU, AdamW with eps 1e-2": (functional.gelu, 1e-2),
    "ReLU, AdamW with eps 1e-8": (functional.relu, 1e-8),
}


def run(figure: Path | None = None, *, epochs: int = 10) -> dict[str, object]:
    """Prints predicted and real changes of the loss of one test image for two recipes.

    Args:
        figure: File for the ten images that matter most, each with the derivative in its pixels.
        epochs: Number of passes over the images.
    """
    files = [DATA / "cifar10_train_2000.npz", DATA / "cifar10_test_1000_jpeg.npz"]
    if missing := [file for file in files if not file.exists()]:
        print(f"{missing[0]} is missing: CIFAR-10 (Krizhevsky 2009), `images` and `labels`")
        return {}
    train, test = map(cifar10, files)
    results: dict[str, object] = {}
    for name, (activation, eps) in RECIPES.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the verdict is printed
            training = recipe(train.inputs.float(), train.labels, activation, eps=eps, epochs=epochs)
            which = wrong_image(training, test.inputs.float(), test.labels)
            image, label = test.inputs[which : which + 1].float(), test.labels[which : which + 1]
            seen = judged(training, image, label, (test.inputs.float(), test.labels))
        rows = [[key, f"{one:+.3f}", f"{two:+.3f}"] for key, (one, two) in seen.removals.items()]
        print(f"\n{name}: test image {which}, {test.classes[int(label)]}")
        print(table([f"{REMOVED} images removed", "predicted change of the loss", "real, mean of 3"], rows))
        print(f"smoothness of the first removal: {seen.trusted}")
        print(f"accuracy on the test images {seen.accuracy:.1%}; one adjoint {seen.trainings:.1f} trainings")
        results[name] = {"removals": seen.removals, "adjoint": seen.trainings}
        if figure is not None and not figure.exists():
            draw(figure, train, seen)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"\npeak memory {peak:.1f} GiB, states of a run within 0.25 GiB")
    return results
