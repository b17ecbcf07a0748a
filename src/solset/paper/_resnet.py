"""Residual networks for CIFAR images (He et al. 2016, section 4.2), with shortcuts that have no weights.

Names follow the public checkpoints of ``akamaster/pytorch_resnet_cifar10``, whose ``state_dict`` fits once
the prefix ``module.`` is cut from its keys.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, relu


class PaddedShortcut(nn.Module):
    """Option A: every second pixel, and zeros for the channels that are new."""

    def __init__(self, new_channels: int) -> None:
        super().__init__()
        self.before, self.behind = new_channels // 2, new_channels - new_channels // 2

    def forward(self, inputs: Tensor) -> Tensor:
        """``(b, channels + new, h/2, w/2)`` from ``(b, channels, h, w)``."""
        return pad(inputs[:, :, ::2, ::2], (0, 0, 0, 0, self.before, self.behind))


class BasicBlock(nn.Module):
    """Two normalised 3 × 3 convolutions and a shortcut around them."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        keeps_shape = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if keeps_shape else PaddedShortcut(outputs - inputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """``(b, outputs, h/stride, w/stride)`` from ``(b, inputs, h, w)``."""
        hidden = relu(self.bn1(self.conv1(inputs)))
        return relu(self.bn2(self.conv2(hidden)) + self.shortcut(inputs))


class ResNet(nn.Module):
    """The CIFAR ResNet of depth ``6·blocks + 2``: three stages of 16, 32 and 64 channels.

    Batch normalisation makes outputs depend on the batch in training mode: call ``.eval()`` before you
    study a trained point.

    Args:
        blocks: Number of residual blocks in each of the three stages.
        classes: Number of classes, one output for each.
        generator: The source of the initial weights (He et al. 2015; biases 0).

    Example:
        >>> net = resnet20(generator=torch.Generator().manual_seed(0)).eval()
        >>> net(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(self, blocks: int, *, classes: int = 10, generator: torch.Generator) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):  # the layers' own initialisation draws from the global state
            self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
            self.bn1 = nn.BatchNorm2d(16)
            self.layer1 = _stage(16, 16, blocks, stride=1)
            self.layer2 = _stage(16, 32, blocks, stride=2)
            self.layer3 = _stage(32, 64, blocks, stride=2)
            self.linear = nn.Linear(64, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, generator=generator)
        nn.init.zeros_(self.linear.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits ``(b, classes)`` of images ``(b, 3, h, w)``."""
        hidden = relu(self.bn1(self.conv1(inputs)))
        hidden = self.layer3(self.layer2(self.layer1(hidden)))
        return self.linear(hidden.mean(dim=(2, 3)))


def _stage(inputs: int, outputs: int, blocks: int, *, stride: int) -> nn.Sequential:
    first = BasicBlock(inputs, outputs, stride)
    return nn.Sequential(first, *(BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1)))


def resnet20(*, classes: int = 10, generator: torch.Generator) -> ResNet:
    """The network of 20 layers, 0.27 million weights; arguments as for :class:`ResNet`."""
    return ResNet(3, classes=classes, generator=generator)


def resnet32(*, classes: int = 10, generator: torch.Generator) -> ResNet:
    """The network of 32 layers, 0.46 million weights; arguments as for :class:`ResNet`."""
    return ResNet(5, classes=classes, generator=generator)


def resnet44(*, classes: int = 10, generator: torch.Generator) -> ResNet:
    """The network of 44 layers, 0.66 million weights; arguments as for :class:`ResNet`."""
    return ResNet(7, classes=classes, generator=generator)


def resnet56(*, classes: int = 10, generator: torch.Generator) -> ResNet:
    """The network of 56 layers, 0.85 million weights; arguments as for :class:`ResNet`."""
    return ResNet(9, classes=classes, generator=generator)


def resnet110(*, classes: int = 10, generator: torch.Generator) -> ResNet:
    """The network of 110 layers, 1.7 million weights; arguments as for :class:`ResNet`."""
    return ResNet(18, classes=classes, generator=generator)
