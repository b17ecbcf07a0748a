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
from solset.linalg.panels import KeptRows, Stacked, StoredRows, free_bytes
from solset.linalg.ratio import ROUNDING, LargestRatio, LeftSide, equilibrated, largest_ratio
from solset.linalg.space import Space
from solset.linalg.spectrum import (
    Spectrum,
    cross_gram,
    default_tolerance,
    gram,
    gram_block,
    gram_by_parts,
    spectrum,
)
from solset.linalg.spread import SpreadRows, in_parts, most_columns, own_columns, own_part, spread, stacked
from solset.linalg.tiled_cholesky import TiledCholesky
from solset.linalg.tiles import TiledSymmetric, Tiles, tile_places, tiled_gram

__all__ = [
    "ROUNDING",
    "BlockDiagonal",
    "Counted",
    "DenseOperator",
    "Identity",
    "LargestRatio",
    "LeftSide",
    "KeptRows",
    "LinearOperator",
    "NormalOperator",
    "Product",
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
