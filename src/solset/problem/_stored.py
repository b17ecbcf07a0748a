"""A graphical derivative on the disk: its rows, their Gram matrix and what they belong to."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from solset import comm
from solset.errors import bad_value
from solset.linalg import DenseOperator, KeptRows, cross_gram, own_columns, spread
from solset.operators import DirectionChoice, InformativeRows, OutputCurvature, OutputDirections
from solset.outofcore import LEAST_SIDE, StoredRows, TiledSymmetric, Tiles, prepare_stored, tile_places
from solset.risk import EmpiricalRisk, digest, fingerprint
from solset.solvers import AT_ONCE, Dual, GramPrepared
from solset.storage._files import (
    has_entry,
    hash_bytes,
    hash_file,
    make_folder,
    partial_path,
    put_in_place,
    read_file,
    replace_file,
)
from solset.storage._sealed import differences, parsed_json

FORMAT = "solset derivative 3"
MANIFEST, TENSORS, ROWS, GRAM = "derivative.json", "derivative.safetensors", "rows.npy", "gram.npy"


@dataclass(frozen=True)
class Stored:
    """What is kept of a derivative on chosen rows.

    Attributes:
        moved: ``K``.
        choice: The rows.
        prepared: Their entries and Gram matrix.
        settings: Accuracy and number of rows that were asked for.
    """

    moved: list[int]
    choice: DirectionChoice
    prepared: GramPrepared
    settings: InformativeRows


def store(folder: Path, risk: EmpiricalRisk, kept: Stored) -> None:
    """Writes a derivative with everything that was computed for it; the manifest comes last.

    Args:
        folder: Made if it is not there.
        risk: At the trained point.
        kept: What to write.

    Raises:
        ValueError: If the folder holds a derivative already.
        OSError: If the disk has no room.
    """
    if has_entry(folder / MANIFEST):
        raise bad_value(
            "folder",
            expected="one without a stored derivative",
            got=f"'{folder}', which has one",
            cure="Choose another folder, or remove that one.",
        )
    make_folder(folder)
    side = _store_gram(_store_rows(kept.prepared, folder), folder)
    choice = kept.choice
    tensors = {
        "points": choice.directions.points,
        "columns": choice.directions.columns,
        "vectors": choice.directions.vectors,
        "importance": choice.importance,
        "curvature_values": choice.curvature.values,
        "curvature_vectors": choice.curvature.vectors,
        "losses": risk.losses(),
    }
    plain = {name: part.detach().cpu().clone().contiguous() for name, part in tensors.items()}
    content = save(plain)
    replace_file(folder / TENSORS, content)
    manifest = {
        "format": FORMAT,
        "problem": identity(risk),
        "tensors": hash_bytes(content),
        "rows": hash_file(folder / ROWS),
        "gram": hash_file(folder / GRAM),
        "side": side,
        "moved": kept.moved,
        "moved_rows": choice.moved,
        "discarded": choice.discarded,
        "tol": kept.settings.tol,
        "most": kept.settings.max_rows,
    }
    replace_file(folder / MANIFEST, _sealed(manifest))


def restore(folder: Path, risk: EmpiricalRisk, solver: Dual) -> Stored:
    """What was stored, for the same problem.

    Args:
        folder: Written by :func:`store`.
        risk: At the trained point.
        solver: Whose memory budget decides whether the rows are read into memory.

    Raises:
        ValueError: If it is not a stored derivative, is damaged, or belongs to another problem; says what
            differs.
    """
    manifest = read_manifest(folder)
    if not _is_sound(manifest, len(risk.points)):
        raise _damaged(MANIFEST)
    unlike = differences(manifest["problem"], identity(risk))
    if unlike:
        raise _of_another(unlike)
    tensors = {name: part.to(risk.weights.device) for name, part in read_tensors(folder, manifest).items()}
    if not torch.allclose(tensors["losses"], risk.losses(), rtol=1e-3, atol=1e-9):
        raise _of_another(["the loss at the points"])
    choice = DirectionChoice(
        OutputDirections(tensors["points"], tensors["columns"], tensors["vectors"]),
        manifest["moved_rows"],
        manifest["discarded"],
        tensors["importance"],
        OutputCurvature(tensors["curvature_values"], tensors["curvature_vectors"]),
    )
    for name, part in ((ROWS, "rows"), (GRAM, "gram")):
        if hash_file(folder / name) != manifest.get(part):
            raise _damaged(name)
    rows = _open_rows(folder, choice, risk, solver)
    prepared = _prepare(folder, rows, manifest["side"], solver)
    settings = InformativeRows(manifest["tol"], manifest["most"])
    return Stored(manifest["moved"], choice, prepared, settings)


def read_manifest(folder: Path) -> dict[str, Any]:
    """What the folder says of itself.

    Args:
        folder: Written by :func:`store`.

    Raises:
        ValueError: If it is not a stored derivative.
    """
    try:
        data = read_file(folder / MANIFEST)
        manifest = parsed_json(data or b"null")
    except (OSError, ValueError):
        data, manifest = None, None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise bad_value(
            "folder",
            expected=f"one with a stored derivative ({MANIFEST} of format '{FORMAT}')",
            got=f"'{folder}'",
            cure="Pass the folder given to GraphicalDerivative.save.",
        )
    manifest.pop("seal", None)
    if _sealed(manifest) != data:
        raise _damaged(MANIFEST)
    return manifest


def read_tensors(folder: Path, manifest: dict[str, Any]) -> dict[str, Tensor]:
    """The small tensors, checked against the manifest.

    Args:
        folder: Written by :func:`store`.
        manifest: Its manifest.

    Raises:
        ValueError: If the file is missing or damaged.
    """
    try:
        content = read_file(folder / TENSORS) or b""
        if hash_bytes(content) == manifest.get("tensors"):
            return load(content)
    except (OSError, SafetensorError, KeyError) as error:
        raise _damaged(TENSORS) from error
    raise _damaged(TENSORS)


def _is_sound(manifest: dict[str, Any], count: int) -> bool:
    """Whether the numbers of a sealed manifest can be those of a derivative."""
    moved, tol, most = (manifest.get(name) for name in ("moved", "tol", "most"))
    return (
        isinstance(manifest.get("problem"), dict)
        and isinstance(moved, list)
        and bool(moved)
        and all(type(point) is int and 0 <= point < count for point in moved)
        and type(manifest.get("moved_rows")) is int
        and type(manifest.get("side")) is int
        and manifest["side"] > 0
        and type(manifest.get("discarded")) in {int, float}
        and type(tol) in {int, float}
        and type(most) is int
    )


def _sealed(manifest: dict[str, Any]) -> bytes:
    """The manifest as it is written: its seal tells one that was changed by hand or by a bad disk."""
    seal = hash_bytes(json.dumps(manifest, sort_keys=True).encode())
    return json.dumps({**manifest, "seal": seal}, indent=2, sort_keys=True).encode()


def _of_another(unlike: list[str]) -> ValueError:
    return bad_value(
        "folder",
        expected="a derivative stored for this problem",
        got=f"one of another, which differs in: {', '.join(unlike)}",
        cure="Load it with the model, data and loss it was computed for.",
    )


def _damaged(name: str) -> ValueError:
    return bad_value(
        "folder",
        expected=f"{name} as it was written",
        got="a missing, damaged or changed file",
        cure="Compute the derivative again and save it to a new folder.",
    )


def identity(risk: EmpiricalRisk) -> dict[str, Any]:
    """What a stored derivative depends on; the size of batches is none of it.

    Args:
        risk: At the trained point.
    """
    marks = fingerprint(risk)
    del marks["batch size"]
    return {**marks, "weights": digest([risk.weights])}


def _store_rows(prepared: GramPrepared, folder: Path) -> Tensor | TiledSymmetric:
    """Writes the rows; the Gram matrix is theirs, formed anew if they had to be computed again."""
    rows, gram = prepared.operator, cast("Tensor | TiledSymmetric", prepared.matrix)
    partial, stored = partial_path(folder / ROWS), None
    try:
        if comm.is_first():
            stored = StoredRows.create(partial, rows.shape, rows.dtype, rows.device)
        for start in range(0, rows.shape[0], AT_ONCE):  # each process has a part of every row
            chunk = rows.rows(start, min(start + AT_ONCE, rows.shape[0]))
            if stored is not None:
                stored.write(start, chunk)
        if stored is not None:
            if not isinstance(rows, KeptRows):
                gram = cross_gram(stored, stored)  # rounding depends on how rows are batched
            put_in_place(partial, folder / ROWS)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return gram


def _store_gram(gram: Tensor | TiledSymmetric, folder: Path) -> int:
    """Writes the Gram matrix in tiles, of which one in memory is a single one; the side of them."""
    size, partial, whole = gram.shape[0], partial_path(folder / GRAM), None
    side = size if isinstance(gram, Tensor) else gram.tiles.side
    try:
        if comm.is_first():
            whole = Tiles.create(partial, size, side, gram.device, has_all=True)
        for i, j in tile_places(size, side):
            tile = gram if isinstance(gram, Tensor) else gram.tiles.shared(i, j)
            if whole is not None:
                whole.write(i, j, tile)
        if whole is not None:
            put_in_place(partial, folder / GRAM)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return side


def _prepare(folder: Path, rows: KeptRows, side: int, solver: Dual) -> GramPrepared:
    """The rows with the Gram matrix that was stored, or a new one where its tiles do not fit the budget."""
    if side < min(rows.shape[0], LEAST_SIDE):
        raise _damaged(MANIFEST)
    try:
        tiles = Tiles(folder / GRAM, rows.shape[0], side, rows.device, has_all=True)
    except (OSError, ValueError) as error:
        raise _damaged(GRAM) from error
    return prepare_stored(solver, rows, tiles)


def _open_rows(folder: Path, choice: DirectionChoice, risk: EmpiricalRisk, solver: Dual) -> KeptRows:
    shape = (len(choice.directions), risk.layout.size)
    try:
        stored = StoredRows(folder / ROWS, shape, risk.weights.dtype, risk.weights.device)
    except (OSError, ValueError) as error:
        raise _damaged(ROWS) from error
    if solver.plan(stored).place != "memory":
        return stored
    own = own_columns(shape[1])
    matrix = torch.empty(shape[0], len(own), dtype=stored.dtype, device=stored.device)
    for columns, entries in stored.panels():
        first, last = max(columns.start, own.start), min(columns.stop, own.stop)
        if first < last:
            inside = entries[:, first - columns.start : last - columns.start]
            matrix[:, first - own.start : last - own.start] = inside
    return spread(DenseOperator(matrix), shape[1])
