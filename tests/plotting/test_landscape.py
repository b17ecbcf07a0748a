"""Pictures of landscapes: every mark is seen, every axis named, and what is left out is said."""

from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
import torch
from matplotlib import image as image_file
from matplotlib.text import Text

from solset.landscapes import Landscape, Mark, Plane
from solset.plotting import figure_bytes, landscape_contour, landscape_line, landscape_surface, plot

PLANE = [landscape_contour, landscape_surface]


def mark(name: str, *places: tuple[float, ...], off: float = 0.0, loss: float = 0.1) -> Mark:
    values = {name: torch.full((len(places),), loss, dtype=torch.float64) for name in ("all", "moved")}
    found = torch.tensor(places, dtype=torch.float64)
    return Mark(name, found, torch.full((len(places),), off, dtype=torch.float64), values)


def made(axes: int = 2, *, power: int = 1, normalise: str = "length", cosine: float = 0.0) -> Landscape:
    """A bowl; ``power`` says how many decades it spans."""
    first, second = torch.tensor([1.0, 0.0]), torch.tensor([cosine, (1 - cosine**2) ** 0.5])
    directions = dict(list({"Δw": first, "kernel": second}.items())[:axes])
    grid = (torch.linspace(-1, 1, 11, dtype=torch.float64),) * axes
    height = sum(axis.square() for axis in torch.meshgrid(*grid, indexing="ij"))
    values = {"all": 0.1 + height**power if power == 1 else 1e-3 + height**power, "moved": 2 * height + 1}
    marks = (
        mark("trained weights", (0.0,) * axes),
        mark("minimum-norm solution", (0.5,) * axes, off=0.42),
        mark("sampled solutions", (0.5,) * axes, (-0.5,) * axes),
        mark("something else", (0.2,) * axes),
    )
    quantities = {"all": "risk, mean over 9 points", "moved": "loss on moved, mean over 2 points"}
    plane = Plane(torch.zeros(2), directions, normalise)
    return Landscape(plane, grid, values, quantities, {"all": 0.1, "moved": 1.0}, marks)


MAKERS = {
    "contour": lambda: landscape_contour(made()),
    "surface": lambda: landscape_surface(made()),
    "line": lambda: landscape_line(made(1)),
    "contour, logarithmic": lambda: landscape_contour(made(power=3), subset="all"),
    "surface, logarithmic": lambda: landscape_surface(made(power=3), view=(50, 20)),
    "line, logarithmic": lambda: landscape_line(made(1, power=3), subsets=["all"]),
}


def words(figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(match=Text))


@pytest.mark.parametrize("name", MAKERS)
def test_same_arguments_give_the_same_bytes_with_ink(name):
    first, second = MAKERS[name](), MAKERS[name]()
    for file_format in ("png", "svg"):
        data = figure_bytes(first, file_format)
        assert data == figure_bytes(second, file_format)
    assert image_file.imread(BytesIO(figure_bytes(first, "png"))).std() > 0.02


@pytest.mark.parametrize("name", MAKERS)
def test_axes_title_and_marks_are_named(name):
    figure = MAKERS[name]()
    axes, said = figure.axes[0], words(figure)
    assert "Δw" in axes.get_xlabel()
    assert "relative filter change" in axes.get_xlabel()
    assert axes.get_ylabel()
    assert "Δw" in said.split("\n")[0] or any("Δw" in t for t in (axes.get_title(), axes.get_title("left")))
    for wanted in ("trained weights", "minimum-norm solution,\n42 % off the plane", "something else"):
        assert wanted in said
    assert ("logarithmic" in said) == ("logarithmic" in name)


@pytest.mark.parametrize("maker", [*PLANE, landscape_line])
def test_legends_cover_no_data(maker):
    figure = maker(made(1 if maker is landscape_line else 2))
    figure.draw_without_rendering()
    (legend,) = [*figure.legends, *(axes.get_legend() for axes in figure.axes if axes.get_legend())]
    box, canvas = legend.get_window_extent(), figure.bbox
    assert canvas.x0 <= box.x0 < box.x1 <= canvas.x1, "the whole of it is on the page"
    assert canvas.y0 <= box.y0 < box.y1 <= canvas.y1
    tops = [text.get_window_extent().y1 for text in figure.findobj(match=Text) if "Δw" in text.get_text()]
    assert max(tops) <= canvas.y1, "and so is the title"
    if maker is landscape_contour:  # its legend belongs to the axes, and so to their tight box
        assert not box.overlaps(figure.axes[0].get_window_extent())
    else:
        assert not box.overlaps(figure.axes[0].get_tightbbox())


