"""CIFAR-10 files of three images a batch, shared by the tests of their readers. All seeded."""

import hashlib
import struct
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from support.reference import IsolatedDigits, isolated_digits

FOLDER = "cifar-10-batches-py"
NAMES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]


@dataclass(frozen=True)
class CIFARFiles:
    """What the files hold, batch by batch (0 to 4 for training, 5 for testing), and ways to write others."""

    root: Path

    @property
    def folder(self) -> Path:
        return self.root / FOLDER

    @property
    def first(self) -> Path:
        return self.folder / NAMES[0]

    def images(self, number: int) -> np.ndarray:
        return np.random.default_rng(number).integers(0, 256, (3, 3072), dtype=np.uint8)

    def labels(self, number: int) -> list[int]:
        return [number, number + 1, number + 2]

    def python2(self, images: np.ndarray, labels: list[int]) -> bytes:
        """A batch opcode by opcode as Python 2 wrote the public ones."""
        raw = images.tobytes()
        array = (
            b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR(K\x01("
            + b"".join(b"J" + struct.pack("<i", size) for size in images.shape)
            + b"tcnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
            + b"\x89T"
            + struct.pack("<i", len(raw))
            + raw
            + b"tb"
        )
        marks = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
        return b"\x80\x02}(U\x0bbatch_labelU\x04noneU\x06labels" + marks + b"U\x04data" + array + b"u."

    def pack(self, name: str, members: list[str]) -> tuple[Path, str]:
        """An archive of these files of the folder, and its hash."""
        target = self.root / name
        with tarfile.open(target, "w:gz") as archive:
            for member in members:
                archive.add(self.folder / member, f"{FOLDER}/{member}")
        return target, hashlib.sha256(target.read_bytes()).hexdigest()


@pytest.fixture(scope="session")
def reference() -> IsolatedDigits:
    """A network at an isolated minimum; skips the test where the reference data are not here."""
    try:
        return isolated_digits()
    except FileNotFoundError as missing:
        pytest.skip(str(missing))


@pytest.fixture
def files(tmp_path) -> CIFARFiles:
    """Six batches in the folder of the public archive."""
    made = CIFARFiles(tmp_path)
    made.folder.mkdir()
    for number, name in enumerate(NAMES):
        (made.folder / name).write_bytes(made.python2(made.images(number), made.labels(number)))
    return made


@pytest.fixture
def packed(files) -> tuple[Path, str]:
    """The archive and its hash; as in the public one, the members are in another order."""
    return files.pack("cifar-10-python.tar.gz", NAMES[::-1])


@pytest.fixture
def npz(files) -> Path:
    """The first batch."""
    images = files.images(0).reshape(3, 3, 32, 32).transpose(0, 2, 3, 1)
    np.savez(files.root / "few.npz", images=images, labels=np.array(files.labels(0)))
    return files.root / "few.npz"


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """An empty cache, in ``home`` of the folder returned."""
    monkeypatch.setenv("SOLSET_HOME", str(tmp_path / "home"))
    return tmp_path
