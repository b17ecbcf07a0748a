"""Linear operators known by their products, and what dense linear algebra adds to them."""

from solset.linalg._algebra import (
    BlockDiagonal,
    Counted,
    DenseOperator,
    Identity,
    NormalOperator,
    Product,
    Sum,
    shifted,
)
from solset.linalg._operator import LinearOperator
from solset.linalg._panels import KeptRows, Stacked, StoredRows, free_bytes
from solset.linalg._ratio import ROUNDING, LargestRatio, LeftSide, equilibrated, largest_ratio
from solset.linalg._space import Space
from solset.linalg._spectrum import (
    Spectrum,
    cross_gram,
    default_tolerance,
    gram,
    gram_block,
    gram_by_parts,
    spectrum,
)
from solset.linalg._spread import SpreadRows, in_parts, most_columns, own_columns, own_part, spread, stacked
from solset.linalg._tiled_cholesky import TiledCholesky
from solset.linalg._tiles import TiledSymmetric, Tiles, tile_places, tiled_gram

__all__ = [
    "BlockDiagonal",
    "Counted",
    "DenseOperator",
    "Identity",
    "KeptRows",
    "LargestRatio",
    "LeftSide",
    "LinearOperator",
    "NormalOperator",
    "Product",
    "ROUNDING",
    "Space",
    "Spectrum",
    "SpreadRows",
    "Stacked",
    "StoredRows",
    "Sum",
    "TiledCholesky",
    "TiledSymmetric",
    "Tiles",
    "cross_gram",
    "default_tolerance",
    "equilibrated",
    "free_bytes",
    "gram",
    "gram_block",
    "gram_by_parts",
    "in_parts",
    "largest_ratio",
    "most_columns",
    "own_columns",
    "own_part",
    "shifted",
    "spectrum",
    "spread",
    "stacked",
    "tile_places",
    "tiled_gram",
]
