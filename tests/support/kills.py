"""Kills runs at random moments, takes them up again, and compares what they end with."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
PATIENCE = 600.0  # seconds after which a run that does not end is a failure


@dataclass(frozen=True)
class Killable:
    """A run that can be killed and taken up again.

    Attributes:
        name: Of the run.
        command: From the run folder to the command that starts the run, and that takes up what is there.
        files: What it needs beside the run folder, by name.
    """

    name: str
    command: Callable[[Path], Sequence[str]]
    files: Mapping[str, str] = field(default_factory=dict)

    def start(self, folder: Path) -> subprocess.Popen[str]:
        """The process, in a group of its own: of several ranks any can be killed."""
        paths = os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")])
        environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            list(self.command(folder)),
            cwd=folder.parent,
            env=environment,
            text=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def finish(self, folder: Path) -> None:
        """Lets the run end; damage to a file would be said in a warning."""
        process = self.start(folder)
        _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, errors
        assert "damaged" not in errors, errors


def solset(*arguments: str) -> list[str]:
    """A command line of solset."""
    return [sys.executable, "-m", "solset", *arguments]


def contents(folder: Path) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in folder.iterdir()}


@dataclass
class Course:
    """What was done to a run.

    Attributes:
        kills: Processes that were killed before they ended.
        moments: At which of them how much of the folder was there.
        ended: Runs that ended, each compared with the one that was left alone.
    """

    kills: int = 0
    moments: list[str] = field(default_factory=list)
    ended: int = 0


def kill_and_resume(
    run: Killable,
    place: Path,
    *,
    kills: int,
    seed: int,
    strike: Callable[[subprocess.Popen[str]], None] | None = None,
) -> Course:
    """So many kills, spread over as many runs as it takes; every run that ends must end with the same files.

    Args:
        run: What to start.
        place: An empty folder.
        kills: How many.
        seed: Of the moments.
        strike: How to kill; by default the whole group at once.
    """
    place.mkdir(parents=True, exist_ok=True)
    for name, text in run.files.items():
        (place / name).write_text(text)
    expected, (begin, whole) = _left_alone(run, place)
    dice, course, folder = random.Random(seed), Course(), place / "killed"
    while course.kills < kills:
        process = run.start(folder)
        # From just before the folder is there to just before the end, as if nothing had been done before.
        moment = begin + dice.uniform(-0.05, 1.0) * (whole - begin)
        if _struck(process, moment, strike or _kill_all):
            course.kills += 1
            course.moments.append(f"{moment:.1f} s: {len(contents(folder)) if folder.is_dir() else 0} files")
        else:
            _compare(run, folder, expected, course)
            shutil.rmtree(folder)
    run.finish(folder)
    _compare(run, folder, expected, course)
    return course


def _left_alone(run: Killable, place: Path) -> tuple[dict[str, bytes], tuple[float, float]]:
    """The files of an uninterrupted run, when its folder was there, and when it ended."""
    folder, start = place / "whole", time.monotonic()
    process = run.start(folder)
    while not (folder / "run.json").exists() and process.poll() is None:
        time.sleep(0.01)
    begin = time.monotonic() - start
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    return contents(folder), (begin, time.monotonic() - start)


def _struck(
    process: subprocess.Popen[str], moment: float, strike: Callable[[subprocess.Popen[str]], None]
) -> bool:
    """Whether the process was killed; else it ended before, without a complaint."""
    try:
        _, errors = process.communicate(timeout=moment)
    except subprocess.TimeoutExpired:
        strike(process)
        process.communicate(timeout=PATIENCE)
        return True
    assert process.returncode == 0, errors
    assert "damaged" not in errors, errors
    return False


def _kill_all(process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGKILL)


def kill_rank(rank: int) -> Callable[[subprocess.Popen[str]], None]:
    """Kills one of the processes that torchrun started, and lets torchrun find out.

    Args:
        rank: Which.
    """

    def strike(process: subprocess.Popen[str]) -> None:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        ranks = {_rank_of(int(child)): int(child) for child in children}
        if rank in ranks:
            os.kill(ranks[rank], signal.SIGKILL)
        else:  # torchrun has not come that far
            _kill_all(process)

    return strike


def _rank_of(pid: int) -> int:
    """By the environment that torchrun gave it; -1 for a helper of torchrun's own."""
    entries = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return next((int(entry[5:]) for entry in entries if entry.startswith(b"RANK=")), -1)


def _compare(run: Killable, folder: Path, expected: dict[str, bytes], course: Course) -> None:
    found = contents(folder)
    course.ended += 1
    differing = sorted(
        name for name in {*found, *expected} if name not in found or found[name] != expected.get(name)
    )
    assert differing == [], f"{run.name} after {course.moments}"
