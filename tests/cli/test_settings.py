"""A run's settings: written once, kept with the run, and repeated from its file."""

import dataclasses
from pathlib import Path

import pytest

from solset import cli
from solset.reports._options import Settings, help_of, options_of
from solset.reports._settings_file import read_settings, settings_of_table, settings_text
from support.commands import contents

NAMES = [command.name for command in cli.commands()]


def settings_of(name: str) -> type[Settings]:
    return next(command.settings for command in cli.commands() if command.name == name)


def example(name: str) -> Settings:
    """Settings of a command, none of which that may differ is a default."""
    values = {"source": "mine.py:build", "points": (4, 1), "radius": 0.25}
    fields = {field.name for field in dataclasses.fields(settings_of(name))}
    if name in {"toy", "demo", "resnet56"}:
        return settings_of(name)(seed=3)
    if name == "choose":
        values |= {"change": "flip", "most": 2, "labels": (0.0, 1.5)}
    return settings_of(name)(**{key: value for key, value in values.items() if key in fields})


@pytest.mark.parametrize("name", NAMES)
def test_a_settings_file_gives_the_settings_back(name, tmp_path):
    file = tmp_path / "settings.toml"
    file.write_text(settings_text(name, example(name)))
    table = read_settings(file)
    assert table.pop("command") == name
    assert settings_of_table(settings_of(name), table) == example(name)


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_has_a_help_text_of_its_own(name):
    texts = [said.help for _, said in options_of(settings_of(name))]
    assert all(text.endswith((".", ";")) and len(text.split()) >= 4 for text in texts)
    assert len(set(texts)) == len(texts)


def test_help_says_choices_and_defaults():
    fields = {field.name: field for field in dataclasses.fields(settings_of("poison"))}
    said = {name: help_of(settings_of("poison"), field) for name, field in fields.items()}
    assert said["norm"].endswith("One of l2, linf. Default: l2.")
    assert said["points"].endswith("Required.")
    assert said["learning_rate"] == (
        "Learning rate of the gradient descent that is counted on. "
        "Default: 1 / the largest eigenvalue of the Gauss-Newton matrix."
    )


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("run", ("--points", "4,1", "--size", "0.5%,1%", "--samples", "2", "--seed", "7")),
        ("audit", ("--points", "4,1", "--no-influence")),
        ("path", ("--points", "4,1", "--size", "5%", "--direction", "random")),
    ],
)
def test_run_repeats_a_run_from_its_settings_to_the_same_bytes(solset, command, options):
    assert solset(command, "mine.py:decayed", *options, "--out", "first").code == 0
    ended = solset("run", "first/settings.toml", "--out", "again")
    assert ended.code == 0
    assert "Open the report: again/report.html" in ended.out
    assert contents("again") == contents("first")
    assert solset("run", "again/settings.toml", "--out", "again", "--resume").code == 0
    assert contents("again") == contents("first")


@pytest.mark.parametrize(
    ("text", "options", "says"),
    [
        ("command = 'toy'", ("--points", "3"), "no options but --out, --overwrite and --resume; got points"),
        ("command = 'paint'", (), "`command` must be one of toy, demo, run"),
        ("seed = 1", (), "`source` must be a file that names its command"),
        ("command", (), "`source` must be a settings file in TOML; got mended.toml: "),
        ("command = 'toy'\nsamples = 'many'", (), "`samples` must be an integer; got 'many'"),
        ("command = 'toy'\nsample = 3", (), "`settings` must be settings among radius, samples, seed; got"),
        (
            "command = 'run'\nsource = 'mine.py:build'",
            (),
            "`--points` must be given, or one of",
        ),
        ("command = 'run'\npoints = 3", (), "`points` must be a list; got 3. Write it as [1, 2]."),
        ("command = 'run'\npoints = [0.5]", (), "`points` must be an integer; got 0.5"),
        ("command = 'toy'\nseed = -1", (), "`seed` must be from 0 to 4294967295; got -1"),
    ],
)
def test_a_settings_file_that_says_something_else_is_refused(solset, text, options, says):
    Path("mended.toml").write_text(text)
    ended = solset("run", "mended.toml", *options, "--out", "new")
    assert ended.code == 2
    assert says in ended.error
    assert not Path("new").exists()


def test_a_settings_file_that_is_not_there_is_named(solset):
    assert "`source` must be an existing settings file; got none.toml." in solset("run", "none.toml").error


def test_a_required_option_that_is_missing_is_named(solset):
    ended = solset("run", "mine.py:build", "--out", "new")
    assert ended.code == 2
    assert "`--points` must be given, or one of --remove" in ended.error
    assert not Path("new").exists()
