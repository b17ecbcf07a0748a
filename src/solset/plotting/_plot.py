"""The figure of a result, chosen by the kind of the result."""

from functools import singledispatch
from typing import Any, Literal

from torch import Tensor

from solset.attribution import Attribution
from solset.errors import bad_type, bad_value
from solset.judge import Comparison
from solset.landscapes import Landscape
from solset.modulus import Audit
from solset.paths import Course
from solset.plotting._curves import ranking_marks, station_losses
from solset.plotting._landscape import landscape_contour, landscape_line, landscape_surface
from solset.plotting._scores import scores_with_intervals
from solset.plotting._style import Figure


@singledispatch
def plot(result: object, **options: Any) -> Figure:  # noqa: ARG001 - the registered functions take them
    """A Matplotlib figure of a result; ``result.plot(**options)`` calls this function.

    A new kind of result gets its figure by ``@plot.register`` on a function of that kind.

    Args:
        result: Result of an analysis: an audit, an attribution, a comparison, a course or a landscape.
        options: Keyword arguments of the figure: ``top`` (number of points, 10 by default) for the first two,
            ``title`` for a course, ``kind`` (``"contour"`` or ``"surface"``), ``subset`` and ``title`` for a
            landscape.

    Raises:
        TypeError: If no figure is defined for this kind of result; take ``to_dict()`` and draw it yourself.
    """
    raise bad_type(
        "result",
        expected="an audit, an attribution, a comparison, a course or a landscape",
        got=type(result).__name__,
        cure="Take its numbers from `to_dict()` and draw them yourself.",
    )


def moduli_of(result: Audit) -> dict[str, Tensor]:
    """The moduli of an audit that were computed, by the name that a legend gives them.

    Args:
        result: Audit whose moduli are drawn.
    """
    joint = "joint" if "per" in result.unit else "the whole change"
    columns = {joint: result.modulus, "isolated": result.isolated_modulus}
    return {name: values for name, values in columns.items() if values is not None}


def modulus_axis(result: Audit) -> str:
    """The name of an axis of moduli, with their unit.

    Args:
        result: Audit whose moduli are drawn.
    """
    return f"{'Lipschitz modulus' if 'per' in result.unit else 'change of the weights'}, {result.unit}"


@plot.register
def _(result: Audit, *, top: int = 10) -> Figure:
    first, axis = result.order[:top], modulus_axis(result)
    marks = {name: values[first].tolist() for name, values in moduli_of(result).items()}
    return ranking_marks([f"point {result.points[place]}" for place in first], marks, xlabel=axis)


@plot.register
def _(result: Attribution, *, top: int = 10) -> Figure:
    weights = result.weights
    if weights is None or weights.ndim != 1 or not bool((weights != 0).any()):
        got = "a block of goals" if weights is not None and weights.ndim > 1 else "no effect of any point"
        cure = "Take its numbers from `to_dict()` and draw them yourself."
        raise bad_value("result", expected="an attribution of one goal to points", got=got, cure=cure)
    first = weights.abs().argsort(descending=True)[:top].tolist()
    named = [f"point {i}" if result.names is None else str(result.names[i]) for i in first]
    labels = [f"{name} ({'-' if weights[i] > 0 else '+'})" for name, i in zip(named, first, strict=True)]
    marks = {"size of the change": weights[first].abs().tolist()}
    return ranking_marks(labels, marks, xlabel="change of the goal without the point, to first order")


@plot.register
def _(result: Comparison) -> Figure:
    names, columns = zip(*[(s.predictor, (s.mean, s.low, s.high)) for s in result.scores], strict=True)
    return scores_with_intervals(names, *zip(*columns, strict=True), ceiling=result.ceiling)


@plot.register
def _(result: Course, *, title: str = "") -> Figure:
    stop = None if result.is_complete else result.end.place
    return station_losses(result.rows(), stop=stop, title=title)


@plot.register
def _(
    result: Landscape,
    *,
    kind: Literal["contour", "surface"] = "contour",
    subset: str = "all",
    title: str = "",
) -> Figure:
    if len(result.coordinates) == 1:
        return landscape_line(result, subsets=(subset,), title=title)
    draw = landscape_surface if kind == "surface" else landscape_contour
    return draw(result, subset=subset, title=title)
