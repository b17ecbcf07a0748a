"""Plain modules to experiment on."""

from solset.zoo.checkpoints import load_checkpoint, pretrained, pretrained_resnet56
from solset.zoo.connected import DFCNN
from solset.zoo.resnet import ResNet, resnet20, resnet32, resnet44, resnet56, resnet110
from solset.zoo.toy import HalfSquaredError, ProductModel

__all__ = [
    "DFCNN",
    "HalfSquaredError",
    "ProductModel",
    "ResNet",
    "load_checkpoint",
    "pretrained",
    "pretrained_resnet56",
    "resnet20",
    "resnet32",
    "resnet44",
    "resnet56",
    "resnet110",
]
