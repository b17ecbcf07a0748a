"""A process that dies, stalls, raises or holds other data ends the job; the others say which and why."""

import re
from pathlib import Path

import pytest

from support.processes import separately, torchrun

FAILING = str(Path(__file__).parent / "failing.py")

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("dies", "ProcessError: rank {rank}( or its host)? ended; rank"),
        ("stalls", "ProcessError: rank {rank} stalled beyond the timeout; rank"),
        ("raises", "ProcessError: rank {rank} raised ValueError: `inputs` must be finite; .*; rank"),
    ],
)
def test_the_others_name_the_rank_and_the_cause(how: str, said: str, rank: int) -> None:
    found = separately(2, FAILING, how, str(rank), "10.0")
    survivor = found[1 - rank]
    assert survivor.returncode == 1
    assert re.search(said.format(rank=rank), survivor.stderr), survivor.stderr
    assert "went on" not in survivor.stdout


def test_torchrun_ends_the_job() -> None:
    run = torchrun(2, FAILING, "dies", "1", "5.0", timeout=60.0)
    assert run.returncode != 0
    assert "SIGKILL" in run.stderr
    assert "went on" not in run.stdout


def test_processes_with_different_data_do_not_start() -> None:
    for run in separately(2, FAILING, "differs", "1", "5.0"):
        assert run.returncode == 1
        assert "`model` must be the same in every process; got another one in rank 1" in run.stderr
        assert "went on" not in run.stdout
