"""Plain modules to experiment on."""

from solset.zoo.connected import DFCNN
from solset.zoo.toy import HalfSquaredError, ProductModel

__all__ = ["DFCNN", "HalfSquaredError", "ProductModel"]
