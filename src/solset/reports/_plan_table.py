"""A plan as a table for a terminal, and as JSON."""

import json
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap

from solset.planning import Cost, Plan, Route, plan
from solset.reports._options import Settings, option, path_of, points_option, source_option
from solset.reports._source import load_problem
from solset.solvers import size_text
from solset.storage import replace_file

WIDTH = 100
NAME, COLUMNS = 22, (9, 14, 10, 12, 12, 10, 9)
HEAD = ("rows", "kept", "memory", "first", "next", "step", "limit")
LEGEND = (
    "* what auto takes, + what a map takes unasked, - what does not apply. Costs are passes over the data, a "
    "slash, and gradients by count (1 is a forward and a backward pass over all points): first is to the "
    "first answer and next is each further direction, both without the steps of an iterative solver; step "
    "is one of those, and limit all that it may take. Memory is that of one process at the peak."
)


@dataclass(frozen=True)
class PlanSettings(Settings):
    """Settings of ``solset plan``; each field says what it is in its help text."""

    source: str = source_option("a solset.Problem")
    points: tuple[int, ...] = points_option("that would move", default=(), default_help="all points")
    json: Path | None = option(
        None, flag="--json", parse=path_of, help="File to which all numbers are written as JSON."
    )


def plan_from(settings: PlanSettings) -> str:
    """The plan for a user's problem in words; and as JSON, if a file is named."""
    problem = load_problem(settings.source)
    costs = plan(problem, points=settings.points or None)
    if settings.json is not None:
        replace_file(settings.json, (json.dumps(costs.to_dict(), indent=2) + "\n").encode())
    return f"{problem}\n\n{plan_text(costs)}"


def plan_text(costs: Plan) -> str:
    """At most 100 columns wide."""
    lines = _wrapped(f"auto: {costs.reason}") + _wrapped(_sizes(costs))
    lines += [line for graphs in costs.graphs for line in _wrapped(_graphs(costs, graphs.operator))]
    shown = [*costs.routes, *costs.others]
    lines += ["", "  " + "route".ljust(NAME) + _columns(HEAD)]
    heading = ""
    for route in shown:
        group, name = _names(route)
        if group != heading:
            lines.append(group)
            heading = group
        lines.append(f"{_mark(route)} {name.ljust(NAME)}{_columns(_cells(route))}".rstrip())
        lines += _wrapped(f"does not apply: {route.obstacle}", indent=4) if route.obstacle else []
        lines += _wrapped(route.note, indent=4) if route.note and route.applies else []
    return "\n".join([*lines, "", *_wrapped(LEGEND)])


def _sizes(costs: Plan) -> str:
    shared = f", the work of {costs.processes} processes" if costs.processes > 1 else ""
    return (
        f"{costs.moved} of {costs.points} points move{shared}; {costs.points * costs.outputs} rows of J, "
        f"{costs.weights} weights; fit {costs.fit:.2g}; memory_budget {size_text(costs.memory_budget)}"
    )


def _graphs(costs: Plan, operator: str) -> str:
    graphs = next(each for each in costs.graphs if each.operator == operator)
    verdict = "kept between products" if graphs.are_kept else "built anew at every product"
    return (
        f"graphs of the {operator}: {size_text(graphs.batch_bytes)} for a batch of {costs.batch_size}, "
        f"{size_text(graphs.all_bytes)} for all: {verdict}"
    )


def _names(route: Route) -> tuple[str, str]:
    """The group of a route, and its name within it."""
    for word in (" on ", " by ", ", ", " along "):
        if word in route.name:
            group, _, name = route.name.partition(word)
            return group, name.replace(" by ", ", ")
    return "", route.name


def _mark(route: Route) -> str:
    if not route.applies:
        return "-"
    if route.is_automatic:
        return "*"
    return "+" if route.is_default else " "


def _cells(route: Route) -> tuple[str, ...]:
    if route.memory.total == 0:
        return (_count(route.rows),)
    place = {"memory": "in memory", "recomputed": "recomputed", "disk": f"disk {size_text(route.disk)}"}
    return (
        _count(route.rows),
        "" if route.place is None else place[route.place],
        size_text(route.memory.total),
        _cost(route.first),
        _cost(route.direction),
        "" if route.step is None else _cost(route.step),
        "" if not route.max_steps else _cost(route.limit, digits=1),
    )


def _columns(cells: tuple[str, ...]) -> str:
    return "".join(cell.rjust(width) for cell, width in zip(cells, COLUMNS, strict=False))


def _count(rows: int | None) -> str:
    return "" if rows is None else str(rows)


def _cost(cost: Cost, *, digits: int = 2) -> str:
    return f"{_number(cost.passes, digits)}/{_number(cost.gradients, digits)}"


def _number(value: float, digits: int = 2) -> str:
    """So many digits, or as many as an integer below a thousand has.

    Example:
        >>> _number(0.043), _number(3.18), _number(17.6), _number(4000.0)
        ('0.043', '3.2', '18', '4e3')
    """
    text = f"{value:.0f}" if 10 <= value < 1000 else f"{value:.{digits}g}"
    return text.replace("e+0", "e").replace("e-0", "e-")


def _wrapped(text: str, *, indent: int = 0) -> list[str]:
    return wrap(text, WIDTH, initial_indent=" " * indent, subsequent_indent=" " * (indent + 2))
