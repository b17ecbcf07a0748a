r"""A small convolutional network with batch normalisation, trained on handwritten digits.

Batch normalisation mixes the points of a batch while it trains; in evaluation mode its statistics are
constants and every point stands by itself, which is what ``solset.Problem`` asks for. So the network is
trained in two stages: Adam in training mode, then L-BFGS in evaluation mode on the very risk that is studied,
weight decay included, until its gradient is small. Without the second stage the weights would not be
stationary, and solset would warn.

    solset run examples/conv_batchnorm.py:problem --points 0,3,7 --direction gradient --size 1% \
        --out runs/conv_batchnorm

Open ``runs/conv_batchnorm/report.html``. The running statistics are buffers, not weights: they stay when the
data moves. To let only some weights move, name them: ``parameters=["head.*"]``.
"""

from collections import OrderedDict

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import solset

WEIGHT_DECAY = 1e-3


def data(count: int = 200) -> tuple[Tensor, Tensor]:
    """The first digits, ``(count, 1, 8, 8)`` in [0, 1], and their labels."""
    images, labels = load_digits(return_X_y=True)
    return torch.from_numpy(images[:count] / 16.0).reshape(-1, 1, 8, 8), torch.from_numpy(labels[:count])


def network() -> nn.Sequential:
    """Two convolutions and 736 weights; SiLU, which has no kinks that an estimate could cross."""
    layers = OrderedDict[str, nn.Module](
        conv1=nn.Conv2d(1, 6, 3, stride=2, padding=1, bias=False),
        norm1=nn.BatchNorm2d(6),
        act1=nn.SiLU(),
        conv2=nn.Conv2d(6, 10, 3, stride=2, padding=1, bias=False),
        norm2=nn.BatchNorm2d(10),
        act2=nn.SiLU(),
        pool=nn.AdaptiveAvgPool2d(1),
        flat=nn.Flatten(),
        head=nn.Linear(10, 10),
    )
    return nn.Sequential(layers).double()


def train(model: nn.Module, inputs: Tensor, labels: Tensor) -> None:
    """Adam in training mode, then L-BFGS in evaluation mode; the model stays in evaluation mode."""
    weights = list(model.parameters())
    loss = nn.CrossEntropyLoss()

    def risk() -> Tensor:
        model.zero_grad()
        value = loss(model(inputs), labels) + WEIGHT_DECAY / 2 * sum(w.square().sum() for w in weights)
        value.backward()
        return value

    adam = torch.optim.Adam(weights, lr=1e-2)
    for _ in range(150):
        adam.step(risk)
    model.eval()
    options = {"max_iter": 2000, "history_size": 30, "tolerance_grad": 1e-8, "tolerance_change": 0.0}
    torch.optim.LBFGS(weights, line_search_fn="strong_wolfe", **options).step(risk)
    model.zero_grad()


def problem() -> solset.Problem:
    """The trained point; ``solset run`` calls this."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = network()
    inputs, labels = data()
    train(model, inputs, labels)
    return solset.Problem(model, nn.CrossEntropyLoss(), inputs, labels, weight_decay=WEIGHT_DECAY)
