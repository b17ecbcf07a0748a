"""What a command of the command line consists of."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from solset.reports._options import Settings
from solset.reports._run_folder import RunFolder


@dataclass(frozen=True)
class Job:
    """Work that is ready to begin: its arguments were checked, and nothing was computed yet.

    Attributes:
        facts: Facts besides the settings that a resumed run must share, such as a digest of the data.
        work: Function that computes into a run folder and returns the path of the page.
    """

    facts: Mapping[str, object]
    work: Callable[[RunFolder], Path]


@dataclass(frozen=True)
class Command:
    """A command: ``solset NAME``.

    Attributes:
        name: Name on the command line.
        help: Sentence that says what the command answers.
        settings: Settings dataclass from which the options are made.
        prepare: Function that takes the settings, refuses what cannot work and returns the job; ``None``
            for a command that makes no folder and has printed its answer.
        has_folder: Whether the command writes a run folder.
    """

    name: str
    help: str
    settings: type[Settings]
    prepare: Callable[[Any], Job | None]
    has_folder: bool = True
