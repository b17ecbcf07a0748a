"""The paper's experiments, with their data readers, networks and closed forms."""

from solset.paper._data import CIFAR10, Digits, cifar10, digits, to_inputs, to_pixels
from solset.paper._public_files import (
    CIFAR10_ARCHIVE,
    RESNET56_WEIGHTS,
    DownloadError,
    PublicFile,
    cache_folder,
    fetch,
)
from solset.paper._resnet import (
    ResNet,
    load_checkpoint,
    pretrained,
    resnet20,
    resnet32,
    resnet44,
    resnet56,
    resnet110,
)
from solset.paper._theorem_2 import theorem_2

__all__ = [
    "CIFAR10",
    "CIFAR10_ARCHIVE",
    "Digits",
    "DownloadError",
    "PublicFile",
    "RESNET56_WEIGHTS",
    "ResNet",
    "cache_folder",
    "cifar10",
    "digits",
    "fetch",
    "load_checkpoint",
    "pretrained",
    "resnet110",
    "resnet20",
    "resnet32",
    "resnet44",
    "resnet56",
    "theorem_2",
    "to_inputs",
    "to_pixels",
]
