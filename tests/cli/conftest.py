"""Runs commands in a folder of their own."""

import sys
from pathlib import Path

import pytest

from solset import cli
from support.commands import SOURCE, Ended


@pytest.fixture
def solset(tmp_path, monkeypatch, capsys):
    """Runs a command in a folder with a user's file; all that the process keeps is put back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delenv("SOLSET_TRACEBACK", raising=False)
    Path("mine.py").write_text(SOURCE)

    def call(*arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["solset", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        printed = capsys.readouterr()
        return Ended(end.value.code or 0, printed.out, printed.err)

    return call
