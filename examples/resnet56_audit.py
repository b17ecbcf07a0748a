r"""The public ResNet56 on the first 1000 images of CIFAR-10: which of them move it most?

    solset audit examples/resnet56_audit.py:problem --joint no --no-influence --out runs/resnet56_audit

Open ``runs/resnet56_audit/report.html``. Weights and images are found or downloaded as ``solset resnet56``
does. The rows of all 10,000 outputs do not fit a Gram matrix. So every image is judged by itself, and only
its own ten outputs are kept.
"""

from torch import nn

import solset
from solset.paper import CIFAR10_ARCHIVE, RESNET56_WEIGHTS, cifar10, pretrained, resnet56


def problem() -> solset.Problem:
    """The trained point; its leftover gradient is that of a network that was never trained to the end."""
    images = cifar10(CIFAR10_ARCHIVE.find(), count=1000)
    network = pretrained(resnet56, RESNET56_WEIGHTS.find())
    loss = nn.CrossEntropyLoss()
    return solset.Problem(network, loss, images.inputs, images.labels, batch_size=50, gradient_tol=1.0)
