"""Handwritten digits, and the digits problem whose retrained solutions are known."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from solset.errors import bad_value, needed
from solset.paper._places import NOT_AN_NPZ, shared_folder


@dataclass(frozen=True)
class Digits:
    """Handwritten digits, 8 × 8 pixels in [0, 1] (scikit-learn's copy of the UCI test set).

    Attributes:
        inputs: ``(n, 64)``.
        labels: ``(n,)`` integers 0 to 9.
    """

    inputs: Tensor
    labels: Tensor

    def part(self, start: int, stop: int) -> "Digits":
        """Digits ``start`` to ``stop``."""
        return Digits(self.inputs[start:stop], self.labels[start:stop])

    def one_hot(self) -> Tensor:
        """Targets of a squared loss, ``(n, 10)``, in the inputs' dtype."""
        return torch.nn.functional.one_hot(self.labels, 10).to(self.inputs.dtype)


def digits(dtype: torch.dtype = torch.float64) -> Digits:
    """All 1,797 digits in the order of the file; ships with scikit-learn, nothing is downloaded.

    Args:
        dtype: Of the inputs.

    Example:
        >>> digits().inputs.shape
        torch.Size([1797, 64])
    """
    datasets = needed("sklearn.datasets", by="the digits data", extra="demo")
    images, labels = datasets.load_digits(return_X_y=True)
    return Digits(torch.as_tensor(images / 16.0).to(dtype), torch.as_tensor(labels).to(torch.int64))


@dataclass(frozen=True)
class IsolatedDigits:
    """A digits network with an isolated solution, and where retraining really took it.

    Attributes:
        data: The first 1,000 digits.
        weights: Of a 64-32-10 tanh network with biases, trained with mean cross-entropy and weight decay
            :attr:`weight_decay` to a gradient norm of 1e-13, flat in ``named_parameters`` order.
        points: The moved points.
        directions: Their unit directions, ``(10, 64)``.
        steps: Sizes as fractions of each moved point's norm.
        retrained_change: The true weight change for each step, ``(len(steps), p)``.
        weight_decay: ``λ``.
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
    """The isolated digits problem from its file ``digits_isolated.npz``.

    Args:
        path: The file; by default ``data/digits_isolated.npz`` in :func:`shared_folder`.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If it is something else.
    """
    file = path if path is not None else shared_folder() / "data" / "digits_isolated.npz"
    if not file.is_file():
        raise FileNotFoundError(f"no reference data at {file}; set SOLSET_SHARED to the folder that holds it")
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            return IsolatedDigits(
                data=digits().part(0, 1000),
                weights=torch.from_numpy(stored["weights"]),
                points=stored["points"].tolist(),
                directions=torch.from_numpy(stored["directions"]),
                steps=stored["steps"].tolist(),
                retrained_change=torch.from_numpy(stored["retrained_change"]),
            )
    except NOT_AN_NPZ as error:
        raise bad_value(
            "path", expected="a whole digits_isolated.npz", got=f"{file}: {error}", cure="Give that file."
        ) from error
