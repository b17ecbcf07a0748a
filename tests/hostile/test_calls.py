"""Every public function, one bad argument at a time: taken, or refused by the argument's name."""

import warnings

import pytest

from support.hostile_calls import calls, cases, complaint

CALLS, CASES = calls(), list(cases())


@pytest.mark.parametrize("name", CALLS)
def test_is_taken_or_refused_by_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    wrong = []
    for _, argument, kind in (case for case in CASES if case[0] == name):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            complained = complaint(CALLS[name], argument, kind)
        if complained:
            wrong.append(f"{argument} as {kind}: {complained}")
    assert wrong == []


def test_how_many_there_are(capsys):
    with capsys.disabled():
        print(f" {len(CASES)} calls of {len(CALLS)} public names,", end=" ")
    assert len(CASES) > 2000
