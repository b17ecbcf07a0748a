"""The figures: what they show, that they say what they leave out, and that they are the same every time."""

import math
import subprocess
import sys
from io import BytesIO

import numpy as np
import pytest
from matplotlib import image as image_file
from matplotlib import rc_context
from matplotlib.colors import to_hex
from matplotlib.text import Text

from solset.paper._toy_report import ToyPlane, _band, toy_loss_contours, toy_solution_sets
from solset.plotting import (
    ROLE_COLOURS,
    error_against_cost,
    error_against_step,
    figure_bytes,
    image_grid,
    marks_before_after,
    number_text,
    ranking_marks,
    scatter_agreement,
    scores_with_intervals,
    sorted_values,
    station_losses,
)
from solset.plotting._labels import label_places

GRID = np.linspace(0.3, 3.0, 120)
STEPS = [0.1, 0.5, 1, 2]


def toy_plane() -> ToyPlane:
    w1 = np.linspace(0.3, 3.0, 400)
    nearest, along = np.array([1.16, 2.08]), np.array([1.0, -2.0]) / np.sqrt(5.0)
    return ToyPlane(
        trained=np.array([1.0, 2.0]),
        before=np.stack([w1, 2.0 / w1], axis=1),
        after=np.stack([w1, 2.5 / w1], axis=1),
        estimate=np.stack([nearest - 2 * along, nearest + 2 * along]),
        samples=nearest + np.array([[-0.4], [-0.2], [0.1], [0.3], [0.35]]) * along,
        pseudo_inverse=nearest,
        radius=0.178885,
    )


def toy_loss() -> np.ndarray:
    return 0.5 * sum((y - np.outer(GRID, GRID) * x) ** 2 for x, y in ((0.8, 2.0), (1.6, 4.0)))


