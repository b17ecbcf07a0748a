"""Handwritten digits, and CIFAR-10 as the public checkpoints saw it.

Each batch of CIFAR-10 is a pickle. It is opened by an unpickler that can build one thing, a numpy array of
bytes, and refuses by name whatever else a file calls for.
"""

import io
import pickle
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from solset.checks import within
from solset.errors import bad_type, bad_value, needed
from solset.paper._public_files import CIFAR10_ARCHIVE
from solset.paper._resnet import sha256_of


@dataclass(frozen=True)
class Digits:
    """Handwritten digits, 8 × 8 pixels in [0, 1] (scikit-learn's copy of the UCI test set).

    Attributes:
        inputs: Pixels of the images, ``(n, 64)``, from 0 to 1.
        labels: Digits that the images show, ``(n,)``, integers 0 to 9.
    """

    inputs: Tensor
    labels: Tensor

    def part(self, start: int, stop: int) -> "Digits":
        """Digits ``start`` to ``stop``."""
        return Digits(self.inputs[start:stop], self.labels[start:stop])

    def one_hot(self) -> Tensor:
        """Targets of a squared loss, ``(n, 10)``, in the inputs' dtype."""
        return torch.nn.functional.one_hot(self.labels, 10).to(self.inputs.dtype)


def digits(dtype: torch.dtype = torch.float64) -> Digits:
    """All 1,797 digits in the order of the file; ships with scikit-learn, nothing is downloaded.

    Args:
        dtype: Floating-point type of the inputs.

    Example:
        >>> digits().inputs.shape
        torch.Size([1797, 64])
    """
    datasets = needed("sklearn.datasets", by="the digits data", extra="demo")
    images, labels = datasets.load_digits(return_X_y=True)
    return Digits(torch.as_tensor(images / 16.0).to(dtype), torch.as_tensor(labels).to(torch.int64))


_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_PLANES, _PIXELS = (3072,), (32, 32, 3)  # one image: three planes one after another, or rows of pixels
_CURE = (
    f"Give cifar-10-python.tar.gz ({CIFAR10_ARCHIVE.url}), its folder cifar-10-batches-py, "
    "or a .npz of `images` uint8 (n, 32, 32, 3) and `labels` int64 (n,)."
)


@dataclass(frozen=True)
class CIFAR10:
    """Colour photographs of ten kinds of things, 32 × 32 pixels (Krizhevsky 2009).

    Attributes:
        inputs: ``(n, 3, 32, 32)``: RGB / 255, minus (0.485, 0.456, 0.406), over (0.229, 0.224, 0.225), per
            channel. One input unit is 0.229, 0.224, 0.225 of the pixels' range.
        labels: ``(n,)`` integers 0 to 9, names in :attr:`classes`.
    """

    inputs: Tensor
    labels: Tensor

    classes = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

    def part(self, start: int, stop: int) -> "CIFAR10":
        """Images ``start`` to ``stop``."""
        return CIFAR10(self.inputs[start:stop], self.labels[start:stop])

    def pixels(self) -> Tensor:
        """RGB in [0, 1], ``(n, 3, 32, 32)``."""
        return to_pixels(self.inputs)


def to_inputs(pixels: Tensor) -> Tensor:
    """Normalised inputs ``(..., 3, h, w)`` of RGB pixels in [0, 1].

    Raises:
        TypeError: If the pixels are not floating point, such as bytes from 0 to 255.

    Example:
        >>> to_inputs(torch.tensor([0.485, 0.456, 0.406]).reshape(3, 1, 1)).flatten()
        tensor([0., 0., 0.])
    """
    if not pixels.is_floating_point():
        raise bad_type(
            "pixels", expected="floating point in [0, 1]", got=pixels.dtype, cure="Divide bytes by 255."
        )
    return _normalise(pixels.clone())


def to_pixels(inputs: Tensor) -> Tensor:
    """RGB pixels ``(..., 3, h, w)`` of normalised inputs, cut to [0, 1] as any picture must be.

    Example:
        >>> to_pixels(torch.tensor([0.0, 0.0, 100.0]).reshape(3, 1, 1)).flatten()
        tensor([0.4850, 0.4560, 1.0000])
    """
    mean, deviation = _scale(inputs)
    return (inputs * deviation + mean).clamp(0, 1)


def _normalise(pixels: Tensor) -> Tensor:
    """In place, because all of CIFAR-10 is large."""
    mean, deviation = _scale(pixels)
    return pixels.sub_(mean).div_(deviation)


def _scale(like: Tensor) -> tuple[Tensor, Tensor]:
    return like.new_tensor(_MEAN).reshape(3, 1, 1), like.new_tensor(_DEVIATION).reshape(3, 1, 1)


