"""Checkpoint files: whole, cut short, of other networks, and not checkpoints at all."""

import functools
import hashlib
import shutil
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from solset.paper import (
    RESNET56_WEIGHTS,
    cifar10,
    load_checkpoint,
    pretrained,
    resnet20,
    resnet32,
    resnet56,
)
from support.hostile_files import Harm
from support.reference import shared_folder

WEIGHTS = shared_folder() / "weights" / "resnet56-4bfd9763.th"
IMAGES = shared_folder() / "data" / "cifar10_train_2000.npz"

needs_weights = pytest.mark.skipif(
    not WEIGHTS.is_file(), reason="no weights/resnet56-4bfd9763.th in the folder named by SOLSET_SHARED"
)


@pytest.fixture(scope="module")
def net() -> torch.nn.Module:
    return resnet20(generator=torch.Generator().manual_seed(0))


@pytest.fixture
def file(tmp_path) -> Path:
    return tmp_path / "weights.th"


def renamed_by_hash(file: Path) -> Path:
    digits = hashlib.sha256(file.read_bytes()).hexdigest()[:8]
    return file.rename(file.with_name(f"net-{digits}.th"))


@pytest.mark.parametrize("is_old", [False, True])
@pytest.mark.parametrize("layout", ["plain", "prefixed", "nested"])
def test_every_layout_gives_back_the_weights(net, file, layout, is_old):
    state = net.state_dict()
    prefix = "" if layout == "plain" else "module."
    stored = OrderedDict((prefix + name, value) for name, value in state.items())
    torch.save(
        {"state_dict": stored, "best_prec1": 92.0} if layout == "nested" else stored,
        file,
        _use_new_zipfile_serialization=not is_old,
    )
    found = load_checkpoint(file)
    assert list(found) == list(state)
    loaded = pretrained(resnet20, file)
    assert not loaded.training
    for name, value in state.items():
        assert torch.equal(found[name], value), name
        assert torch.equal(loaded.state_dict()[name], value), name


def test_batch_counters_may_be_missing(net, file):
    state = {name: value for name, value in net.state_dict().items() if "num_batches" not in name}
    torch.save(state, file)
    assert torch.equal(pretrained(resnet20, str(file)).conv1.weight, net.conv1.weight)


def test_loading_leaves_the_global_random_state(net, file):
    torch.save(net.state_dict(), file)
    before = torch.random.get_rng_state()
    pretrained(resnet20, file)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_hash_in_the_name_is_checked(net, file):
    torch.save(net.state_dict(), file)
    named = renamed_by_hash(file)
    load_checkpoint(named)
    wrong = named.rename(named.with_name("net-00000000.th"))
    with pytest.raises(
        ValueError,
        match=r"sha256 begins 00000000, as its name says; got \w{8} for the \d+ bytes .*download it again",
    ):
        load_checkpoint(wrong)
    load_checkpoint(wrong, check_hash=False)


@pytest.mark.parametrize("is_old", [False, True])
def test_a_file_cut_short(net, file, is_old):
    torch.save(net.state_dict(), file, _use_new_zipfile_serialization=not is_old)
    named = renamed_by_hash(file)
    named.write_bytes(named.read_bytes()[:100_000])
    with pytest.raises(ValueError, match=r"for the 100000 bytes of .*cut short"):
        load_checkpoint(named)
    with pytest.raises(ValueError, match=r"must be a checkpoint: .*if the download was cut short"):
        load_checkpoint(named, check_hash=False)


@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html><html></html>", b"\x80\x02", bytes(1000)])
def test_what_is_no_checkpoint(file, content):
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"must be a checkpoint: a dict of tensors .*got .*weights\.th: \S"):
        load_checkpoint(file)


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (torch.zeros(3), "it holds Tensor"),
        ([], "it holds list"),
        ({}, "it holds dict"),
        ({"state_dict": {}}, "it holds dict"),
        ({"epoch": 3, "arch": "x", "a": 1, "b": 2}, "no tensors under epoch, arch, a and 1 more"),
    ],
)
def test_what_holds_no_weights(file, stored, message):
    torch.save(stored, file)
    with pytest.raises(ValueError, match=message):
        load_checkpoint(file)


def test_code_in_a_checkpoint_is_refused_and_not_run(file, tmp_path):
    torch.save({"state_dict": Harm(tmp_path / "made")}, file)
    with pytest.raises(ValueError, match="must be a checkpoint"):
        load_checkpoint(file)
    assert not (tmp_path / "made").exists()


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*nowhere\.th; .*RESNET56_WEIGHTS"):
        load_checkpoint(tmp_path / "nowhere.th")


def test_other_names(net, file):
    torch.save(net.state_dict(), file)
    with pytest.raises(
        ValueError,
        match=r"weights\.th for resnet32: .*Missing key.*layer1\.3\.conv1\.weight",
    ):
        pretrained(resnet32, file)
    state = net.state_dict()
    state["fc.weight"] = state.pop("linear.weight")
    torch.save(state, file)
    with pytest.raises(
        ValueError, match=r"Missing key.*: \"linear\.weight\"\. Unexpected key.*: \"fc\.weight\""
    ):
        pretrained(resnet20, file)


def test_other_shapes(net, file):
    torch.save(net.state_dict(), file)
    with pytest.raises(
        ValueError,
        match=r"linear\.weight: .*\[10, 64\].*\[7, 64\].*linear\.bias: .*\[10\].*\[7\]",
    ):
        pretrained(functools.partial(resnet20, classes=7), file)


@needs_weights
def test_the_public_file_has_the_hash_that_a_download_is_held_to():
    assert hashlib.sha256(WEIGHTS.read_bytes()).hexdigest() == RESNET56_WEIGHTS.sha256


@needs_weights
def test_the_public_file_cut_short_says_what_came(tmp_path):
    cut = shutil.copyfile(WEIGHTS, tmp_path / WEIGHTS.name)
    cut.write_bytes(WEIGHTS.read_bytes()[:1_000_000])
    with pytest.raises(ValueError, match="whose sha256 begins 4bfd9763, .* for the 1000000 bytes"):
        pretrained(resnet56, cut)


@needs_weights
@pytest.mark.skipif(
    not IMAGES.is_file(), reason="no data/cifar10_train_2000.npz in the folder named by SOLSET_SHARED"
)
@pytest.mark.parametrize("count", [200, pytest.param(1000, marks=pytest.mark.slow)])
def test_the_public_network_knows_its_training_images(count):
    data = cifar10(IMAGES, count=count)
    with torch.no_grad():
        outputs = pretrained(resnet56, WEIGHTS)(data.inputs)
    assert torch.equal(outputs.argmax(dim=1), data.labels)
    loss = float(torch.nn.functional.cross_entropy(outputs, data.labels))
    if count == 1000:
        assert 5e-4 < loss < 9e-4
    assert loss < 2e-3
