"""Reference data in a folder that ``SOLSET_SHARED`` names, for tests and benchmarks only."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from solset.paper import CIFAR10_ARCHIVE, RESNET56_WEIGHTS, Digits, digits


def shared_folder() -> Path:
    """The folder of reference data: ``$SOLSET_SHARED``, else ``../shared`` of the working folder."""
    return Path(os.environ.get("SOLSET_SHARED", Path.cwd().parent / "shared"))


def cifar10_file() -> Path:
    """Images of CIFAR-10: those of the reference data, else those of the cache.

    Raises:
        FileNotFoundError: If there are none.
    """
    shared = shared_folder() / "data" / "cifar10_train_2000.npz"
    return shared if shared.is_file() else CIFAR10_ARCHIVE.find(download=False)


def resnet56_file() -> Path:
    """The public weights of ResNet56: those of the reference data, else those of the cache.

    Raises:
        FileNotFoundError: If there are none.
    """
    shared = shared_folder() / "weights" / "resnet56-4bfd9763.th"
    return shared if shared.is_file() else RESNET56_WEIGHTS.find(download=False)


@dataclass(frozen=True, eq=False)
class IsolatedDigits:
    """A digits network with an isolated solution, and the weights to which retraining really took it.

    Attributes:
        data: The first 1,000 digits of the file.
        weights: Weights of a 64-32-10 tanh network with biases, trained with mean cross-entropy and weight
            decay :attr:`weight_decay` to a gradient norm of 1e-13, flat in ``named_parameters`` order.
        points: Indices of the moved points.
        directions: Unit directions of the moved points, ``(10, 64)``.
        steps: Step sizes as fractions of each moved point's norm.
        retrained_change: True change of the weights for each step, ``(len(steps), p)``.
        weight_decay: Weight decay with which the network was trained.
    """

    data: Digits
    weights: Tensor
    points: list[int]
    directions: Tensor
    steps: list[float]
    retrained_change: Tensor
    weight_decay: float = 5e-5

    def dx(self, step: float) -> Tensor:
        """The perturbation of a step, ``(10, 64)``."""
        return step * self.data.inputs[self.points].norm(dim=1, keepdim=True) * self.directions


def isolated_digits(path: Path | None = None) -> IsolatedDigits:
    """The isolated digits problem from its file ``digits_isolated.npz``, by default the shared one.

    Raises:
        FileNotFoundError: If the file is not there.
    """
    file = path if path is not None else shared_folder() / "data" / "digits_isolated.npz"
    if not file.is_file():
        raise FileNotFoundError(f"no reference data at {file}; set SOLSET_SHARED to the folder that holds it")
    with file.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
        return IsolatedDigits(
            data=digits().part(0, 1000),
            weights=torch.from_numpy(stored["weights"]),
            points=stored["points"].tolist(),
            directions=torch.from_numpy(stored["directions"]),
            steps=stored["steps"].tolist(),
            retrained_change=torch.from_numpy(stored["retrained_change"]),
        )
