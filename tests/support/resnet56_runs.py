"""Small runs of the ResNet56 experiment, on a made-up network and on the public one."""

import dataclasses
import functools
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from solset import Problem
from solset.paper import CIFAR10, ResNet, cifar10, pretrained, resnet56
from solset.paper._resnet56_report import ResNet56Run
from solset.paper._resnet56_setup import ResNet56Settings, TrainedResNet56
from solset.reports._run_folder import RunFolder
from support.reference import cifar10_file, resnet56_file

SMALL = ResNet56Settings(
    points=16,
    moved=(1, 2),
    sizes=(0.005, 0.01),
    samples=1,
    paper_steps=3,
    retraining_gradients=1,
    figure_moved=4,
    resolution=3,
    batch_size=10,
)
REAL = dataclasses.replace(SMALL, seed=5, points=30, batch_size=15)  # the first two are lost at these steps
DRAWN = [
    f"{name}.{suffix}"
    for name in ("losses", "moved_images", "surface", "contour")
    for suffix in ("png", "svg")
]
TABLES = ["table_1.csv", "table_2.csv", "table_3.csv", "accuracy.csv", "limits.csv"]
OF_EACH = ["changes.safetensors", "check.json", "size_0.005.json", "size_0.01.json", "retraining.json"]
STAGES = ["setup.json", "figure_changes.safetensors", "landscape_rows.safetensors", "figure.json"]
STAGES += [f"moved_{count}_{name}" for count in (1, 2) for name in OF_EACH]


@dataclass(frozen=True)
class Start:
    """What a run is opened with."""

    settings: ResNet56Settings
    model: ResNet
    data: CIFAR10

    def open(self, path: Path, on_existing="refuse", **changes) -> ResNet56Run:
        settings = dataclasses.replace(self.settings, **changes)
        folder = RunFolder.open(path, settings=dataclasses.asdict(settings), on_existing=on_existing)
        return ResNet56Run(TrainedResNet56(settings, folder, self.model, self.data, progress=False))


@functools.cache
def small() -> Start:
    """A network of 8 layers, fitted by choice: of many random images those it is surest of, so labelled."""
    generator = torch.Generator().manual_seed(0)
    model = ResNet(1, generator=generator).eval()
    inputs = torch.randn(300, 3, 8, 8, generator=generator)
    with torch.no_grad():
        model.linear.bias -= model(inputs).mean(0)
        first, second = model(inputs).topk(2, dim=1).values.T
        surest = (first - second).argsort(descending=True)[: SMALL.points]
        scale = 5.5 / (first - second)[surest].min()
        model.linear.weight *= scale
        model.linear.bias *= scale
        return Start(SMALL, model, CIFAR10(inputs[surest], model(inputs[surest]).argmax(1)))


@functools.cache
def real(count: int = REAL.points) -> Start:
    """The public weights and the first training images; skips the test where they are not here."""
    try:
        data, weights = cifar10_file(), resnet56_file()
    except FileNotFoundError as error:
        pytest.skip(f"the images or the weights are not here: {error}")
    return Start(REAL, pretrained(resnet56, weights), cifar10(data, count=count))


def public_problem(**options) -> Problem:
    """The public weights on the first 1000 training photographs."""
    start = real(1000)
    inputs, labels = start.data.inputs, start.data.labels
    return Problem(
        start.model, nn.CrossEntropyLoss(), inputs, labels, batch_size=50, gradient_tol=1.0, **options
    )
