"""The command line: parse, call, print."""

import inspect
import os
import sys
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

from solset import comm
from solset.errors import ProcessError, bad_value, needed

if TYPE_CHECKING:
    from solset.reports import Command, Settings

_HELP = "Where would a trained network have ended up, had its training data been slightly different?"
_FOLDER_HELP = {
    "out": "Folder for results and report; a folder that is not empty is refused. Default: runs/{name}.",
    "overwrite": "Replace an earlier run in the folder: the files that the run lists as its own, no others.",
    "resume": "Keep the finished stages of an interrupted run of the same settings, data, loss, weights.",
}


def main() -> None:
    """Runs the command line; a bad argument ends in one line and status 2.

    Under ``torchrun`` all processes work on the one run; the first one writes and speaks.
    """
    comm.launch()
    try:
        with _only_the_first_speaks(), comm.reporting():
            code = app()(standalone_mode=not sys.argv[1:])  # without arguments it shows the help
    except (ValueError, TypeError, OSError, ProcessError, ImportError) as error:
        if os.environ.get("SOLSET_TRACEBACK"):
            raise
        _refuse(str(error), status=1 if isinstance(error, ProcessError | ImportError) else 2)
    except Exception as error:  # typer's own: an option that is not there, a text for a number
        if not hasattr(error, "format_message"):
            raise
        _refuse(typing.cast("Any", error).format_message())
    else:
        comm.finish(code or 0)


def commands() -> "tuple[Command, ...]":
    """All commands, in the order of the help."""
    for module in ("typer", "jinja2", "matplotlib"):
        needed(module, by="the command line", extra="report")
    from solset.paper import _commands as of_the_paper
    from solset.reports import COMMANDS

    toy, demo, resnet56 = of_the_paper.COMMANDS
    return toy, demo, *COMMANDS, resnet56


def app() -> Any:
    """The Typer application with every command, its options and their help made from the settings."""
    typer = needed("typer", by="the command line", extra="report")
    application = typer.Typer(
        no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=_HELP
    )
    for command in commands():
        application.command(command.name, help=command.help)(_callback(command))
    return application


def _callback(command: "Command") -> Callable[..., None]:
    """The function whose signature Typer reads: one keyword for each option of the command."""

    def call(**values: Any) -> None:
        _perform(command, values)

    parameters = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, default, annotation in _parameters(command)
    ]
    setattr(call, "__signature__", inspect.Signature(parameters))  # noqa: B010 - functions have none by type
    return call


def _parameters(command: "Command") -> Iterator[tuple[str, Any, Any]]:
    """Name, default and annotation of every parameter; what was not given arrives as ``None``."""
    from typer import Argument, Option

    from solset.reports import help_of, hint_of, options_of

    for field, said in options_of(command.settings):
        text = help_of(command.settings, field)
        hint = hint_of(command.settings, field.name)
        kind = hint if hint in {bool, int, float} else str
        if said.is_argument:
            yield field.name, inspect.Parameter.empty, Annotated[kind, Argument(help=text)]
        elif said.flag:
            option = Option(said.flag, help=text, show_default=False)
            yield field.name, None, Annotated[kind | None, option]
    if command.has_folder:
        texts = {name: text.format(name=command.name) for name, text in _FOLDER_HELP.items()}
        yield "out", None, Annotated[Path | None, Option("--out", help=texts["out"])]
        for name in ("overwrite", "resume"):
            yield name, False, Annotated[bool, Option(f"--{name}", help=texts[name])]


def _perform(command: "Command", values: dict[str, Any]) -> None:
    """Runs a command from its options, or from a settings file in the place of its source."""
    from solset.reports import SETTINGS_FILE, RunFolder, settings_from_texts, settings_text

    out = values.pop("out", None)
    how = [name for name in ("overwrite", "resume") if values.pop(name, False)]
    if command.name == "run" and values["source"].endswith(".toml"):
        command, settings = _replayed(values)
    else:
        settings = settings_from_texts(command.settings, values)
    job = command.prepare(settings)  # refuses before the folder is made: a corrected call finds it free
    if job is None:
        return
    if len(how) == 2:
        expected, cure = "given without --resume", "They exclude each other."
        raise bad_value("--overwrite", expected=expected, got="both", cure=cure)
    existing: Any = how[0] if how else "refuse"
    facts = {**settings.recorded(), **job.facts}
    folder = RunFolder.open(out or Path("runs", command.name), settings=facts, on_existing=existing)
    folder.write_text(SETTINGS_FILE, settings_text(command.name, settings))
    with _interruptible():
        print(f"Open the report: {job.work(folder)}")


def _replayed(values: Mapping[str, Any]) -> "tuple[Command, Settings]":
    """The command and the settings of a settings file."""
    from solset.reports import read_settings, settings_of_table

    others = [name for name, value in values.items() if name != "source" and value is not None]
    if others:
        raise bad_value(
            "source",
            expected="a settings file with no options but --out, --overwrite and --resume",
            got=", ".join(others),
            cure="Change these settings in a copy of the file.",
        )
    table = read_settings(Path(values["source"]))
    name = table.pop("command")
    by_name = {command.name: command for command in commands()}
    if name not in by_name:
        raise bad_value("command", expected=f"one of {', '.join(by_name)}", got=name, cure="Mend the file.")
    return by_name[name], settings_of_table(by_name[name].settings, table)


def _refuse(message: str, *, status: int = 2) -> NoReturn:
    who = f"rank {comm.rank()}: " if comm.size() > 1 else ""
    line = " ".join(message.split()).encode(errors="backslashreplace").decode()
    print(f"{who}error: {line}", file=sys.stderr)
    comm.finish(status)


@contextmanager
def _only_the_first_speaks() -> Iterator[None]:
    """Results, bars and warnings of one process are enough."""
    if comm.is_first():
        yield
        return
    with (
        open(os.devnull, "w", encoding="utf-8") as nothing,
        redirect_stdout(nothing),
        redirect_stderr(nothing),
    ):
        yield


@contextmanager
def _interruptible() -> Iterator[None]:
    """Says after an interrupt what is left in the folder; status 130."""
    from typer import Exit

    try:
        yield
    except KeyboardInterrupt:
        print("\ninterrupted; finished stages are kept: run again with --resume to go on", file=sys.stderr)
        raise Exit(130) from None
