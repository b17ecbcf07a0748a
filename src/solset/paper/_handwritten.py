"""Handwritten digits."""

from dataclasses import dataclass

import torch
from torch import Tensor

from solset.errors import needed


@dataclass(frozen=True)
class Digits:
    """Handwritten digits, 8 × 8 pixels in [0, 1] (scikit-learn's copy of the UCI test set).

    Attributes:
        inputs: Pixels of the images, ``(n, 64)``, from 0 to 1.
        labels: Digits that the images show, ``(n,)``, integers 0 to 9.
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
        dtype: Floating-point type of the inputs.

    Example:
        >>> digits().inputs.shape
        torch.Size([1797, 64])
    """
    datasets = needed("sklearn.datasets", by="the digits data", extra="demo")
    images, labels = datasets.load_digits(return_X_y=True)
    return Digits(torch.as_tensor(images / 16.0).to(dtype), torch.as_tensor(labels).to(torch.int64))
