"""A disk that is full, a folder that cannot be written to: one line, earlier results intact, resumable."""

import json
import os
from pathlib import Path

import pytest

from solset.storage import FORMAT
from support.commands import contents
from support.disks import files_up_to, small_disk

RUN = ("run", "mine.py:build", "--points", "4,1", "--size", "0.5%,1%")


def whole(folder: str) -> dict[str, bytes]:
    """The files of a folder but for what a process was writing."""
    return {name: content for name, content in contents(folder).items() if not name.startswith(".")}


@pytest.mark.parametrize("limit", [0, 300, 1000, 2000, 10_000, 40_000])
def test_a_full_disk_is_one_line_and_the_run_goes_on_afterwards(solset, limit):
    assert solset(*RUN, "--out", "whole").code == 0
    with files_up_to(limit):
        ended = solset(*RUN, "--out", "full")
    assert ended.code == 2
    assert ended.error.startswith("error: ")
    assert "full" in ended.error
    assert "File too large" in ended.error
    kept = contents("full")
    assert not [name for name in kept if name.startswith(".")]
    if kept:
        assert json.loads(kept["run.json"])["format"] == FORMAT
    assert solset(*RUN, "--out", "full", "--resume").code == 0
    assert contents("full") == contents("whole")


@pytest.mark.parametrize("size", ["8k", "16k", "32k", "64k", "128k"])
def test_a_small_disk(solset, size):
    assert solset(*RUN, "--out", "whole").code == 0
    with small_disk(Path("disk"), size) as disk:
        ended = solset(*RUN, "--out", "disk/run")
        assert ended.code == 2
        assert "No space left on device" in ended.error
        assert "disk/run" in ended.error
        assert "Free some space" in ended.error or "Choose another folder" in ended.error
        before = contents("disk/run")
        assert all(whole("whole").get(name) == data for name, data in before.items() if name != "run.json")
        assert solset(*RUN, "--out", "disk/run", "--resume").code == 2
        assert contents("disk/run") == before
        disk.change("size=4m")
        assert solset(*RUN, "--out", "disk/run", "--resume").code == 0
        assert contents("disk/run") == contents("whole")


def test_a_disk_that_became_read_only(solset):
    assert solset(*RUN, "--out", "whole").code == 0
    with small_disk(Path("disk"), "4m") as disk:
        with files_up_to(5000):
            assert solset(*RUN, "--out", "disk/run").code == 2
        before = contents("disk/run")
        disk.change("ro")
        for choice in ("--resume", "--overwrite"):
            ended = solset(*RUN, "--out", "disk/run", choice)
            assert ended.code == 2
            assert "disk/run" in ended.error
            assert "Read-only file system" in ended.error
            assert contents("disk/run") == before
        ended = solset(*RUN, "--out", "disk/new")
        assert "Read-only file system" in ended.error
        disk.change("rw")
        assert solset(*RUN, "--out", "disk/run", "--resume").code == 0
        assert contents("disk/run") == contents("whole")


@pytest.mark.skipif(
    os.name != "posix" or os.geteuid() == 0,
    reason="permissions bind only POSIX users who are not the superuser",
)
def test_a_folder_without_permission(solset):
    assert solset(*RUN, "--out", "run").code == 0
    before = contents("run")
    Path("run").chmod(0o500)
    try:
        ended = solset(*RUN, "--out", "run", "--overwrite")
        assert ended.code == 2
        assert "Permission denied" in ended.error
        assert contents("run") == before
    finally:
        Path("run").chmod(0o700)
