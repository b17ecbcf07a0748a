"""Sets one can project on, sample from and measure."""

from solset.sets.affine import AffineSet, Training
from solset.sets.bodies import Ball, Box, Halfspace, Simplex
from solset.sets.cloud import PointCloud
from solset.sets.cones import normal_cone, tangent_cone
from solset.sets.convex import ClosedSet, ConvexSet
from solset.sets.distances import SetDistance, distance, excess, pompeiu_hausdorff
from solset.sets.image import affine_image
from solset.sets.intersections import BoxedBall
from solset.sets.limits import in_inner_limit, in_outer_limit
from solset.sets.polyhedron import Polyhedron

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
    "Training",
    "affine_image",
    "distance",
    "excess",
    "in_inner_limit",
    "in_outer_limit",
    "normal_cone",
    "pompeiu_hausdorff",
    "tangent_cone",
]
