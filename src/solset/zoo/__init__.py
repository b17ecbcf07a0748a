"""Plain modules to experiment on."""

from solset.zoo._connected import DFCNN
from solset.zoo._toy import HalfSquaredError, ProductModel

__all__ = ["DFCNN", "HalfSquaredError", "ProductModel"]
