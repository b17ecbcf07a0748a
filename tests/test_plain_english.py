"""The check of words finds what a reader stumbles on, and nothing else."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "tools" / "plain_english.py"


@pytest.fixture(scope="module")
def objections():
    """The texts of all violations in a source text."""
    spec = importlib.util.spec_from_file_location("plain_english", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda source: [text for _, text in module.violations(source)]


def function(entry: str) -> str:
    docstring = f"First line.\n\n    Args:\n        {entry}\n\n    Returns:\n        x: Short.\n    "
    return f'def f(x):\n    """{docstring}"""\n'


@pytest.mark.parametrize(
    "entry",
    [
        "tol: Relative residual at which the solver stops.",
        "x: Inputs of the\n            moved points, ``(k, *input)``.",
        "solver: As in :meth:`estimate`.",
        "x: As for :func:`audit`.",
        "is_exact: Whether the number is exact.",
        "**options: Keyword arguments of the figure.",
    ],
)
def test_a_noun_phrase_of_four_words_passes(objections, entry) -> None:
    assert objections(function(entry)) == []


@pytest.mark.parametrize("start", ["Of", "Those", "What", "How", "Whose", "As", "Given", "By", "In", "From"])
def test_a_fragment_is_refused(objections, start) -> None:
    (objection,) = objections(function(f"x: {start} everything that there is."))
    assert objection == f"entry begins with '{start}': x: {start} everything that there is."


def test_a_short_entry_is_refused_with_its_words(objections) -> None:
    assert objections(function("x: The trained point.")) == ["entry has 3 words: x: The trained point."]


def test_each_entry_is_read_for_itself(objections) -> None:
    entries = "x: The trained point.\n        y: Targets of all the points."
    assert objections(function(entries)) == ["entry has 3 words: x: The trained point."]


@pytest.mark.parametrize(
    "source",
    [
        'Seed = Annotated[int, typer.Option("--seed", help="Of everything random.")]',
        'seed: int = field(default=0, metadata={"help": "Of everything random."})',
    ],
)
def test_help_texts_of_the_command_line_are_read_too(objections, source) -> None:
    assert objections(source) == ["help text has 3 words: Of everything random."]


@pytest.mark.parametrize("name", ["found", "own", "kept", "known"])
def test_a_name_that_says_nothing_is_refused(objections, name) -> None:
    assert objections(f"def f():\n    {name} = 1\n    {name}_rows = 2\n") == [
        f"name says nothing of what it holds: {name}"
    ]


def test_the_command_fails_above_the_allowed_number(tmp_path) -> None:
    file = tmp_path / "bad.py"
    file.write_text("found = 1\n")

    def status(*options: str) -> int:
        return subprocess.run([sys.executable, SCRIPT, file, *options], capture_output=True).returncode

    assert (status(), status("--max", "1")) == (1, 0)
