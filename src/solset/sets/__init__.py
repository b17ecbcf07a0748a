"""Sets one can project on, sample from and measure."""

from solset.sets._affine import AffineSet, TrainingFlow
from solset.sets._bodies import Ball, Box, Halfspace, Simplex
from solset.sets._cloud import PointCloud
from solset.sets._cones import normal_cone, tangent_cone
from solset.sets._convex import ClosedSet, ConvexSet
from solset.sets._distances import (
    SetDistance,
    distance,
    excess,
    in_inner_limit,
    in_outer_limit,
    pompeiu_hausdorff,
)
from solset.sets._image import affine_image
from solset.sets._intersections import BoxedBall
from solset.sets._polyhedron import Polyhedron
from solset.sets._trust import Leftover

__all__ = [
    "AffineSet",
    "Ball",
    "Box",
    "BoxedBall",
    "ClosedSet",
    "ConvexSet",
    "Halfspace",
    "PointCloud",
    "Polyhedron",
    "SetDistance",
    "Simplex",
    "TrainingFlow",
    "affine_image",
    "distance",
    "excess",
    "in_inner_limit",
    "in_outer_limit",
    "normal_cone",
    "pompeiu_hausdorff",
    "tangent_cone",
    "Leftover",
]
