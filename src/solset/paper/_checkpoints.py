"""Weights of public checkpoints, as ``akamaster/pytorch_resnet_cifar10`` stores them."""

import hashlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from solset.errors import bad_value
from solset.paper._resnet import ResNet

_PREFIX = "module."  # left by the data-parallel wrapper in which the networks were trained


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, 64 hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def load_checkpoint(path: str | Path, *, check_hash: bool = True) -> dict[str, Tensor]:
    """The state dict of a checkpoint file, on the CPU, its names without the prefix ``module.``.

    The file holds ``{"state_dict": {...}}`` or the names themselves, and is read with
    ``weights_only=True``: it can bring tensors, never code.

    Args:
        path: File that holds the checkpoint.
        check_hash: Whether a hash in the name is checked: ``resnet56-4bfd9763.th`` says that its SHA-256
            begins 4bfd9763, as in ``torch.hub``. A name without a hash is not checked.

    Raises:
        FileNotFoundError: If there is no file.
        ValueError: If the hash is another (the download is cut short, or it is another file), or if it is
            not a checkpoint.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(
            f"no checkpoint at {file}; solset.paper.RESNET56_WEIGHTS.find() finds the public one"
        )
    if check_hash:
        _check_hash(file)
    try:
        stored = torch.load(file, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # whatever a reader makes of bytes that are no checkpoint
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise _not_a_checkpoint(file, reason) from error
    state = stored.get("state_dict", stored) if isinstance(stored, Mapping) else stored
    if not isinstance(state, Mapping) or not state:
        raise _not_a_checkpoint(file, f"it holds {type(state).__name__} {_few(state)}".rstrip())
    strange = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if strange:
        raise _not_a_checkpoint(file, f"no tensors under {_few(strange)}")
    return {str(name).removeprefix(_PREFIX): value for name, value in state.items()}


def pretrained(architecture: Callable[..., ResNet], path: str | Path, *, check_hash: bool = True) -> ResNet:
    """The network with the weights of a checkpoint, in evaluation mode.

    Args:
        architecture: :func:`resnet20` to :func:`resnet110`, or any function of ``generator`` that builds one.
        path: File that holds the checkpoint.
        check_hash: As for :func:`load_checkpoint`.

    Raises:
        FileNotFoundError: If there is no file.
        ValueError: As for :func:`load_checkpoint`, or if names or shapes are not the network's.
    """
    state = load_checkpoint(path, check_hash=check_hash)
    model = architecture(generator=torch.Generator())
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        name = getattr(architecture, "__name__", "the architecture")
        raise bad_value(
            "path",
            expected="a checkpoint with the names and shapes of the network",
            got=f"{path} for {name}: {' '.join(str(error).split())[:400]}",
            cure="Choose the architecture, and its number of classes, that the file was trained for.",
        ) from error
    return model.eval()


def _check_hash(file: Path) -> None:
    promised = re.search(r"-([0-9a-f]{8,64})\.[^.]+$", file.name)
    if promised and not (got := sha256_of(file)).startswith(promised[1]):
        raise bad_value(
            "path",
            expected=f"a file whose sha256 begins {promised[1]}, as its name says",
            got=f"{got[: len(promised[1])]} for the {file.stat().st_size} bytes of {file}",
            cure="It is cut short or another file: download it again (check_hash=False reads it as it is).",
        )


def _not_a_checkpoint(file: Path, reason: str) -> ValueError:
    return bad_value(
        "path",
        expected="a checkpoint: a dict of tensors by name, or one under the key 'state_dict'",
        got=f"{file}: {reason}",
        cure="Give the file as it was published; if the download was cut short, download it again.",
    )


def _few(names: object, shown: int = 3) -> str:
    """The first of them, and how many more."""
    listed = [str(name) for name in names] if isinstance(names, list | Mapping) else []
    more = f" and {len(listed) - shown} more" if len(listed) > shown else ""
    return ", ".join(listed[:shown]) + more
