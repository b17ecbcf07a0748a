"""Batches of CIFAR-10 that are old, new, broken or hostile, in their folder and in their archive."""

import io
import pickle
import tarfile

import numpy as np
import pytest
import torch

from solset.paper import cifar10
from support.hostile_files import Harm


@pytest.mark.parametrize("protocol", [2, 4])
def test_batches_that_python_3_wrote_are_read_too(files, protocol):
    batch = {b"data": files.images(0), b"labels": files.labels(0)}
    before = cifar10(files.folder, count=3)
    files.first.write_bytes(pickle.dumps(batch, protocol=protocol))
    assert torch.equal(cifar10(files.folder, count=3).inputs, before.inputs)


class HostileCall(Harm):
    def __reduce__(self):
        return eval, (f"__import__('os').mkdir({str(self.victim)!r})",)


@pytest.mark.parametrize(("kind", "named"), [(Harm, r"\w+\.mkdir"), (HostileCall, r"__builtin__\.eval")])
@pytest.mark.parametrize("in_archive", [False, True])
def test_a_hostile_batch_is_refused_by_name_and_runs_nothing(files, tmp_path, kind, named, in_archive):
    victim = tmp_path / "made"
    raw = pickle.dumps({b"data": kind(victim), b"labels": [0]}, protocol=2)
    pickle.loads(raw)
    assert victim.exists(), "the attack itself must work"
    victim.rmdir()
    files.first.write_bytes(raw)
    target, sha256 = files.pack("hostile.tar.gz", ["data_batch_1"]) if in_archive else (files.folder, None)
    with pytest.raises(ValueError, match=rf"data_batch_1, which calls for {named}.*It was refused"):
        cifar10(target, sha256=sha256)
    assert not victim.exists()


@pytest.mark.parametrize(
    ("batch", "named"),
    [
        ({b"data": np.zeros((3, 3072), np.float32)}, "an array of dtype .*f4.*, not uint8"),
        ({b"data": np.array([print], dtype=object)}, "an array of dtype .*O8.*, not uint8"),
        ({b"data": np.uint8(3)}, r"numpy\.\S*multiarray\.scalar"),
    ],
)
def test_other_arrays_are_refused_by_name(files, batch, named):
    files.first.write_bytes(pickle.dumps(batch, protocol=4))
    with pytest.raises(ValueError, match=f"data_batch_1, which calls for {named}"):
        cifar10(files.folder)


def test_another_codec_is_refused_by_name(files):
    files.first.write_bytes(b"\x80\x02c_codecs\nencode\n(X\x01\x00\x00\x00aU\x05rot13tR.")
    with pytest.raises(ValueError, match="calls for the encoding b'rot13'"):
        cifar10(files.folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda _: b"", "data_batch_1: Ran out of input"),
        (
            lambda files: files.python2(files.images(0), [1, 2, 3])[:500],
            "data_batch_1: pickle data was truncated",
        ),
        (lambda _: b"not a pickle", "data_batch_1: "),
        (lambda _: pickle.dumps([1]), "data_batch_1 with list"),
        (lambda _: pickle.dumps({"fine_labels": []}), r"data_batch_1 with a dict of \[\"'fine_labels'\"\]"),
        (
            lambda files: files.python2(files.images(0)[:, :300], [1, 2, 3]),
            r"images uint8 \(n, 3072\); got uint8 \(3, 300\)",
        ),
        (
            lambda files: files.python2(files.images(0), [1, 2]),
            r"label for each of 3 images; got int64 \(2,\) in .*data_batch_1",
        ),
        (
            lambda files: files.python2(files.images(0), [1, 2, 10]),
            "labels from 0 to 9; got 1 to 10 in .*data_batch_1",
        ),
    ],
)
def test_a_broken_batch_is_named(files, content, message):
    files.first.write_bytes(content(files))
    with pytest.raises(ValueError, match=message):
        cifar10(files.folder)


def test_a_folder_without_a_batch_is_not_the_folder(files):
    with pytest.raises(FileNotFoundError, match="no data_batch_1 in .*: give the folder cifar-10-batches-py"):
        cifar10(files.root)


def test_an_archive_with_another_hash_is_not_read(packed):
    path, sha256 = packed
    with pytest.raises(ValueError, match=rf"with sha256 6d958be\w+; got .*with sha256 {sha256}.*Download it"):
        cifar10(path)


def test_an_archive_cut_short(packed):
    path, _ = packed
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(ValueError, match=r"must be a whole \.tar\.gz; got .*python\.tar\.gz"):
        cifar10(path, sha256=None)


def test_an_archive_without_a_batch(files):
    path, sha256 = files.pack("short.tar.gz", ["data_batch_2", "test_batch"])
    with pytest.raises(ValueError, match=r"must be an archive with cifar-10-batches-py/data_batch_1"):
        cifar10(path, sha256=sha256)


def test_members_that_lead_elsewhere_are_passed_over(files, tmp_path):
    """Links and names outside the folder are neither followed nor written."""
    target = tmp_path / "odd.tar.gz"
    with tarfile.open(target, "w:gz") as archive:
        outside = tarfile.TarInfo("../escaped")
        outside.size = 3
        archive.addfile(outside, io.BytesIO(b"bad"))
        link = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
        link.type, link.linkname = tarfile.SYMTYPE, str(files.first)
        archive.addfile(link)
    before = set(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match="must be an archive with cifar-10-batches-py/data_batch_1"):
        cifar10(target, sha256=None)
    assert set(tmp_path.rglob("*")) == before
    assert not (tmp_path.parent / "escaped").exists()
