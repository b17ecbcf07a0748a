"""The places of data files: a path that is given, or the cache and the public copies that fill it."""

import os
from pathlib import Path

from solset import comm
from solset.paper._download import PublicFile, fetch

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


def cache_folder() -> Path:
    """Where downloads are kept: ``$SOLSET_HOME``, else ``solset`` in ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    if home := os.environ.get("SOLSET_HOME"):
        return Path(home).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "solset"


def find_cifar10(
    path: str | Path | None = None, *, download: bool = True, source: PublicFile = CIFAR10_ARCHIVE
) -> Path:
    """The path of CIFAR-10 images, for :func:`solset.paper.cifar10`.

    The path that is given, and no other; without one the copy in :func:`cache_folder`, to which the public
    copy is downloaded with its hash checked.

    Args:
        path: The archive ``cifar-10-python.tar.gz``, its unpacked folder ``cifar-10-batches-py``, or a
            ``.npz`` of ``images`` and ``labels``; by default none.
        download: Whether to download (170 MB) what is not there.
        source: The public copy; another for a mirror.

    Raises:
        FileNotFoundError: If there are none; the message names both cures.
    """
    expected = "cifar-10-python.tar.gz, its folder cifar-10-batches-py, or a .npz of `images` and `labels`"
    return _find(path, f"`--data PATH` with {expected}", source, download)


def find_resnet56_weights(
    path: str | Path | None = None, *, download: bool = True, source: PublicFile = RESNET56_WEIGHTS
) -> Path:
    """The path of the public ResNet56 checkpoint, for :func:`solset.paper.pretrained_resnet56`.

    The path that is given, and no other; without one the copy in :func:`cache_folder`, to which the public
    copy is downloaded with its hash checked.

    Args:
        path: The file ``resnet56-4bfd9763.th`` or another checkpoint; by default none.
        download: Whether to download (3.5 MB) what is not there.
        source: The public copy; another for a mirror.

    Raises:
        FileNotFoundError: If there is none; the message names both cures.
    """
    return _find(path, "`--weights PATH` with resnet56-4bfd9763.th", source, download)


def _find(path: str | Path | None, cure: str, source: PublicFile, download: bool) -> Path:
    """The place where the first process finds or downloads the file, for all processes."""
    place = comm.from_first(lambda: str(_search(path, cure, source, download)).encode())
    return Path((place or b"").decode())


def _search(path: str | Path | None, cure: str, source: PublicFile, download: bool) -> Path:
    cached = cache_folder() / source.name
    place = cached if path is None else Path(path).expanduser()
    if place.exists():
        return place
    failure = "was turned off" if path is None else "was not tried, for a path was given"
    cause = None
    if path is None and download:
        try:
            return fetch(source.url, cached, sha256=source.sha256)
        except OSError as error:
            failure, cause = f"failed: {error}", error
    raise FileNotFoundError(
        f"nothing at {place}. Either give {cure} (public copy: {source.url}), or leave it out, to download "
        f"to {cached} where the network allows (the download {failure})"
    ) from cause