def test_marks_are_drawn_over_the_surface():
    axes = landscape_surface(made()).axes[0]
    assert not axes.computed_zorder
    surface = max(collection.get_zorder() for collection in axes.collections)
    marks = [line for line in axes.lines if not line.get_label().startswith("_")]
    assert len(marks) == 4
    assert all(line.get_zorder() > surface for line in marks)


@pytest.mark.parametrize("maker", PLANE)
def test_what_is_not_finite_is_left_out_and_said(maker):
    landscape = made()
    landscape.values["all"][:2, :3] = float("nan")
    landscape.values["all"][9, 9] = float("inf")
    figure = maker(landscape)
    assert "Not drawn: the risk: 7 not finite." in words(figure)
    assert ("loss not finite" in words(figure)) == (maker is landscape_contour)
    figure_bytes(figure, "png")


@pytest.mark.parametrize("maker", [*PLANE, landscape_line])
def test_a_landscape_without_a_finite_loss_says_so(maker):
    landscape = made(1 if maker is landscape_line else 2)
    nothing = {name: torch.full_like(grid, float("nan")) for name, grid in landscape.values.items()}
    figure = maker(replace(landscape, values=nothing))
    assert "no value that this axis can show" in words(figure)
    figure_bytes(figure, "png")


@pytest.mark.parametrize("maker", [*PLANE, landscape_line])
@pytest.mark.parametrize("constant", [0.0, 3.0, -1.0])
def test_a_flat_landscape_is_drawn(maker, constant):
    landscape = made(1 if maker is landscape_line else 2)
    flat = {name: torch.full_like(grid, constant) for name, grid in landscape.values.items()}
    figure_bytes(maker(replace(landscape, values=flat), ()), "png")


@pytest.mark.parametrize("maker", PLANE)
def test_marks_outside_of_the_picture_and_low_losses_are_said(maker):
    landscape = made(power=3)
    landscape.values["all"][5, 5] = 1e-30
    marks = [mark("far away", (0.0, 3.0), (0.0, 0.0)), mark("broken", (0.0, 0.0), loss=float("inf"))]
    said = words(maker(landscape, marks)).replace("\n", " ")
    assert "Outside of the picture: 1 of far away. Outside of the picture: 1 of broken." in said
    assert "Losses below 8×10⁻⁵ are drawn at that value." in said


@pytest.mark.parametrize("maker", PLANE)
def test_slanted_directions_are_said(maker):
    assert "The two directions have cosine 0.60." in words(maker(made(cosine=0.6)))
    assert "cosine" not in words(maker(made()))


def test_units_of_the_axes_are_named():
    assert landscape_contour(made(normalise="none")).axes[0].get_xlabel() == "Δw (multiples of it)"
    assert landscape_contour(made(normalise="filter")).axes[0].get_ylabel() == "kernel (filter-normalised)"


def test_contours_run_along_the_right_axes():
    landscape = made()
    landscape.values["all"][:] = landscape.coordinates[0][:, None]  # rises along the first direction only
    filled = landscape_contour(landscape, ()).axes[0].collections[0]
    darkest = np.concatenate([path.vertices for path in filled.get_paths()[-2:] if len(path.vertices)])
    assert darkest[:, 0].min() > 0.5


def test_figures_of_the_other_dimension_and_unknown_subsets_are_refused():
    for maker in PLANE:
        with pytest.raises(ValueError, match="`landscape` must be over a plane"):
            maker(made(1))
        with pytest.raises(ValueError, match="`subset` must be one of all, moved"):
            maker(made(), subset="other")
    with pytest.raises(ValueError, match="`landscape` must be over a line"):
        landscape_line(made())


@pytest.mark.parametrize(
    ("axes", "options", "same"),
    [
        (2, {}, landscape_contour),
        (2, {"kind": "surface"}, landscape_surface),
        (1, {}, lambda landscape: landscape_line(landscape, subsets=("all",))),
    ],
)
def test_the_figure_of_a_landscape_is_chosen_by_its_axes(axes, options, same):
    landscape = made(axes)
    assert figure_bytes(plot(landscape, **options), "png") == figure_bytes(same(landscape), "png")
