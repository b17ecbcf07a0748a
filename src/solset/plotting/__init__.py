"""Every figure of solset in one style; the only room that imports matplotlib.

Each function takes plain arrays and returns a :class:`Figure` that no global state knows of; the same
arguments give the same bytes. Colours keep their meaning from figure to figure (:data:`ROLE_COLOURS`),
and no two lines differ by colour alone. A value that an axis cannot show is named below the axis.
"""

from solset.errors import needed

needed("matplotlib", by="a figure", extra="report")

# ruff: noqa: E402 - the check above must come before anything that imports Matplotlib
from solset.plotting._curves import (
    error_against_cost,
    error_against_step,
    marks_before_after,
    ranking_marks,
    scatter_agreement,
    sorted_values,
    station_losses,
)
from solset.plotting._images import image_grid, sensitivity_maps
from solset.plotting._landscape import landscape_contour, landscape_line, landscape_surface
from solset.plotting._plot import moduli_of, modulus_axis, plot
from solset.plotting._scores import scores_with_intervals
from solset.plotting._style import (
    DASHES,
    MUTED,
    ROLE_COLOURS,
    Figure,
    Values,
    figure_bytes,
    new_figure,
    note,
    number_text,
    styled,
    unshown,
)

__all__ = [
    "DASHES",
    "Figure",
    "MUTED",
    "ROLE_COLOURS",
    "Values",
    "error_against_cost",
    "error_against_step",
    "figure_bytes",
    "image_grid",
    "landscape_contour",
    "landscape_line",
    "landscape_surface",
    "marks_before_after",
    "moduli_of",
    "modulus_axis",
    "new_figure",
    "note",
    "number_text",
    "plot",
    "ranking_marks",
    "scatter_agreement",
    "scores_with_intervals",
    "sensitivity_maps",
    "sorted_values",
    "station_losses",
    "styled",
    "unshown",
]
