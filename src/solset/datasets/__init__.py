"""The only readers of data files: handwritten digits and CIFAR-10, and where their files are found."""

from solset.datasets.cifar import CIFAR10, cifar10, to_inputs, to_pixels
from solset.datasets.download import DownloadError, PublicFile, fetch
from solset.datasets.handwritten import Digits, IsolatedDigits, digits, isolated_digits
from solset.datasets.places import (
    CIFAR10_ARCHIVE,
    RESNET56_WEIGHTS,
    cache_folder,
    find_cifar10,
    find_resnet56_weights,
    shared_folder,
)

__all__ = [
    "CIFAR10",
    "CIFAR10_ARCHIVE",
    "RESNET56_WEIGHTS",
    "Digits",
    "DownloadError",
    "IsolatedDigits",
    "PublicFile",
    "cache_folder",
    "cifar10",
    "digits",
    "fetch",
    "find_cifar10",
    "find_resnet56_weights",
    "isolated_digits",
    "shared_folder",
    "to_inputs",
    "to_pixels",
]
