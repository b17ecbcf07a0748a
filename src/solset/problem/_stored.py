"""A graphical derivative in a folder: a checkpoint, and beside it its rows and their Gram matrix."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from solset import comm
from solset.errors import bad_value
from solset.linalg import DenseOperator, KeptRows, cross_gram, own_columns, spread
from solset.operators import DirectionChoice, InformativeRows, OutputCurvature, OutputDirections
from solset.outofcore import LEAST_SIDE, StoredRows, TiledSymmetric, Tiles, prepare_stored, tile_places
from solset.risk import EmpiricalRisk, identity
from solset.solvers import AT_ONCE, Dual, GramPrepared
from solset.storage import (
    Checkpoint,
    Probe,
    damaged,
    has_entry,
    hash_file,
    make_folder,
    replacing,
)

CHECKPOINT, ROWS, GRAM = "derivative.safetensors", "rows.npy", "gram.npy"


@dataclass(frozen=True)
class Stored:
    """The parts of a derivative on chosen rows that are stored."""

    moved: list[int]  # Indices ``K`` of the points that move
    choice: DirectionChoice  # Chosen rows of the Jacobian and their importance
    prepared: GramPrepared  # Entries of the rows and their Gram matrix
    settings: InformativeRows  # Accuracy and number of rows that were asked for


def store(folder: Path, risk: EmpiricalRisk, derivative: Stored) -> None:
    """Writes a derivative with everything that was computed for it; the checkpoint comes last.

    Args:
        folder: The folder, made if it is not there.
        risk: The risk at the trained point.
        derivative: The derivative to write.

    Raises:
        ValueError: If the folder holds a derivative already.
        OSError: If the disk has no room.
    """
    if has_entry(folder / CHECKPOINT):
        raise bad_value(
            "folder",
            expected="one without a stored derivative",
            got=f"'{folder}', which has one",
            cure="Choose another folder, or remove that one.",
        )
    make_folder(folder)
    side = _store_gram(_store_rows(derivative.prepared, folder), folder)
    choice = derivative.choice
    records = {
        "rows": hash_file(folder / ROWS),
        "gram": hash_file(folder / GRAM),
        "side": side,
        "moved": derivative.moved,
        "moved_rows": choice.moved,
        "discarded": choice.discarded,
        "accuracy": asdict(derivative.settings),
    }
    arrays = {
        "points": choice.directions.points,
        "columns": choice.directions.columns,
        "vectors": choice.directions.vectors,
        "importance": choice.importance,
        "curvature_values": choice.curvature.values,
        "curvature_vectors": choice.curvature.vectors,
    }
    _checkpoint(folder, risk).write(records, arrays)


def restore(folder: Path, risk: EmpiricalRisk, solver: Dual) -> Stored:
    """The derivative that was stored for the same problem.

    Raises:
        ValueError: If it is not a stored derivative, is damaged, or belongs to another problem; says what
            differs.
    """
    stored = None
    if has_entry(folder / CHECKPOINT):
        stored = _checkpoint(folder, risk).load(lambda records, arrays: _restored(records, arrays, risk))
    if stored is None:
        raise bad_value(
            "folder",
            expected=f"one with a stored derivative ({CHECKPOINT})",
            got=f"'{folder}'",
            cure="Pass the folder given to GraphicalDerivative.save.",
        )
    records, choice = stored
    for name, part in ((ROWS, "rows"), (GRAM, "gram")):
        if hash_file(folder / name) != records[part]:
            raise damaged("folder", str(folder / name), "it is missing or not what was written")
    prepared = _prepare(folder, _open_rows(folder, choice, risk, solver), records["side"], solver)
    return Stored(records["moved"], choice, prepared, InformativeRows(**records["accuracy"]))


def _checkpoint(folder: Path, risk: EmpiricalRisk) -> Checkpoint:
    """The checkpoint of a derivative; how the data is batched does not matter to it."""
    probe = Probe("the loss at the points", risk.losses(), rtol=1e-3, atol=1e-9)
    marks = identity(risk, depends_on_batches=False)
    return Checkpoint(folder / CHECKPOINT, "derivative", marks, probe, argument="folder")


def _restored(
    records: Mapping[str, Any], arrays: dict[str, Tensor], risk: EmpiricalRisk
) -> tuple[Mapping[str, Any], DirectionChoice]:
    """The records, refused unless they can be those of a derivative, and the chosen rows."""
    kinds = {"rows": str, "gram": str, "moved": list, "moved_rows": int, "side": int}
    wrong = [name for name, kind in kinds.items() if type(records[name]) is not kind]
    if wrong or type(records["discarded"]) not in {int, float}:
        raise ValueError(f"numbers of another type ({', '.join(wrong) or 'discarded'})")
    moved, count = records["moved"], len(risk.points)
    if not moved or not all(type(point) is int and 0 <= point < count for point in moved):
        raise ValueError(f"moved points {moved} of {count}")
    InformativeRows(**records["accuracy"])  # refuses what cannot be
    here = {name: part.to(risk.weights.device) for name, part in arrays.items()}
    choice = DirectionChoice(
        OutputDirections(here["points"], here["columns"], here["vectors"]),
        records["moved_rows"],
        records["discarded"],
        here["importance"],
        OutputCurvature(here["curvature_values"], here["curvature_vectors"]),
    )
    if records["side"] < max(1, min(len(choice.directions), LEAST_SIDE)):
        raise ValueError(f"tiles of side {records['side']}")
    return records, choice


def _store_rows(prepared: GramPrepared, folder: Path) -> Tensor | TiledSymmetric:
    """Writes the rows and returns their Gram matrix, formed again if the rows were computed again."""
    rows, gram = prepared.operator, cast("Tensor | TiledSymmetric", prepared.matrix)
    stored = None
    with replacing(folder / ROWS) as partial:
        if comm.is_first():
            stored = StoredRows.create(partial, rows.shape, rows.dtype, rows.device)
        for start in range(0, rows.shape[0], AT_ONCE):  # each process has a part of every row
            chunk = rows.rows(start, min(start + AT_ONCE, rows.shape[0]))
            if stored is not None:
                stored.write(start, chunk)
        if stored is not None and not isinstance(rows, KeptRows):
            gram = cross_gram(stored, stored)  # rounding depends on how rows are batched
    return gram


def _store_gram(gram: Tensor | TiledSymmetric, folder: Path) -> int:
    """Writes the Gram matrix in tiles (a single tile, if it is in memory) and returns their side."""
    size, tiles = gram.shape[0], None
    side = size if isinstance(gram, Tensor) else gram.tiles.side
    with replacing(folder / GRAM) as partial:
        if comm.is_first():
            tiles = Tiles.create(partial, size, side, gram.device, has_all=True)
        for i, j in tile_places(size, side):
            tile = gram if isinstance(gram, Tensor) else gram.tiles.shared(i, j)
            if tiles is not None:
                tiles.write(i, j, tile)
    return side


def _prepare(folder: Path, rows: KeptRows, side: int, solver: Dual) -> GramPrepared:
    """The rows with the Gram matrix that was stored, or a new one where its tiles do not fit the budget."""
    try:
        tiles = Tiles(folder / GRAM, rows.shape[0], side, rows.device, has_all=True)
    except (OSError, ValueError) as error:
        raise damaged("folder", str(folder / GRAM), str(error)) from error
    return prepare_stored(solver, rows, tiles)


def _open_rows(folder: Path, choice: DirectionChoice, risk: EmpiricalRisk, solver: Dual) -> KeptRows:
    shape = (len(choice.directions), risk.layout.size)
    try:
        stored = StoredRows(folder / ROWS, shape, risk.weights.dtype, risk.weights.device)
    except (OSError, ValueError) as error:
        raise damaged("folder", str(folder / ROWS), str(error)) from error
    if solver.plan(stored).place != "memory":
        return stored
    columns_here = own_columns(shape[1])
    matrix = torch.empty(shape[0], len(columns_here), dtype=stored.dtype, device=stored.device)
    for columns, entries in stored.panels():
        first, last = max(columns.start, columns_here.start), min(columns.stop, columns_here.stop)
        if first < last:
            inside = entries[:, first - columns.start : last - columns.start]
            matrix[:, first - columns_here.start : last - columns_here.start] = inside
    return spread(DenseOperator(matrix), shape[1])
