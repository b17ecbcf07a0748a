"""Slices of the loss through the trained weights."""

from solset.landscapes._filter_norms import filter_normalised
from solset.landscapes._landscape import Landscape, Mark, landscape
from solset.landscapes._plane import Plane

__all__ = ["Landscape", "Mark", "Plane", "filter_normalised", "landscape"]
