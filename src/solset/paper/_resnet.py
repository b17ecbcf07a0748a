"""Residual networks for CIFAR images, and the weights that were published for them.

The networks are those of He et al. (2016, section 4.2), with shortcuts that have no weights. Names follow the
public checkpoints of ``akamaster/pytorch_resnet_cifar10``, whose ``state_dict`` fits once the prefix
``module.`` is cut from its keys.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, relu

from solset.errors import bad_value


class PaddedShortcut(nn.Module):
    """Option A: every second pixel, and zeros for the channels that are new."""

    def __init__(self, new_channels: int) -> None:
        super().__init__()
        self.before, self.behind = new_channels // 2, new_channels - new_channels // 2

    def forward(self, inputs: Tensor) -> Tensor:
        """``(b, channels + new, h/2, w/2)`` from ``(b, channels, h, w)``."""
        return pad(inputs[:, :, ::2, ::2], (0, 0, 0, 0, self.before, self.behind))


class BasicBlock(nn.Module):
    """Two normalised 3 × 3 convolutions and a shortcut around them."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        keeps_shape = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if keeps_shape else PaddedShortcut(outputs - inputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """``(b, outputs, h/stride, w/stride)`` from ``(b, inputs, h, w)``."""
        hidden = relu(self.bn1(self.conv1(inputs)))
        return relu(self.bn2(self.conv2(hidden)) + self.shortcut(inputs))


class ResNet(nn.Module):
    """The CIFAR ResNet of depth ``6·blocks + 2``: three stages of 16, 32 and 64 channels.

    Batch normalisation makes outputs depend on the batch in training mode: call ``.eval()`` before you
    study a trained point.

    Args:
        blocks: Number of residual blocks in each of the three stages.
        classes: Number of classes, one output for each.
        generator: The source of the initial weights (He et al. 2015; biases 0).

    Example:
        >>> net = resnet20(generator=torch.Generator().manual_seed(0)).eval()
        >>> net(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(self, blocks: int, *, classes: int = 10, generator: torch.Generator) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):  # the layers' own initialisation draws from the global state
            self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
            self.bn1 = nn.BatchNorm2d(16)
            self.layer1 = _stage(16, 16, blocks, stride=1)
            self.layer2 = _stage(16, 32, blocks, stride=2)
            self.layer3 = _stage(32, 64, blocks, stride=2)
            self.linear = nn.Linear(64, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, generator=generator)
        nn.init.zeros_(self.linear.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits ``(b, classes)`` of images ``(b, 3, h, w)``."""
        hidden = relu(self.bn1(self.conv1(inputs)))
        hidden = self.layer3(self.layer2(self.layer1(hidden)))
        return self.linear(hidden.mean(dim=(2, 3)))


def _stage(inputs: int, outputs: int, blocks: int, *, stride: int) -> nn.Sequential:
    first = BasicBlock(inputs, outputs, stride)
    return nn.Sequential(first, *(BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1)))


def resnet20(*, classes: int = 10, generator: torch.Generator) -> ResNet:
    """The network of 20 layers, 0.27 million weights; arguments as for :class:`ResNet`."""
    return ResNet(3, classes=classes, generator=generator)


def resnet32(*, classes: int = 10, generator: torch.Generator) -> ResNet:
    """The network of 32 layers, 0.46 million weights; arguments as for :class:`ResNet`."""
    return ResNet(5, classes=classes, generator=generator)


def resnet44(*, classes: int = 10, generator: torch.Generator) -> ResNet:
    """The network of 44 layers, 0.66 million weights; arguments as for :class:`ResNet`."""
    return ResNet(7, classes=classes, generator=generator)


def resnet56(*, classes: int = 10, generator: torch.Generator) -> ResNet:
    """The network of 56 layers, 0.85 million weights; arguments as for :class:`ResNet`."""
    return ResNet(9, classes=classes, generator=generator)


def resnet110(*, classes: int = 10, generator: torch.Generator) -> ResNet:
    """The network of 110 layers, 1.7 million weights; arguments as for :class:`ResNet`."""
    return ResNet(18, classes=classes, generator=generator)


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
