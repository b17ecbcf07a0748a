"""Slices of the loss through the trained weights."""

from solset.landscapes._landscape import Landscape, Mark, landscape
from solset.landscapes._plane import Plane, filter_length, filter_normalised

__all__ = [
    "Landscape",
    "Mark",
    "Plane",
    "filter_length",
    "filter_normalised",
    "landscape",
]
