"""Every file that solset reads, replaced by what is malformed, damaged or made to do harm.

Each must end in an error that names the file or the argument, or in a warning that names it; nothing of it
runs, and nothing outside is written.
"""

import pickle
import shutil
import tarfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from solset import Move, SolsetWarning, audit, design_poisoning, follow_path
from solset.goals import WeightFunction
from solset.landscapes import landscape
from solset.operators import InformativeRows
from solset.paper import cifar10, load_checkpoint
from solset.poisoning import Ascent, Budget
from solset.reports._directions import directions_from_file
from solset.reports._run_folder import RunFolder
from support.hostile_files import DAMAGES, damaged, hostile_contents
from support.tiny import tiny_problem as problem

DX = torch.full((1, 3), 0.01, dtype=torch.float64)


@dataclass(frozen=True)
class Reader:
    """Something that reads a file.

    Attributes:
        name: Of the file, in a folder of its own.
        read: Reads it from that folder.
        is_sealed: Whether every changed byte must be noticed.
    """

    name: str
    read: Callable[[Path], object]
    is_sealed: bool = True


def _weights(folder: Path) -> object:
    return load_checkpoint(folder / "net.th")


def _directions(folder: Path) -> object:
    return directions_from_file(folder / "way.safetensors", (1, 2), torch.zeros(1, dtype=torch.float64))


def _images(folder: Path) -> object:
    return cifar10(folder / "few.npz")


def _batch(folder: Path) -> object:
    return cifar10(folder, count=1)


def _archive(folder: Path) -> object:
    return cifar10(folder / "cifar.tar.gz", count=1, sha256=None)


def _landscape(folder: Path) -> object:
    own = problem()
    way = {"a": torch.ones(len(own.weights()), dtype=torch.float64)}
    return landscape(own, way, resolution=2, checkpoint=folder / "rows", progress=False)


def _path(folder: Path) -> object:
    return follow_path(problem(), Move([0], DX), checkpoint=folder / "course", progress=False)


def _poisoning(folder: Path) -> object:
    return design_poisoning(
        problem(),
        WeightFunction(_sum, name="sum"),
        Budget([0], 0.1),
        ascent=Ascent(max_rounds=1, max_steps=1),
        checkpoint=folder / "ascent",
        progress=False,
    )


def _sum(weights: Tensor) -> Tensor:
    return weights.sum()


def _audit(folder: Path) -> object:
    return audit(problem(), checkpoint=folder)


def _derivative(folder: Path) -> object:
    return problem().load_derivative(folder)


def _run(folder: Path) -> object:
    run = RunFolder.open(folder, settings={"seed": 0}, on_existing="resume")
    return run.stage("first", lambda: [1.0])


READERS = {
    "weights": Reader("net.th", _weights, is_sealed=False),
    "directions": Reader("way.safetensors", _directions, is_sealed=False),
    "images": Reader("few.npz", _images, is_sealed=False),
    "batch of images": Reader("data_batch_1", _batch, is_sealed=False),
    "archive of images": Reader("cifar.tar.gz", _archive, is_sealed=False),
    "landscape": Reader("rows", _landscape),
    "path": Reader("course", _path),
    "poisoning": Reader("ascent", _poisoning),
    "audit": Reader("audit_00000.safetensors", _audit),
    "derivative": Reader("derivative.safetensors", _derivative),
    "derivative, Gram matrix": Reader("gram.npy", _derivative),
    "derivative, rows": Reader("rows.npy", _derivative),
    "run": Reader("run.json", _run),
    "stage": Reader("first.json", _run),
}


def write_valid(kind: str, folder: Path) -> None:
    """What the reader reads without complaint."""
    random = np.random.default_rng(0)
    match kind:
        case "weights":
            torch.save({"w": torch.arange(50.0)}, folder / "net.th")
        case "images":
            images = random.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
            np.savez_compressed(folder / "few.npz", images=images, labels=np.arange(2))
        case "batch of images" | "archive of images":
            batch = {b"data": random.integers(0, 256, (2, 3072), dtype=np.uint8), b"labels": [1, 2]}
            (folder / "data_batch_1").write_bytes(pickle.dumps(batch, protocol=2))
            for number in range(2, 6):
                shutil.copy(folder / "data_batch_1", folder / f"data_batch_{number}")
            with tarfile.open(folder / "cifar.tar.gz", "w:gz") as archive:
                archive.add(folder / "data_batch_1", "cifar-10-batches-py/data_batch_1")
                for number in range(2, 6):
                    archive.add(folder / "data_batch_1", f"cifar-10-batches-py/data_batch_{number}")
        case "directions":
            save_file({"directions": torch.ones(1, 2, dtype=torch.float64)}, folder / "way.safetensors")
        case "derivative" | "derivative, Gram matrix" | "derivative, rows":
            rows = InformativeRows(tol=0.4, max_rows=500)
            problem().derivative(points=[0], optimality="interpolating", rows=rows).save(folder)
    READERS[kind].read(folder)