def images(*shape: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    original = generator.uniform(size=shape)
    return original, original + 0.02 * generator.normal(size=shape)


MAKERS = {
    "toy_solution_sets": lambda: toy_solution_sets(toy_plane()),
    "toy_loss_contours": lambda: toy_loss_contours(toy_plane(), w1=GRID, w2=GRID, loss=toy_loss()),
    "error_against_step": lambda: error_against_step({"estimate": (STEPS, [0.02, 0.09, 0.2, 0.3])}),
    "error_against_cost": lambda: error_against_cost(
        {"estimate": ([100], [0.1]), "warm retraining": ([1, 900], [1.0, 0.1])}
    ),
    "marks_before_after": lambda: marks_before_after(
        ["moved", "all"], {"clean": [1e-6, 1e-3], "estimate": [2, 3]}
    ),
    "scatter_agreement": lambda: scatter_agreement([1.0, 2.0], [1.1, 1.9], correlation=0.98),
    "scores_with_intervals": lambda: scores_with_intervals(
        ["the run", "random", "broken"], [0.9, 0.0, math.nan], [0.8, -0.2, math.nan], [0.95, 0.3, math.nan]
    ),
    "image_grid": lambda: image_grid(*images(2, 8, 8), ["a", "b"]),
}


def words(figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(match=Text))


@pytest.mark.parametrize("name", MAKERS)
def test_same_arguments_give_the_same_bytes(name):
    first, second = MAKERS[name](), MAKERS[name]()
    for file_format in ("png", "svg"):
        data = figure_bytes(first, file_format)
        assert data == figure_bytes(second, file_format)
        assert data == figure_bytes(first, file_format), "writing a figure must not move anything in it"


@pytest.mark.parametrize("name", MAKERS)
def test_a_figure_has_ink_and_its_files_have_no_date(name):
    figure = MAKERS[name]()
    pixels = image_file.imread(BytesIO(figure_bytes(figure, "png")))
    assert pixels.std() > 0.02
    svg = figure_bytes(figure, "svg")
    assert svg.lstrip().startswith(b"<?xml")
    assert b"<dc:date>" not in svg


@pytest.mark.parametrize("name", sorted(set(MAKERS) - {"image_grid", "marks_before_after"}))
def test_both_axes_are_labelled(name):
    axes = MAKERS[name]().axes[0]
    assert axes.get_xlabel()
    assert axes.get_ylabel()


def test_marks_and_images_name_their_rows_and_columns():
    axes = MAKERS["marks_before_after"]().axes[0]
    assert axes.get_ylabel() == "loss"
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["moved", "all"]
    shown = words(MAKERS["image_grid"]())
    assert all(name in shown for name in ("original", "moved", "difference", "a", "b"))


def test_users_own_matplotlib_settings_change_nothing():
    usual = figure_bytes(MAKERS["error_against_step"](), "svg")
    with rc_context({"font.size": 20.0, "axes.grid": False, "svg.hashsalt": "mine", "lines.linewidth": 9.0}):
        assert figure_bytes(MAKERS["error_against_step"](), "svg") == usual


def test_drawing_leaves_no_global_state():
    # The backend is left out: to ask for it is to choose one.
    check = (
        "import sys, matplotlib as m; "
        "state = lambda: {k: m.rcParams[k] for k in m.rcParams if k != 'backend'}; "
        "before = state(); import solset.plotting as p; "
        "p.figure_bytes(p.scatter_agreement([1.0, 2.0], [1.0, 2.0]), 'png'); "
        "assert state() == before, 'settings changed'; "
        "assert 'matplotlib.pyplot' not in sys.modules, 'pyplot'"
    )
    subprocess.run([sys.executable, "-c", check], check=True)


def test_a_role_has_its_colour_in_every_figure():
    figure = error_against_step(
        {"other": (STEPS, STEPS), "clean": (STEPS, STEPS), "estimate": (STEPS, STEPS)}
    )
    colours = [to_hex(line.get_color()).upper() for line in figure.axes[0].get_lines()]
    assert colours[1:] == [ROLE_COLOURS["clean"], ROLE_COLOURS["estimate"].upper()]
    assert colours[0] not in {colour.upper() for colour in ROLE_COLOURS.values()}
    mark = marks_before_after(["all"], {"estimate": [1.0]}).axes[0].get_lines()[0]
    assert to_hex(mark.get_color()).upper() == ROLE_COLOURS["estimate"].upper()


@pytest.mark.parametrize("maker", [error_against_step, error_against_cost])
def test_a_log_axis_says_what_it_leaves_out(maker):
    figure = maker({"a": ([1, 2, 3, 4], [0.0, float("nan"), float("inf"), 1.0]), "b": ([1, 2], [1.0, 1.0])})
    assert "Not drawn: a: 2 not finite and 1 zero or negative." in words(figure)
    assert figure.axes[0].get_lines()[0].get_xdata().tolist() == [4]
    figure_bytes(figure, "png")


def test_nothing_is_said_when_nothing_is_left_out():
    assert "Not drawn" not in words(MAKERS["error_against_step"]())


@pytest.mark.parametrize("values", [[0.0, -1.0], [float("nan"), float("inf")], []])
def test_a_figure_without_a_drawable_value_says_so(values):
    places = list(range(1, len(values) + 1))
    for figure in (
        error_against_step({"a": (places, values)}),
        marks_before_after([str(place) for place in places], {"a": values}),
    ):
        assert "no value that this axis can show" in words(figure)
        figure_bytes(figure, "png")
    figure = scatter_agreement([float("nan")], [1.0])
    assert "no value that this axis can show" in words(figure)
    assert "Not drawn: the points: 1 not finite." in words(figure)


def test_a_mark_that_cannot_be_drawn_is_hollow_and_leaves_its_number():
    figure = marks_before_after(["x", "y", "z"], {"a": [0.0, float("nan"), 0.5]})
    assert {"0", "NaN", "0.5"} <= set(words(figure).split("\n"))
    full, hollow = figure.axes[0].get_lines()
    floor = figure.axes[0].get_ylim()[0]
    assert full.get_ydata().tolist() == [0.5]
    assert hollow.get_ydata().tolist() == [floor, floor]
    assert hollow.get_markerfacecolor() == "white"


def test_the_loss_on_a_grid_with_holes_is_drawn():
    loss = toy_loss()
    loss[:4, 0] = [0.0, np.nan, np.inf, 1.0]
    figure = toy_loss_contours(toy_plane(), w1=GRID, w2=GRID, loss=loss)
    assert "Not drawn: the loss: 2 not finite." in words(figure)
    figure_bytes(figure, "png")
    figure_bytes(toy_loss_contours(toy_plane(), w1=GRID, w2=GRID, loss=np.zeros_like(loss)), "png")


def test_the_band_is_the_curve_expanded_by_the_ball():
    plane = toy_plane()
    outline = _band(plane.before, plane.radius)
    distance = np.linalg.norm(outline[:, None] - plane.before[None], axis=2).min(axis=1)
    np.testing.assert_allclose(distance, plane.radius, rtol=2e-3)


def test_the_window_shows_every_point_and_the_ball():
    plane = toy_plane()
    low, high = plane.window()
    ball = [plane.trained - plane.radius, plane.trained + plane.radius]
    for point in [*plane.samples, plane.pseudo_inverse, *ball]:
        assert (point > low).all()
        assert (point < high).all()
    axes = toy_solution_sets(plane).axes[0]
    assert axes.get_aspect() == 1.0
    assert "0.1789" in words(axes.figure)


def test_agreement_states_count_and_correlation_around_the_identity():
    figure = scatter_agreement([1.0, 2.0, float("inf")], [1.1, 1.9, 2.0], correlation=0.98)
    assert "2 points\ncorrelation 0.98" in words(figure)
    identity = figure.axes[0].get_lines()[0]
    assert list(identity.get_xdata()) == list(identity.get_ydata())
    assert "correlation" not in words(scatter_agreement([1.0], [1.0]))


def test_names_of_lines_that_end_together_do_not_touch():
    lines = {name: np.array([[0.0, 50.0], [300.0, 100.0 + k]]) for k, name in enumerate("abcd")}
    heights = [lines[name][-1, 1] + place.offset[1] for name, place in label_places(lines).items()]
    assert (np.diff(heights) >= 12.0).all(), "apart, and in the order of the lines"
    assert np.mean(heights) == pytest.approx(101.5)


def test_a_name_does_not_cover_a_line_when_there_is_room():
    lines = {"short": np.array([[0.0, 50.0], [100.0, 50.0]]), "long": np.array([[0.0, 51.0], [300.0, 51.0]])}
    place = label_places(lines)["short"]
    assert abs(place.offset[1]) > 6.0, "beside its last point the other line runs"


def test_images_share_a_scale_and_the_difference_has_its_own():
    original = np.zeros((1, 2, 2))
    moved = np.array([[[0.0, 0.1], [0.2, -0.2]]])
    figure = image_grid(original, moved, ["one"])
    drawn = [axes.get_images()[0].get_array() for axes in figure.axes]
    np.testing.assert_allclose(drawn[0], 0.2 / 1.2)
    np.testing.assert_allclose(drawn[2], [[0.5, 0.75], [1.0, 0.0]])
    assert "±0.2" in words(figure)


def test_colour_images_with_missing_pixels_are_drawn():
    original, moved = images(2, 5, 5, 3)
    original[0, 0, 0, 0] = np.inf
    moved[0, 0, 0, 0] = np.inf
    figure = image_grid(original, moved, ["a", "b"])
    assert "Not drawn: the images: 1 not finite." in words(figure)
    figure_bytes(figure, "png")


def test_images_that_did_not_move_have_no_difference():
    original, _ = images(1, 3, 3)
    drawn = image_grid(original, original, ["still"]).axes[2].get_images()[0].get_array()
    np.testing.assert_array_equal(drawn, 0.5)


@pytest.mark.parametrize(
    ("original", "moved", "captions"),
    [
        (np.zeros((2, 3, 3)), np.zeros((1, 3, 3)), ["a", "b"]),
        (np.zeros((1, 3, 3)), np.zeros((1, 3, 3)), ["a", "b"]),
        (np.zeros((1, 3, 3, 2)), np.zeros((1, 3, 3, 2)), ["a"]),
        (np.zeros((0, 3, 3)), np.zeros((0, 3, 3)), []),
    ],
)
def test_images_that_do_not_fit_are_refused(original, moved, captions):
    with pytest.raises(ValueError, match="`original` must be"):
        image_grid(original, moved, captions)


def test_values_that_do_not_fit_are_refused_by_name():
    with pytest.raises(ValueError, match="`mine` must be two sequences"):
        error_against_step({"mine": ([1, 2], [1.0])})
    with pytest.raises(ValueError, match="`clean` must be two sequences"):
        marks_before_after(["a", "b"], {"clean": [1.0]})
    with pytest.raises(ValueError, match="`loss` must be of shape"):
        toy_loss_contours(toy_plane(), w1=GRID, w2=GRID[:-1], loss=toy_loss())


@pytest.mark.parametrize(
    ("value", "spec", "text"),
    [
        (0.1788854, ".4g", "0.1789"),
        (1.5e-12, ".3g", "1.5×10⁻¹²"),
        (2e20, ".3g", "2×10²⁰"),
        (-3, ".3g", "−3"),
        (123456, ".3g", "123\u202f456"),
        (float("nan"), ".3g", "NaN"),
        (float("-inf"), ".3g", "−∞"),
        (12.0, ".1f", "12.0"),
    ],
)
def test_numbers_read_as_in_print(value, spec, text):
    assert number_text(value, spec) == text


def test_a_course_shows_where_it_stopped_and_says_what_it_leaves_out():
    losses = {0.0: 0.0, 0.1: 1e-3, 0.2: 1e-2}
    rows = [
        {"place": place, "moved_loss": loss, "all_loss": 1.0, "length": 1.0} for place, loss in losses.items()
    ]
    figure = station_losses(rows, stop=0.2)
    (axes,) = figure.axes
    assert axes.get_yscale() == "log"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        *("moved points", "all points", "distance travelled"),
        "stopped at 0.2",
    ]
    assert "1 zero or negative" in "".join(text.get_text() for text in figure.findobj(Text))
    assert figure_bytes(figure, "png") == figure_bytes(station_losses(rows, stop=0.2), "png")


