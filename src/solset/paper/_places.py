"""Public files: a path that is given, or the cache and the public copies that fill it."""

import os
from dataclasses import dataclass
from pathlib import Path

from solset import comm
from solset.paper._download import fetch


@dataclass(frozen=True)
class PublicFile:
    """A file that anyone can download, and the hash that proves it.

    Attributes:
        name: Name of the file in the cache folder.
        url: Address of the public copy.
        sha256: The first 8 or more digits of the file's hash, or all 64.
        option: Text that says how a path is given instead, for messages.
    """

    name: str
    url: str
    sha256: str
    option: str

    def find(self, path: str | Path | None = None, *, download: bool = True) -> Path:
        """The path that is given, and no other; without one that of the copy in :func:`cache_folder`.

        The first process of several looks for the file, or downloads it with its hash checked.

        Args:
            path: Path of the file, or of what stands for it; none by default.
            download: Whether a file that is not there is downloaded.

        Raises:
            FileNotFoundError: If there is no file; the message names both cures.
        """
        place = comm.from_first(lambda: str(self._search(path, download)).encode())
        return Path((place or b"").decode())

    def _search(self, path: str | Path | None, download: bool) -> Path:
        cached = cache_folder() / self.name
        place = cached if path is None else Path(path).expanduser()
        if place.exists():
            return place
        failure = "was turned off" if path is None else "was not tried, for a path was given"
        cause = None
        if path is None and download:
            try:
                return fetch(self.url, cached, sha256=self.sha256)
            except OSError as error:
                failure, cause = f"failed: {error}", error
        raise FileNotFoundError(
            f"nothing at {place}. Either give {self.option} (public copy: {self.url}), or leave it out, to "
            f"download to {cached} where the network allows (the download {failure})"
        ) from cause


CIFAR10_ARCHIVE = PublicFile(
    name="cifar-10-python.tar.gz",
    url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    sha256="6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    option="`--data PATH` with cifar-10-python.tar.gz, its folder cifar-10-batches-py, or a .npz of `images` "
    "and `labels`",
)
"""The python version of CIFAR-10 (Krizhevsky 2009), 170 MB; md5 c58f30108f718f92721af3b95e74349a."""

RESNET56_WEIGHTS = PublicFile(
    name="resnet56-4bfd9763.th",
    url="https://github.com/akamaster/pytorch_resnet_cifar10/raw/master/pretrained_models/resnet56-4bfd9763.th",
    sha256="4bfd97631478d6b638d2764fd2baff3edb1d7d82252d54439343b6596b9b5367",
    option="`--weights PATH` with resnet56-4bfd9763.th",
)
"""ResNet56 for CIFAR-10 (Idelbayev 2018, BSD licence), 93.4 % test accuracy, 3.5 MB."""


def cache_folder() -> Path:
    """Where downloads are kept: ``$SOLSET_HOME``, else ``solset`` in ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    if home := os.environ.get("SOLSET_HOME"):
        return Path(home).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "solset"