@pytest.fixture(scope="module")
def valid(tmp_path_factory) -> Callable[[str], Path]:
    """A folder with what each reader wrote or reads, once for all."""
    made: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp("valid")
            write_valid(kind, made[kind])
        return made[kind]

    return folder


def tree(folder: Path) -> dict[str, bytes | None]:
    return {str(one.relative_to(folder)): _bytes(one) for one in folder.rglob("*")}


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def read_in_peace(kind: str, folder: Path) -> str:
    """How reading ended: refused, warned of, or accepted; anything but a clear error is a failure."""
    reader = READERS[kind]
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            reader.read(folder)
    except (ValueError, TypeError, OSError) as error:
        text = str(error)
        named = str(folder) in text or reader.name in text
        assert named, f"the file is not named: {text}"  # noqa: PT017 - any of three kinds will do
        assert "\n" not in text
        return "refused"
    texts = [str(one.message) for one in caught if issubclass(one.category, SolsetWarning)]
    if texts:
        assert any(reader.name in text for text in texts), texts
        return "damaged"
    return "accepted"


CASES = [(kind, name) for kind in READERS for name, _ in hostile_contents(Path("victim"))]
DAMAGED = [(kind, number) for kind in READERS for number in range(2 * DAMAGES)]


def put(kind: str, valid, place: Path, content: bytes) -> Path:
    """A copy of the valid folder with the content in the file's place."""
    folder = place / "inside"
    shutil.copytree(valid(kind), folder)
    (folder / READERS[kind].name).write_bytes(content)
    return folder


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_a_hostile_file_is_refused_by_name_and_nothing_of_it_runs(tmp_path, valid, kind, name):
    content = dict(hostile_contents(tmp_path / "victim"))[name]
    folder = put(kind, valid, tmp_path, content)
    outcome = read_in_peace(kind, folder)
    assert outcome == ("damaged" if kind == "stage" else "refused")
    assert {entry.name for entry in tmp_path.iterdir()} == {"inside"}
    if outcome == "refused":
        assert (folder / READERS[kind].name).read_bytes() == content


@pytest.mark.parametrize(("kind", "number"), DAMAGED)
def test_a_damaged_file_is_noticed_and_named(tmp_path, valid, kind, number):
    before = (valid(kind) / READERS[kind].name).read_bytes()
    _, content = list(damaged(before, seed=list(READERS).index(kind)))[number]
    folder = put(kind, valid, tmp_path, content)
    outcome = read_in_peace(kind, folder)
    if READERS[kind].is_sealed:
        assert outcome != "accepted"
    assert {entry.name for entry in tmp_path.iterdir()} == {"inside"}
    if outcome == "damaged":
        again = (folder / READERS[kind].name).read_bytes()
        assert again == before, "computed again to the same bytes"


def test_a_checkpoint_of_another_kind_in_its_place_is_refused(tmp_path, valid):
    sealed = {
        kind: valid(kind) / READERS[kind].name
        for kind in ("landscape", "path", "poisoning", "audit", "derivative")
    }
    for kind in sealed:
        for other, path in sealed.items():
            if other != kind:
                place = tmp_path / f"{kind} {other}"
                place.mkdir()
                assert read_in_peace(kind, put(kind, valid, place, path.read_bytes())) == "refused"


def test_there_are_more_than_two_hundred(capsys):
    with capsys.disabled():
        print(f" {len(CASES)} hostile and {len(DAMAGED)} damaged files,", end=" ")
    assert len(CASES) + len(DAMAGED) > 200


def test_the_valid_files_are_accepted(tmp_path, valid):
    for kind in READERS:
        shutil.copytree(valid(kind), tmp_path / kind)
        assert read_in_peace(kind, tmp_path / kind) == "accepted"


def test_the_harm_would_be_done(tmp_path):
    """The attack itself works where a file is unpickled."""
    pickle.loads(dict(hostile_contents(tmp_path / "victim"))["pickle"])
    assert (tmp_path / "victim").is_dir()
