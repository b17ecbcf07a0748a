"""Runs commands in a folder of their own."""

import pytest

from support.commands import command_runner


@pytest.fixture
def solset(tmp_path, monkeypatch, capsys):
    """Runs a command in a folder with a user's file; all that the process keeps is put back."""
    return command_runner(tmp_path, monkeypatch, capsys)
