"""The CIFAR ResNets: sizes, names and shortcuts of the public checkpoints, and one checkpoint itself."""

import hashlib

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from solset.paper import resnet20, resnet32, resnet44, resnet56, resnet110
from solset.paper._resnet import BasicBlock, PaddedShortcut
from support.reference import shared_folder

CHECKPOINT = shared_folder() / "weights" / "resnet56-4bfd9763.th"
IMAGES = shared_folder() / "data" / "cifar10_train_2000.npz"

needs_checkpoint = pytest.mark.skipif(
    not CHECKPOINT.is_file(), reason="no weights/resnet56-4bfd9763.th in the folder named by SOLSET_SHARED"
)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize(
    ("build", "layers", "weights"),
    [
        (resnet20, 20, 269_722),
        (resnet32, 32, 464_154),
        (resnet44, 44, 658_586),
        (resnet56, 56, 853_018),
        (resnet110, 110, 1_727_962),
    ],
)
def test_depth_and_number_of_weights(build, layers, weights):
    net = build(generator=seeded())
    assert sum(isinstance(module, nn.Conv2d | nn.Linear) for module in net.modules()) == layers
    assert sum(value.numel() for value in net.parameters()) == weights


def test_names_are_those_of_the_public_checkpoints():
    names = list(dict(resnet20(generator=seeded()).named_parameters()))
    first = [f"layer1.0.{part}" for part in ("conv1.weight", "bn1.weight", "bn1.bias", "conv2.weight")]
    assert names[:3] == ["conv1.weight", "bn1.weight", "bn1.bias"]
    assert names[3:7] == first
    assert names[-2:] == ["linear.weight", "linear.bias"]
    assert not any("shortcut" in name for name in names)


def test_a_padded_shortcut_keeps_every_second_pixel_between_zeros():
    image = torch.arange(32.0).reshape(1, 2, 4, 4)
    found = PaddedShortcut(2)(image)
    assert found.shape == (1, 4, 2, 2)
    assert torch.equal(found[:, 1:3], image[:, :, ::2, ::2])
    assert not found[:, [0, 3]].any()


def test_a_block_without_weights_is_its_shortcut():
    block = BasicBlock(4, 8, 2).eval()
    nn.init.zeros_(block.conv2.weight)
    image = torch.rand(3, 4, 6, 6, generator=seeded())
    assert torch.equal(block(image), PaddedShortcut(4)(image))


def test_the_generator_alone_decides_the_weights():
    state = torch.random.get_rng_state()
    one, two = resnet20(generator=seeded()), resnet20(generator=seeded())
    assert torch.equal(torch.random.get_rng_state(), state)
    for name, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[name]), name


def test_number_of_classes():
    net = resnet20(classes=3, generator=seeded()).eval()
    assert net(torch.zeros(2, 3, 32, 32)).shape == (2, 3)


def pretrained() -> nn.Module:
    stored = torch.load(CHECKPOINT, map_location="cpu", weights_only=True)["state_dict"]
    net = resnet56(generator=seeded()).eval()
    net.load_state_dict({name.removeprefix("module."): value for name, value in stored.items()})
    return net


def images(count: int) -> tuple[Tensor, Tensor]:
    """CIFAR-10 training images, normalised as the checkpoint was trained."""
    with np.load(IMAGES, allow_pickle=False) as stored:
        pixels = torch.from_numpy(stored["images"][:count]).permute(0, 3, 1, 2).float() / 255
        labels = torch.from_numpy(stored["labels"][:count])
    mean = torch.tensor([0.485, 0.456, 0.406]).reshape(3, 1, 1)
    deviation = torch.tensor([0.229, 0.224, 0.225]).reshape(3, 1, 1)
    return (pixels - mean) / deviation, labels


@needs_checkpoint
def test_the_public_checkpoint_fits_name_by_name():
    assert hashlib.sha256(CHECKPOINT.read_bytes()).hexdigest().startswith("4bfd9763")
    pretrained()


@needs_checkpoint
@pytest.mark.skipif(
    not IMAGES.is_file(), reason="no data/cifar10_train_2000.npz in the folder named by SOLSET_SHARED"
)
def test_the_public_checkpoint_knows_its_training_images():
    inputs, labels = images(200)
    with torch.no_grad():
        outputs = pretrained()(inputs)
    assert torch.equal(outputs.argmax(dim=1), labels)
    assert nn.functional.cross_entropy(outputs, labels) < 2e-3
