"""Operators and vectors as SciPy's Krylov methods take them."""

import numpy as np
import scipy.sparse.linalg as scipy_linalg
import torch
from torch import Tensor

from solset.linalg._operator import LinearOperator


def to_numpy(vector: Tensor) -> np.ndarray:
    """A float64 NumPy copy of a flat tensor."""
    return vector.detach().to("cpu", torch.float64).numpy()


def from_numpy(array: np.ndarray, like: LinearOperator) -> Tensor:
    """A tensor with the dtype and device of an operator."""
    return torch.from_numpy(np.ascontiguousarray(array)).to(like.device, like.dtype)


def as_scipy(operator: LinearOperator) -> scipy_linalg.LinearOperator:
    """The operator as SciPy sees it: float64 vectors in, float64 vectors out.

    The products themselves are computed in the operator's own dtype and device.
    """
    return _Bridge(operator)


class _Bridge(scipy_linalg.LinearOperator):
    def __init__(self, operator: LinearOperator) -> None:
        super().__init__(np.dtype(np.float64), operator.shape)
        self._operator = operator

    def _matvec(self, x: np.ndarray) -> np.ndarray:
        return to_numpy(self._operator @ from_numpy(np.ravel(x), self._operator))

    def _rmatvec(self, x: np.ndarray) -> np.ndarray:
        return to_numpy(self._operator.T @ from_numpy(np.ravel(x), self._operator))
