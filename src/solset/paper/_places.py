"""Where data files are: the shared folder, the cache, and the public copies that fill it."""

import os
import zipfile
import zlib
from pathlib import Path

from solset import comm
from solset.paper._download import PublicFile, fetch

# What NumPy raises for a .npz that is cut short, damaged, of other arrays, or of more than there is room for.
NOT_AN_NPZ = (
    KeyError,
    ValueError,
    TypeError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
    MemoryError,
    NotImplementedError,
)

CIFAR10_ARCHIVE = PublicFile(
    name="cifar-10-python.tar.gz",
    url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    sha256="6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
)
"""The python version of CIFAR-10 (Krizhevsky 2009), 170 MB; md5 c58f30108f718f92721af3b95e74349a."""

RESNET56_WEIGHTS = PublicFile(
    name="resnet56-4bfd9763.th",
    url="https://github.com/akamaster/pytorch_resnet_cifar10/raw/master/pretrained_models/resnet56-4bfd9763.th",
    sha256="4bfd97631478d6b638d2764fd2baff3edb1d7d82252d54439343b6596b9b5367",
)
"""ResNet56 for CIFAR-10 (Idelbayev 2018, BSD licence), 93.4 % test accuracy, 3.5 MB."""


def shared_folder() -> Path:
    """Where reference data is looked for: ``$SOLSET_SHARED``, else ``../shared`` of the working folder."""
    return Path(os.environ.get("SOLSET_SHARED", Path.cwd().parent / "shared"))


def cache_folder() -> Path:
    """Where downloads are kept: ``$SOLSET_HOME``, else ``solset`` in ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    if home := os.environ.get("SOLSET_HOME"):
        return Path(home).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "solset"


def find_cifar10(
    path: str | Path | None = None, *, download: bool = True, source: PublicFile = CIFAR10_ARCHIVE
) -> Path:
    """The path of CIFAR-10 images, for :func:`solset.paper.cifar10`.

    Looked for in this order: ``path``, and nothing else where it is given;
    ``data/cifar10_train_2000.npz`` in :func:`shared_folder`; ``source`` in :func:`cache_folder`; the public
    copy, downloaded to the cache with its hash checked.

    Args:
        path: The archive ``cifar-10-python.tar.gz``, its unpacked folder ``cifar-10-batches-py``, or a
            ``.npz`` of ``images`` and ``labels``; by default none.
        download: Whether to download (170 MB) what is not there.
        source: The public copy; another for a mirror.

    Raises:
        FileNotFoundError: If there are none; the message names both cures.
    """
    return _find(
        path,
        option="--data",
        expected="cifar-10-python.tar.gz, its folder cifar-10-batches-py, or a .npz of `images` and `labels`",
        shared="data/cifar10_train_2000.npz",
        source=source,
        download=download,
    )


def find_resnet56_weights(
    path: str | Path | None = None, *, download: bool = True, source: PublicFile = RESNET56_WEIGHTS
) -> Path:
    """The path of the public ResNet56 checkpoint, for :func:`solset.paper.pretrained_resnet56`.

    Looked for in this order: ``path``, and nothing else where it is given;
    ``weights/resnet56-4bfd9763.th`` in :func:`shared_folder`; ``source`` in :func:`cache_folder`; the
    public copy, downloaded to the cache with its hash checked.

    Args:
        path: The file ``resnet56-4bfd9763.th`` or another checkpoint; by default none.
        download: Whether to download (3.5 MB) what is not there.
        source: The public copy; another for a mirror.

    Raises:
        FileNotFoundError: If there is none; the message names both cures.
    """
    return _find(
        path,
        option="--weights",
        expected="resnet56-4bfd9763.th",
        shared="weights/resnet56-4bfd9763.th",
        source=source,
        download=download,
    )


def _find(
    path: str | Path | None, *, option: str, expected: str, shared: str, source: PublicFile, download: bool
) -> Path:
    """Where the first process finds or downloads the file, for all."""

    def search() -> bytes:
        place = _search(
            path, option=option, expected=expected, shared=shared, source=source, download=download
        )
        return str(place).encode()

    found = comm.from_first(search)
    return Path((found or b"").decode())


def _search(
    path: str | Path | None, *, option: str, expected: str, shared: str, source: PublicFile, download: bool
) -> Path:
    cached = cache_folder() / source.name
    places = [Path(path).expanduser()] if path is not None else [shared_folder() / shared, cached]
    for place in places:
        if place.exists():
            return place
    failure = "was not tried, for a path was given" if path is not None else "was turned off"
    cause = None
    if path is None and download:
        try:
            return fetch(source.url, cached, sha256=source.sha256)
        except OSError as error:
            failure, cause = f"failed: {error}", error
    raise FileNotFoundError(
        f"nothing at {' nor at '.join(map(str, places))}. Either give `{option} PATH` with {expected} "
        f"(public copy: {source.url}), or leave it out, to download to {cached} where the network allows "
        f"(the download {failure})"
    ) from cause