@pytest.mark.parametrize("high", [0.3, 2.0, 20.0])
def test_a_short_logarithmic_axis_is_labelled_by_numbers(high: float) -> None:
    columns = {"joint": np.linspace(high, high / 2, 10), "isolated": np.linspace(0.3, 0.2, 10)}
    marks = ranking_marks([f"point {k}" for k in range(10)], columns, xlabel="modulus").axes[0]
    lines = sorted_values(columns, xlabel="points", ylabel="modulus").axes[0]
    for axes, axis in ((marks, marks.xaxis), (lines, lines.yaxis)):
        axes.figure.draw_without_rendering()
        low, high_end = sorted(axis.get_view_interval())
        labels = zip(axis.get_majorticklocs(), axis.get_ticklabels(), strict=True)
        shown = [label.get_text() for place, label in labels if low <= place <= high_end]
        assert len(shown) >= 2
        assert all(float(text) > 0 for text in shown)


def test_scores_show_the_ceiling_and_name_who_has_none() -> None:
    names, none = ["the run", "broken"], math.nan
    figure = scores_with_intervals(names, [0.9, none], [0.8, none], [0.95, none], ceiling=0.7)
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["the run"]
    assert "without a score: broken" in words(figure)
    assert "half of the seeds against the others" in words(figure)
    assert "0.90" in words(figure)
