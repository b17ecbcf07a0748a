"""A sealed file: the same to the last bit, or refused, or named as damaged; never read as something else."""

import os
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from solset import SolsetWarning
from solset.storage._sealed import SealedFile, is_sealed

SETTINGS = {"data": "5f3a", "tol": 1e-3, "points": [1, 2]}
NUMBERS = {"place": 0.1 + 0.2, "bound": float("inf"), "rows": [1, 2]}
TENSORS = {"trail": torch.arange(6.0).reshape(2, 3) / 7, "now": torch.zeros(0)}


def file(path: Path, kind: str = "solset course 2", **changes: object) -> SealedFile:
    return SealedFile(path, kind, SETTINGS | changes)


def both(numbers, tensors):
    return numbers, tensors


@pytest.fixture
def written(tmp_path) -> Path:
    file(tmp_path / "way").write(NUMBERS, TENSORS)
    return tmp_path / "way"


def test_comes_back_to_the_last_bit(written):
    numbers, tensors = file(written).read(both)
    assert numbers == NUMBERS
    assert all(torch.equal(tensors[name], value) for name, value in TENSORS.items())
    before = written.read_bytes()
    file(written).write(NUMBERS, TENSORS)
    assert written.read_bytes() == before


def test_is_read_by_any_tool(written):
    assert torch.equal(load_file(written)["trail"], TENSORS["trail"])


def test_nowhere_keeps_nothing():
    nowhere = SealedFile(None, "solset course 2", {})
    nowhere.write(NUMBERS, TENSORS)
    assert nowhere.read(both) is None


def test_a_file_that_is_not_there_is_nothing_and_a_folder_must_be(tmp_path):
    assert file(tmp_path / "way").read(both) is None
    with pytest.raises(ValueError, match="`checkpoint` must be a file in a folder that exists"):
        file(tmp_path / "no" / "way").read(both)


def outcome(path: Path) -> str:
    """``"damaged"`` or ``"refused"``, and whether the file is named."""
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert file(path).read(both) is None
    except ValueError as error:
        return "refused" if str(path) in str(error) else "refused without its name"
    (one,) = caught
    assert one.category is SolsetWarning
    assert str(path) in str(one.message)
    return "damaged"


def test_every_changed_byte_is_noticed(written, tmp_path):
    whole, seen = written.read_bytes(), {"damaged": 0, "refused": 0}
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 8
        (tmp_path / "changed").write_bytes(bytes(changed))
        seen[outcome(tmp_path / "changed")] += 1
    assert sum(seen.values()) == len(whole) > 400
    assert seen["refused"] < 30, "only where the mark of a sealed file itself is hit"


def test_every_truncation_is_noticed(written, tmp_path):
    whole = written.read_bytes()
    for length in range(len(whole)):
        (tmp_path / "cut").write_bytes(whole[:length])
        assert outcome(tmp_path / "cut") == ("damaged" if is_sealed(whole[:length]) else "refused")
    (tmp_path / "cut").write_bytes(whole + b"\0")
    assert outcome(tmp_path / "cut") == "damaged"


def test_a_damaged_file_is_written_again(written):
    written.write_bytes(written.read_bytes()[:-1])
    with pytest.warns(SolsetWarning, match="'.*way' is damaged .*computed again"):
        assert file(written).read(both) is None
    file(written).write(NUMBERS, TENSORS)
    assert file(written).read(both) is not None


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"data": "77"}, "data"), ({"tol": 1e-2, "points": []}, "points, tol"), ({"more": 1}, "more")],
)
def test_of_other_settings_is_refused_by_what_differs(written, changes, named):
    before = written.read_bytes()
    with pytest.raises(
        ValueError, match=f"`checkpoint` must be of this problem.*way', .* differs in {named}"
    ):
        file(written, **changes).read(both)
    assert written.read_bytes() == before


def test_of_another_kind_is_refused(written):
    with pytest.raises(ValueError, match="is a 'solset course 2', not a 'solset rows 2'"):
        file(written, "solset rows 2").read(both)


@pytest.mark.parametrize("content", [b"", b"{}", b"years of work", b"\xff" * 100, b"[" * 10**6])
def test_of_somebody_else_is_left_as_it_is(tmp_path, content):
    (tmp_path / "mine").write_bytes(content)
    with pytest.raises(ValueError, match="which is not a checkpoint of solset.*left as it is"):
        file(tmp_path / "mine").read(both)
    save_file({"mine": torch.ones(1)}, tmp_path / "tensors")
    with pytest.raises(ValueError, match="which is not a checkpoint of solset.*left as it is"):
        file(tmp_path / "tensors").read(both)
    assert (tmp_path / "mine").read_bytes() == content


def test_a_folder_or_a_pipe_of_the_name_is_refused(tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("folder", "pipe"):
        with pytest.raises(ValueError, match="which cannot be read"):
            file(tmp_path / name).read(both)


def test_a_seal_over_numbers_that_are_no_state_is_damage(written):
    def restore(numbers, tensors):
        return numbers["absent"]

    with pytest.warns(SolsetWarning, match="KeyError"):
        assert file(written).read(restore) is None
