"""CIFAR-10 from its archive, its folder and a ``.npz``: the same images, and what is refused."""

import numpy as np
import pytest
import torch

from solset.paper import cifar10, to_inputs, to_pixels
from support.reference import shared_folder

SHARED = shared_folder() / "data" / "cifar10_train_2000.npz"


def stored_pixels(files, *numbers: int) -> torch.Tensor:
    rows = np.concatenate([files.images(number) for number in numbers])
    return torch.from_numpy(rows).reshape(-1, 3, 32, 32)


def test_an_archive_holds_its_batches_in_order(packed, files):
    path, sha256 = packed
    data = cifar10(path, sha256=sha256)
    assert (data.inputs.dtype, data.labels.dtype) == (torch.float32, torch.int64)
    assert torch.equal((255 * data.pixels()).round().byte(), stored_pixels(files, 0, 1, 2, 3, 4))
    assert data.labels.tolist() == sum((files.labels(number) for number in range(5)), [])


def test_archive_folder_and_npz_agree(packed, files, npz):
    path, sha256 = packed
    for split in ("train", "test"):
        one, two = cifar10(path, sha256=sha256[:8], split=split), cifar10(files.folder, split=split)
        assert torch.equal(one.inputs, two.inputs)
        assert torch.equal(one.labels, two.labels)
    assert torch.equal(cifar10(npz).inputs, cifar10(files.folder, count=3).inputs)
    assert torch.equal(cifar10(str(npz)).labels, cifar10(files.folder, count=3).labels)


def test_the_test_split_is_its_own_batch(files):
    data = cifar10(files.folder, split="test")
    assert torch.equal((255 * data.pixels()).round().byte(), stored_pixels(files, 5))


@pytest.mark.parametrize("count", [1, 3, 4, 15])
def test_count_takes_the_first_and_reads_no_further(files, count):
    whole = cifar10(files.folder)
    for number in range(-(-count // 3), 5):
        (files.folder / f"data_batch_{number + 1}").unlink()
    assert torch.equal(cifar10(files.folder, count=count).inputs, whole.part(0, count).inputs)


def test_inputs_are_normalised_as_the_checkpoints_were_trained(npz, files):
    data = cifar10(npz, dtype=torch.float64)
    for channel, (mean, deviation) in enumerate([(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)]):
        expected = (stored_pixels(files, 0)[:, channel].double() / 255 - mean) / deviation
        torch.testing.assert_close(data.inputs[:, channel], expected, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(cifar10(npz).inputs.double(), data.inputs, rtol=0, atol=1e-6)


def test_inputs_and_pixels_are_each_others_inverse():
    pixels = torch.rand(2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(to_pixels(to_inputs(pixels)), pixels, rtol=0, atol=1e-15)


def test_bytes_are_not_inputs(npz):
    with pytest.raises(TypeError, match=r"`pixels` must be floating point in \[0, 1\]; got torch\.uint8"):
        to_inputs(torch.zeros(3, 4, 4, dtype=torch.uint8))
    with pytest.raises(TypeError, match=r"`dtype` must be floating point; got torch\.int64"):
        cifar10(npz, dtype=torch.int64)


def test_a_perturbed_picture_stays_a_picture(npz):
    data = cifar10(npz)
    shown = to_pixels(data.inputs + 100)
    assert float(shown.min()) == float(shown.max()) == 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"images": np.zeros((2, 3, 32, 32), np.uint8)},
            r"uint8 \(n, 32, 32, 3\); got uint8 \(2, 3, 32, 32\)",
        ),
        ({"images": np.zeros((2, 3072), np.uint8)}, r"uint8 \(n, 32, 32, 3\); got uint8 \(2, 3072\)"),
        ({"images": np.zeros((2, 32, 32, 3))}, r"got float64 \(2, 32, 32, 3\) in .*few\.npz"),
        ({"images": np.zeros((0, 32, 32, 3), np.uint8)}, r"got uint8 \(0, 32, 32, 3\)"),
        ({"labels": np.array([1, 2, 3])}, r"one integer label for each of 2 images; got int64 \(3,\)"),
        ({"labels": np.array([1.0, 2.0])}, r"one integer label for each of 2 images; got float64 \(2,\)"),
        ({"labels": np.array([-1, 2])}, r"labels from 0 to 9; got -1 to 2 in .*few\.npz"),
        ({"labels": np.array([print, 2], dtype=object)}, r"a whole \.npz .*allow_pickle"),
        ({"labels": None}, r"a whole \.npz of `images` and `labels`; got .*labels"),
    ],
)
def test_an_npz_that_is_not_cifar_is_refused(npz, change, message):
    stored = {"images": np.zeros((2, 32, 32, 3), np.uint8), "labels": np.array([1, 2])} | change
    np.savez(npz, **{name: value for name, value in stored.items() if value is not None})
    with pytest.raises(ValueError, match=message):
        cifar10(npz)


def test_an_npz_cut_short(npz):
    npz.write_bytes(npz.read_bytes()[:4000])
    with pytest.raises(ValueError, match=r"must be a whole \.npz .*few\.npz"):
        cifar10(npz)


@pytest.mark.parametrize("content", [b"", b"<html>", b"PNG" * 100])
def test_other_files_are_neither(tmp_path, content):
    (tmp_path / "other").write_bytes(content)
    with pytest.raises(
        ValueError, match=f"other of {len(content)} bytes, which is neither. Give cifar-10-python"
    ):
        cifar10(tmp_path / "other")


def test_a_missing_path(tmp_path):
    with pytest.raises(FileNotFoundError, match="no CIFAR-10 images at .*nowhere. Give cifar-10-python"):
        cifar10(tmp_path / "nowhere")


def test_an_npz_has_no_split(npz):
    with pytest.raises(
        ValueError, match="`split` must be left out for a .npz, which holds one split; got 'test'"
    ):
        cifar10(npz, split="test")


@pytest.mark.parametrize(("count", "message"), [(0, "at least 1; got 0"), (4, "at most 3, .*few.npz; got 4")])
def test_counts_that_cannot_be(npz, count, message):
    with pytest.raises(ValueError, match=f"`count` must be {message}"):
        cifar10(npz, count=count)


@pytest.mark.skipif(not SHARED.is_file(), reason="no cifar10_train_2000.npz in the folder of SOLSET_SHARED")
def test_the_shared_images_are_the_public_ones():
    data = cifar10(SHARED)
    assert data.inputs.shape == (2000, 3, 32, 32)
    assert [data.classes[label] for label in data.labels[:4]] == ["frog", "truck", "truck", "deer"]
    with np.load(SHARED, allow_pickle=False) as stored:
        images = torch.from_numpy(stored["images"]).permute(0, 3, 1, 2)
    assert torch.equal((255 * data.pixels()).round().byte(), images)
