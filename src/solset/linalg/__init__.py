"""Linear operators that are defined by their products, and dense linear algebra around them."""

from solset.linalg._algebra import (
    BlockDiagonal,
    ColumnScaled,
    Counted,
    Deflated,
    DenseOperator,
    Identity,
    MaskedRows,
    NormalOperator,
    Product,
    Sum,
    Zero,
    shifted,
)
from solset.linalg._lanczos import SmallestEigenvalue, krylov, smallest_eigenpair
from solset.linalg._largest import LargestEigenvalue, largest_eigenpair
from solset.linalg._operator import LinearOperator
from solset.linalg._panels import WIDTH, KeptRows, Stacked
from solset.linalg._ratio import (
    ROUNDING,
    LargestRatio,
    LeftSide,
    equilibrated,
    largest_ratio,
    largest_ratios,
    largest_singular,
)
from solset.linalg._scipy_bridge import as_scipy, from_numpy, to_numpy
from solset.linalg._space import Space
from solset.linalg._spectrum import (
    CLOSE,
    Spectrum,
    cross_gram,
    default_tolerance,
    gram,
    gram_block,
    gram_by_parts,
    sharp_spectrum,
    spectrum,
)
from solset.linalg._spread import SpreadRows, in_parts, most_columns, own_columns, own_part, spread, stacked

__all__ = [
    "CLOSE",
    "BlockDiagonal",
    "ColumnScaled",
    "Counted",
    "Deflated",
    "DenseOperator",
    "Identity",
    "KeptRows",
    "LargestEigenvalue",
    "LargestRatio",
    "LeftSide",
    "LinearOperator",
    "MaskedRows",
    "NormalOperator",
    "Product",
    "ROUNDING",
    "SmallestEigenvalue",
    "Space",
    "Spectrum",
    "SpreadRows",
    "Stacked",
    "Sum",
    "WIDTH",
    "Zero",
    "as_scipy",
    "cross_gram",
    "default_tolerance",
    "equilibrated",
    "from_numpy",
    "gram",
    "gram_block",
    "gram_by_parts",
    "in_parts",
    "krylov",
    "largest_eigenpair",
    "largest_ratio",
    "largest_ratios",
    "largest_singular",
    "most_columns",
    "own_columns",
    "own_part",
    "sharp_spectrum",
    "shifted",
    "smallest_eigenpair",
    "spectrum",
    "spread",
    "stacked",
    "to_numpy",
]
