"""What an audit of the training data costs, in gradients of the same data, and the peak of memory."""

import resource
import time
from typing import Any

import torch
from torch import nn

from benchmarks.tables import number, table
from benchmarks.timing import seconds_of
from solset import Problem, audit, lipschitz_modulus
from solset.paper import CIFAR10_ARCHIVE, RESNET56_WEIGHTS, cifar10, digits, pretrained
from solset.paper import resnet56 as architecture
from solset.zoo import DFCNN


def fitted_digits() -> Problem:
    """100 digits and the targets that an untrained tanh net gives them: fitted without training."""
    part = digits().part(0, 100)
    net = DFCNN([64, 128, 64, 10], activation=torch.tanh, generator=torch.Generator().manual_seed(0)).eval()
    with torch.no_grad():
        targets = net(part.inputs)
    return Problem(net, nn.MSELoss(), part.inputs, targets)


def resnet56() -> Problem:
    """The public weights on 1000 images."""
    images = cifar10(CIFAR10_ARCHIVE.find(), count=1000)
    network = pretrained(architecture, RESNET56_WEIGHTS.find())
    return Problem(
        network, nn.CrossEntropyLoss(), images.inputs, images.labels, batch_size=50, gradient_tol=1.0
    )


def row(name: str, problem: Problem, call: Any) -> dict[str, Any]:
    """Seconds of one call over those of a gradient before and after it."""
    before = seconds_of(problem.risk().gradient)
    start = time.perf_counter()
    call()
    seconds = time.perf_counter() - start
    gradient = (before + seconds_of(problem.risk().gradient)) / 2
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return {"job": name, "gradients": seconds / gradient, "seconds": seconds, "peak_gigabytes": peak}


def run(*, large: bool) -> list[dict[str, Any]]:
    """Prints the table and returns its rows.

    Args:
        large: Whether ResNet56 is measured too.
    """
    small = fitted_digits()
    rows = [
        row("digits, modulus of all points", small, lambda: lipschitz_modulus(small)),
        row("digits, joint audit after it", small, lambda: audit(small)),
        row("digits, isolated audit", small, lambda: audit(small, joint=False)),
    ]
    if large:
        net = resnet56()
        rows.append(
            row(
                "ResNet56, isolated audit",
                net,
                lambda: audit(net, joint=False, influence=False, progress=True),
            )
        )
    heads = ["audit", "gradients", "seconds", "peak GB"]
    lines = [
        [r["job"], number(r["gradients"]), number(r["seconds"]), number(r["peak_gigabytes"])] for r in rows
    ]
    print(table(heads, lines) + "\n")
    return rows
