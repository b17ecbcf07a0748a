"""Public files: a path that is given, or the cache and the public copies that fill it.

A download goes on where it stopped, and is in place only when its hash is right. It is written over
:mod:`urllib`, because neither ``torch.hub`` nor ``pooch`` resumes an interrupted download.
"""

import os
import re
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tqdm import tqdm

from solset import comm
from solset.checks import within
from solset.errors import bad_value
from solset.paper._resnet import sha256_of


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

        The first process of several looks for the file, or downloads it with its hash checked, if it may.

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


_CHUNK = 1 << 16
_RANGE_NOT_SATISFIABLE = 416


class DownloadError(OSError):
    """The file could not be downloaded; the message says why and what is kept."""


def fetch(
    url: str, target: Path, *, sha256: str, timeout: float = 30.0, attempts: int = 5, progress: bool = True
) -> Path:
    """The downloaded file, whole and with the right hash.

    Bytes go to ``<target>.part``, which is renamed in one step once its hash is right. A partial file that
    an earlier call left is completed by an HTTP range request; a server that does not serve ranges sends
    the file from its start. A file that is already in place is only checked.

    Args:
        url: Address that begins with ``http://`` or ``https://``.
        target: Path of the file afterwards; its folder is made.
        sha256: The first 8 or more hexadecimal digits of the hash, or all 64.
        timeout: Seconds without a byte after which the server counts as silent.
        attempts: Number of times that an interrupted transfer is taken up again while each brings new bytes.
        progress: Whether a terminal shows a progress bar.

    Returns:
        ``target``.

    Raises:
        DownloadError: If the server cannot be reached, refuses, or stops: what came is kept in the partial
            file, and the next call goes on from there. If the hash is wrong: the partial file is removed,
            for no byte that follows could mend it. A wrong file already in place is left as it is.
        ValueError: If ``url`` or ``sha256`` is not of the form above.
    """
    _check(url, sha256, attempts)
    if target.is_file():
        if not sha256_of(target).startswith(sha256):
            raise DownloadError(f"{target} is there with another sha256 than {sha256}; move it away first")
        return target
    part = target.with_name(target.name + ".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    if not (part.is_file() and sha256_of(part).startswith(sha256)):
        _complete(url, part, timeout, attempts, progress)
    got = sha256_of(part)
    if not got.startswith(sha256):
        size = part.stat().st_size
        part.unlink()
        raise DownloadError(
            f"{url} sent {size} bytes with sha256 {got[:16]}... where {sha256} was expected; "
            f"they are removed, try again or use another copy"
        )
    return part.replace(target)


def _check(url: str, sha256: str, attempts: int) -> None:
    if not url.startswith(("http://", "https://")):
        cure = "Give a path where the file is local."
        raise bad_value("url", expected="http:// or https://", got=repr(url), cure=cure)
    if not re.fullmatch("[0-9a-f]{8,64}", sha256):
        expected, cure = "8 to 64 lower-case hexadecimal digits", "Take them from the publisher of the file."
        raise bad_value("sha256", expected=expected, got=repr(sha256), cure=cure)
    within("attempts", attempts, 1, cure="Leave it out.")


def _complete(url: str, part: Path, timeout: float, attempts: int, progress: bool) -> None:
    """Transfers until the partial file is whole, or until an attempt brings nothing."""
    for attempt in range(1, attempts + 1):
        before = _size(part)
        try:
            _transfer(url, part, timeout, progress)
            return
        except (OSError, HTTPException) as error:
            if isinstance(error, HTTPError):
                error.close()
            if attempt == attempts or _size(part) <= before:
                raise _stopped(url, part, error) from error


def _size(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0


def _stopped(url: str, part: Path, error: Exception) -> DownloadError:
    reason = " ".join(str(error).split()) or type(error).__name__
    size = _size(part)
    rest = f" ({size} bytes are kept in {part}; the next download goes on from there)" if size else ""
    return DownloadError(f"{url}: {reason}{rest}")


def _transfer(url: str, part: Path, timeout: float, progress: bool) -> None:
    """Appends what the partial file lacks, or starts it again where the server sends the whole file."""
    response, start = _open(url, _size(part), timeout)
    with response, part.open("ab") as stream:
        stream.truncate(start)
        length = response.headers.get("Content-Length")
        total = None if length is None else start + int(length)
        received = start
        with tqdm(
            total=total,
            initial=start,
            desc=part.stem,
            unit="B",
            unit_scale=True,
            disable=None if progress else True,
            leave=False,
        ) as bar:
            while chunk := response.read(_CHUNK):
                received += stream.write(chunk)
                bar.update(len(chunk))
    if total is not None and received != total:
        raise OSError(f"the server stopped after {received} of {total} bytes")


def _open(url: str, size: int, timeout: float) -> tuple[HTTPResponse, int]:
    """The server's answer, and the byte of the file with which it begins."""
    headers = {"User-Agent": "solset"} | ({"Range": f"bytes={size}-"} if size else {})
    try:
        response = urlopen(Request(url, headers=headers), timeout=timeout)
    except HTTPError as error:
        if size and error.code == _RANGE_NOT_SATISFIABLE:  # nothing follows, yet the hash was wrong
            error.close()
            return _open(url, 0, timeout)
        raise
    if response.status != 206:
        return response, 0
    served = response.headers.get("Content-Range", "")
    if not served.startswith(f"bytes {size}-"):
        response.close()
        raise OSError(f"asked for the bytes from {size}, the server sent {served!r}")
    return response, size
