"""``solset plan``: a table and a file of numbers, and nothing else left behind."""

import dataclasses
import json
from pathlib import Path

import pytest

from solset import plan
from solset.planning import Cost
from solset.reports._plan_table import plan_text
from solset.reports._source import load_problem

CASES = {
    "build": "stationary because of a training set that is not fitted",
    "fitted": "interpolating on all rows by Dual if the 1 rows of J prove independent, else stationary",
    "decayed": "stationary because of weight decay 0.1",
}


@pytest.mark.parametrize("function", CASES)
def test_prints_what_auto_takes_within_a_hundred_columns(solset, function):
    ended = solset("plan", f"mine.py:{function}", "--points", "0")
    assert (ended.code, ended.err) == (0, "")
    lines = ended.out.splitlines()
    assert lines[0].startswith("Problem(Linear, n=")
    assert CASES[function] in " ".join(line.strip() for line in lines)
    assert max(map(len, lines[1:])) <= 100
    assert sum(line.startswith("* ") for line in lines) == 2  # the route, and the legend


def test_makes_no_folder(solset):
    assert solset("plan", "mine.py:build").code == 0
    assert sorted(path.name for path in Path().iterdir() if path.name != "__pycache__") == ["mine.py"]


def test_writes_all_numbers(solset):
    ended = solset("plan", "mine.py:build", "--points", "4,1", "--json", "plan.json")
    assert ended.code == 0
    written = json.loads(Path("plan.json").read_text(encoding="utf-8"))
    assert (written["points"], written["moved"], written["outputs"], written["weights"]) == (6, 2, 1, 2)
    assert [route["is_automatic"] for route in written["routes"]].count(True) == 1
    assert {"passes", "gradients"} == written["routes"][0]["first"].keys()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["mine.py:build", "--points", "0,6"], "`points` must be in 0..5; got [6]. Count points from 0."),
        (["mine.py:build", "--points", "a"], "`--points` must be indices such as 0,3,7 or 0-5,9; got 'a'"),
        (["mine.py:other"], "`source` must be a function that returns a Problem; got int. Return one."),
    ],
)
def test_a_bad_argument_ends_in_one_line(solset, arguments, says):
    ended = solset("plan", *arguments)
    assert (ended.code, ended.out) == (2, "")
    assert says in ended.error


def test_an_obstacle_is_said_below_its_route(solset):
    lines = solset("plan", "mine.py:build").out.splitlines()
    place = next(i for i, line in enumerate(lines) if line.startswith("- preconditioned CG"))
    assert lines[place + 1].strip().startswith("does not apply: weights without weight decay")


def test_large_numbers_keep_their_columns(solset):
    """A table of a problem with millions of rows is as wide as any other."""
    solset("plan", "mine.py:build")
    found = plan(load_problem("mine.py:build"))
    large = Cost(123456.0, 7654321.0)
    routes = tuple(
        dataclasses.replace(route, rows=12345678, prepare=large, direction=large, disk=10**12, place="disk")
        for route in found.routes
    )
    text = plan_text(dataclasses.replace(found, routes=routes, points=12345678))
    assert max(map(len, text.splitlines())) <= 100
    assert "12345678   disk 1.0 TB" in text
    assert "1.2e5/7.7e6" in text
