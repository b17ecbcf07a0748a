"""Sets one can project on, sample from and measure."""

from solset.sets.affine import AffineSet, Training
from solset.sets.image import affine_image

__all__ = ["AffineSet", "Training", "affine_image"]
