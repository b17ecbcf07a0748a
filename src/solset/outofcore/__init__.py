"""Rows and Gram matrices on the disk, and the solver that works from there."""

from solset.outofcore._array_file import StoredRows, free_bytes
from solset.outofcore._disk_dual import LEAST_SIDE, DiskDual, gram_solver, keep_on_disk, prepare_stored
from solset.outofcore._tiled_cholesky import TiledCholesky
from solset.outofcore._tiled_dual import TiledPrepared
from solset.outofcore._tiles import TiledSymmetric, Tiles, tile_places, tiled_gram

__all__ = [
    "DiskDual",
    "LEAST_SIDE",
    "StoredRows",
    "TiledCholesky",
    "TiledPrepared",
    "TiledSymmetric",
    "Tiles",
    "free_bytes",
    "gram_solver",
    "keep_on_disk",
    "prepare_stored",
    "tile_places",
    "tiled_gram",
]
