"""Linear operators known by their products, and what dense linear algebra adds to them."""

from solset.linalg.algebra import (
    BlockDiagonal,
    Counted,
    DenseOperator,
    Identity,
    NormalOperator,
    Product,
    Sum,
    shifted,
)
from solset.linalg.operator import LinearOperator
from solset.linalg.space import Space
from solset.linalg.spectrum import Spectrum, default_tolerance, gram, spectrum

__all__ = [
    "BlockDiagonal",
    "Counted",
    "DenseOperator",
    "Identity",
    "LinearOperator",
    "NormalOperator",
    "Product",
    "Space",
    "Spectrum",
    "Sum",
    "default_tolerance",
    "gram",
    "shifted",
    "spectrum",
]