def cifar10(
    path: str | Path,
    *,
    split: Literal["train", "test"] | None = None,
    count: int | None = None,
    dtype: torch.dtype = torch.float32,
    sha256: str | None = CIFAR10_ARCHIVE.sha256,
) -> CIFAR10:
    """The images of a split in the order of the file, normalised.

    Args:
        path: The public archive ``cifar-10-python.tar.gz``, its unpacked folder ``cifar-10-batches-py``, or
            a ``.npz`` of ``images`` uint8 (n, 32, 32, 3) and ``labels`` integers (n,); the content decides
            which. ``CIFAR10_ARCHIVE.find()`` finds one.
        split: ``"train"`` or ``"test"``; by default the training images of an archive or a folder. A
            ``.npz`` holds one split and takes none.
        count: Number of images, from the first on; by default all.
        dtype: Floating-point type of the inputs; float64 images are those of float32 without its rounding.
        sha256: Hash of the archive, or its first digits; None for an archive of your own.

    Raises:
        TypeError: If ``dtype`` is not floating point.
        FileNotFoundError: If there is nothing at the path, or a batch is missing from the folder.
        ValueError: If the archive has another hash, a file is broken or calls for anything but an array of
            bytes, images are not 32 × 32 RGB bytes, labels are not 0 to 9, their numbers differ, or there
            are fewer than ``count``.

    Cost: Memory of 12 kB per image in float32, 0.6 GB for all 50,000, and half as much again while reading.
    """
    place = Path(path)
    if count is not None:
        within("count", count, 1, cure="Leave it out for all images.")
    if not dtype.is_floating_point:
        raise bad_type("dtype", expected="floating point", got=dtype, cure="Leave it out for float32.")
    images, labels = [], []
    layout, stored = _stored(place, split, sha256)
    for source, data, marks in stored:
        checked = _checked(data, marks, layout, source)
        images.append(checked[0])
        labels.append(checked[1])
        if count is not None and sum(map(len, labels)) >= count:
            break
    pixels = torch.from_numpy(np.concatenate(images)[:count])
    if count is not None and len(pixels) < count:
        raise bad_value(
            "count", expected=f"at most {len(pixels)}, the images in {place}", got=count, cure="Lower it."
        )
    return CIFAR10(_normalise(pixels.to(dtype).div_(255)), torch.from_numpy(np.concatenate(labels)[:count]))


def _stored(
    place: Path, split: Literal["train", "test"] | None, sha256: str | None
) -> tuple[tuple[int, ...], Iterator[tuple[str, np.ndarray, np.ndarray]]]:
    """The shape of a stored image, and for each file its name, images and labels."""
    if place.is_dir():
        return _PLANES, folder_batches(place, split or "train")
    if not place.is_file():
        raise FileNotFoundError(f"no CIFAR-10 images at {place}. {_CURE}")
    with place.open("rb") as stream:
        magic = stream.read(4)
    if magic[:2] == b"\x1f\x8b":
        return _PLANES, archive_batches(place, split or "train", sha256)
    if magic != b"PK\x03\x04":
        got = f"{place} of {place.stat().st_size} bytes, which is neither"
        raise bad_value("path", expected="a .tar.gz or a .npz", got=got, cure=_CURE)
    if split is not None:
        raise bad_value(
            "split",
            expected="left out for a .npz, which holds one split",
            got=f"{split!r} with {place}",
            cure="Leave it out, or give the archive.",
        )
    return _PIXELS, iter([_npz(place)])


def _npz(file: Path) -> tuple[str, np.ndarray, np.ndarray]:
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            return str(file), stored["images"], stored["labels"]
    except OSError:
        raise
    except Exception as error:  # a file that is cut short, damaged, of other arrays, or of too many
        expected = "a whole .npz of `images` and `labels`"
        raise bad_value("path", expected=expected, got=f"{file}: {error}", cure=_CURE) from error


def _checked(
    images: np.ndarray, labels: np.ndarray, layout: tuple[int, ...], source: str
) -> tuple[np.ndarray, np.ndarray]:
    """Images ``(n, 3, 32, 32)`` and labels ``(n,)`` int64, if that is what they are."""
    if images.dtype != np.uint8 or not len(images) or images.shape[1:] != layout:
        expected, got = f"images uint8 (n, {', '.join(map(str, layout))})", f"{images.dtype} {images.shape}"
        raise bad_value("path", expected=expected, got=f"{got} in {source}", cure=_CURE)
    if labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer):
        expected, got = (
            f"one integer label for each of {len(images)} images",
            f"{labels.dtype} {labels.shape}",
        )
        raise bad_value("path", expected=expected, got=f"{got} in {source}", cure=_CURE)
    if labels.min() < 0 or labels.max() > 9:
        got = f"{labels.min()} to {labels.max()} in {source}"
        raise bad_value("path", expected="labels from 0 to 9", got=got, cure=_CURE)
    planes = images.reshape(-1, 3, 32, 32) if layout == _PLANES else images.transpose(0, 3, 1, 2)
    return planes, labels.astype(np.int64)


