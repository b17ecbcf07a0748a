"""A checkpoint: the same to the last bit, or refused, or named as damaged; never read as something else."""

import json
import os
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from solset import SolsetWarning
from solset.storage import FORMAT, Checkpoint, Identity, Probe, _seal, is_sealed

SETTINGS = {"data": "5f3a", "tol": 1e-3, "points": [1, 2]}
NUMBERS = {"place": 0.1 + 0.2, "bound": float("inf"), "rows": [1, 2]}
TENSORS = {"trail": torch.arange(6.0).reshape(2, 3) / 7, "now": torch.zeros(0)}


def file(path: Path, kind: str = "course", **changes: object) -> Checkpoint:
    return Checkpoint(path, kind, Identity(SETTINGS | changes))


def both(numbers, tensors):
    return numbers, tensors


@pytest.fixture
def written(tmp_path) -> Path:
    file(tmp_path / "way").write(NUMBERS, TENSORS)
    return tmp_path / "way"


def test_comes_back_to_the_last_bit(written):
    numbers, tensors = file(written).resume(both)
    assert numbers == NUMBERS
    assert all(torch.equal(tensors[name], value) for name, value in TENSORS.items())
    before = written.read_bytes()
    file(written).write(NUMBERS, TENSORS)
    assert written.read_bytes() == before


def test_is_read_by_any_tool(written):
    assert torch.equal(load_file(written)["trail"], TENSORS["trail"])


def test_nowhere_keeps_nothing():
    nowhere = Checkpoint(None, "course")
    nowhere.write(NUMBERS, TENSORS)
    assert nowhere.resume(both) is None


def test_a_file_that_is_not_there_is_nothing_and_a_folder_must_be(tmp_path):
    assert file(tmp_path / "way").resume(both) is None
    with pytest.raises(ValueError, match="`checkpoint` must be a file in a folder that exists"):
        file(tmp_path / "no" / "way").resume(both)


def outcome(path: Path) -> str:
    """``"damaged"`` or ``"refused"``, and whether the file is named."""
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert file(path).resume(both) is None
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
        assert file(written).resume(both) is None
    file(written).write(NUMBERS, TENSORS)
    assert file(written).resume(both) is not None


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"data": "77"}, r'data \(now "77", was "5f3a"\)'),
        ({"tol": 1e-2, "points": []}, r"points \(now \[\], was \[1, 2\]\), tol \(now 0.01, was 0.001\)"),
        ({"more": 1}, r"more \(now 1, was absent\)"),
        ({"data": "0" * 32}, r"data\."),
    ],
)
def test_of_other_settings_is_refused_by_what_differs(written, changes, named):
    before = written.read_bytes()
    with pytest.raises(
        ValueError, match=f"`checkpoint` must be of this problem.*way', .* differs in {named}"
    ):
        file(written, **changes).resume(both)
    assert written.read_bytes() == before


def test_of_another_kind_is_refused(written):
    with pytest.raises(ValueError, match="is the checkpoint of a 'course', not of a 'landscape'"):
        file(written, "landscape").resume(both)


@pytest.mark.parametrize("content", [b"", b"{}", b"years of work", b"\xff" * 100, b"[" * 10**6])
def test_of_somebody_else_is_left_as_it_is(tmp_path, content):
    (tmp_path / "mine").write_bytes(content)
    with pytest.raises(ValueError, match="which is not a checkpoint of solset.*left as it is"):
        file(tmp_path / "mine").resume(both)
    save_file({"mine": torch.ones(1)}, tmp_path / "tensors")
    with pytest.raises(ValueError, match="which is not a checkpoint of solset.*left as it is"):
        file(tmp_path / "tensors").resume(both)
    assert (tmp_path / "mine").read_bytes() == content


def test_a_folder_or_a_pipe_of_the_name_is_refused(tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("folder", "pipe"):
        with pytest.raises(ValueError, match="which cannot be read"):
            file(tmp_path / name).resume(both)


def test_a_seal_over_numbers_that_are_no_state_is_damage(written):
    def restore(numbers, tensors):
        return numbers["absent"]

    with pytest.warns(SolsetWarning, match="KeyError"):
        assert file(written).resume(restore) is None


@pytest.mark.parametrize("arrays", [None, TENSORS])
def test_of_another_version_is_refused(tmp_path, monkeypatch, arrays):
    with monkeypatch.context() as patch:
        patch.setattr(_seal, "FORMAT", "solset file 0")
        file(tmp_path / "way").write(NUMBERS, arrays)
    with pytest.raises(ValueError, match=f"of format 'solset file 0', not '{FORMAT}'.*left as it is"):
        file(tmp_path / "way").resume(both)


def test_without_arrays_is_json_that_people_read(tmp_path):
    file(tmp_path / "way").write(NUMBERS)
    content = json.loads((tmp_path / "way").read_text())
    assert content["settings"] == SETTINGS
    assert content["rows"] == [1, 2]
    assert file(tmp_path / "way").resume(both) == (NUMBERS, {})


def test_a_probe_that_changed_is_named_and_rounding_is_not_a_change(tmp_path):
    def probed(value: float) -> Checkpoint:
        probe = Probe("the loss", torch.tensor(value, dtype=torch.float64), rtol=1e-3)
        return Checkpoint(tmp_path / "way", "course", Identity(SETTINGS), probe)

    probed(2.0).write(NUMBERS, TENSORS)
    assert probed(2.001).resume(both)[1].keys() == TENSORS.keys()
    with pytest.raises(ValueError, match=r"differs in the loss \(now 2.1, was 2\)"):
        probed(2.1).resume(both)


def test_other_versions_are_a_warning(written):
    now = Checkpoint(written, "course", Identity(SETTINGS, {"torch": "9.9"}))
    with pytest.warns(SolsetWarning, match=r'mixes results of different versions: .*torch \(now "9.9", was'):
        assert now.resume(both) is not None


def test_where_nothing_can_be_computed_again_damage_is_an_error(written):
    written.write_bytes(written.read_bytes()[:-1])
    with pytest.raises(ValueError, match="`checkpoint` must be as it was written.*way', which is damaged"):
        file(written).load(both)