FOLDER = "cifar-10-batches-py"
SPLITS = {"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "test": ("test_batch",)}

_AGAIN = f"Download it again: {CIFAR10_ARCHIVE.url}"


def archive_batches(
    archive: Path, split: str, sha256: str | None
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Where each batch stands in the archive, its images and its labels, in order.

    Nothing is unpacked to disk: the members of the expected names are read, any other is passed over.
    """
    if sha256 is not None and not (got := sha256_of(archive)).startswith(sha256):
        raise bad_value(
            "path",
            expected=f"the archive with sha256 {sha256}",
            got=f"{archive} of {archive.stat().st_size} bytes with sha256 {got}",
            cure=f"The file is cut short or another one: remove it. {_AGAIN}",
        )
    members = [f"{FOLDER}/{name}" for name in SPLITS[split]]
    stored = _members(archive, members)
    for member in members:
        source = f"{archive}:{member}"
        if member not in stored:
            raise bad_value(
                "path", expected=f"an archive with {member}", got=f"{archive} without it", cure=_AGAIN
            )
        yield source, *_unpickled(stored.pop(member), source)


def _members(archive: Path, wanted: list[str]) -> dict[str, bytes]:
    """The bytes of the members of these exact names, in one pass through the compressed file."""
    contents: dict[str, bytes] = {}
    try:
        with tarfile.open(archive, "r|gz") as stream:
            for member in stream:
                if member.name in wanted and member.isreg():
                    content = stream.extractfile(member)
                    contents[member.name] = b"" if content is None else content.read()
                if len(contents) == len(wanted):
                    break
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise bad_value("path", expected="a whole .tar.gz", got=f"{archive}: {error}", cure=_AGAIN) from error
    return contents


def folder_batches(folder: Path, split: str) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """The same for the unpacked folder ``cifar-10-batches-py``, whose files carry no hash of their own."""
    for name in SPLITS[split]:
        file = folder / name
        if not file.is_file():
            raise FileNotFoundError(
                f"no {name} in {folder}: give the folder {FOLDER} itself, with {', '.join(SPLITS[split])}"
            )
        yield str(file), *_unpickled(file.read_bytes(), str(file))


def _unpickled(raw: bytes, source: str) -> tuple[np.ndarray, np.ndarray]:
    expected = "a CIFAR-10 batch, a pickled dict of b'data' (a uint8 array) and b'labels' (a list of ints)"
    try:
        stored = _BatchUnpickler(io.BytesIO(raw), encoding="bytes").load()
    except _Refused as error:
        raise bad_value(
            "path",
            expected=expected,
            got=f"{source}, which calls for {error}",
            cure=f"It was refused and nothing of it was run. {_AGAIN}",
        ) from error
    except Exception as error:  # whatever an unpickler makes of bytes that are no batch
        raise bad_value("path", expected=expected, got=f"{source}: {error}", cure=_AGAIN) from error
    match stored:
        case {b"data": np.ndarray() as data, b"labels": list(labels)} if {*map(type, labels)} <= {int}:
            return data, np.asarray(labels)
        case dict():
            holds = f"a dict of {sorted(map(repr, stored))}"
        case _:
            holds = type(stored).__name__
    raise bad_value("path", expected=expected, got=f"{source} with {holds}", cure=_AGAIN)


class _Refused(pickle.UnpicklingError):
    """A batch calls for something that no batch needs."""


def _byte_type(code: str | bytes, align: object = False, copy: object = True) -> np.dtype:  # noqa: ARG001
    """``numpy.dtype`` as batches call it: numpy itself warns of the integers they give for booleans."""
    if code not in ("u1", b"u1"):
        raise _Refused(f"an array of dtype {code!r}, not uint8")
    return np.dtype(np.uint8, copy=True)


def _encoded(text: str, encoding: str | bytes) -> bytes:
    """``_codecs.encode`` for the one encoding in which python 3 writes bytes to old pickles."""
    if encoding not in ("latin1", b"latin1"):
        raise _Refused(f"the encoding {encoding!r}")
    return text.encode("latin1")


_reconstruct: Any = np.empty(0).__reduce__()[0]
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): _byte_type,
    ("_codecs", "encode"): _encoded,
}


class _BatchUnpickler(pickle.Unpickler):
    """Builds arrays of bytes; imports nothing."""

    def find_class(self, module: str, name: str, /) -> Any:
        """The stand-in for a name, if batches need it."""
        if (module, name) not in _ALLOWED:
            raise _Refused(f"{module}.{name}")
        return _ALLOWED[module, name]
