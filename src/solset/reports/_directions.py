"""Along which unit directions, and how far, training points are moved."""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load
from torch import Tensor, nn

from solset.errors import bad_value
from solset.problem import Problem
from solset.storage import has_file, read_file


def unit(directions: Tensor) -> Tensor:
    """Each point's direction divided by its own norm."""
    norms = directions.flatten(1).norm(dim=1)
    if not bool(((norms > 0) & torch.isfinite(norms)).all()):
        raise bad_value(
            "directions",
            expected="finite and not zero for every moved point",
            got=f"norms {norms.tolist()[:5]}",
            cure="Choose another direction for these points.",
        )
    return directions / norms.reshape(-1, *[1] * (directions.ndim - 1))


def step_of(inputs: Tensor, directions: Tensor, size: float) -> Tensor:
    """``Δx``: each point moved by ``size · ‖x_k‖`` along its unit direction."""
    norms = inputs.flatten(1).norm(dim=1)
    if not bool(norms.all()):
        raise bad_value(
            "size",
            expected="a share of features that are not zero",
            got=f"{size} of zeros, as the displacement of an embedding has",
            cure="Choose other points, or call solset.Problem.estimate with a dx of your own.",
        )
    return (size * norms).reshape(-1, *[1] * (inputs.ndim - 1)) * directions


def random_directions(shape: Sequence[int], like: Tensor, generator: torch.Generator) -> Tensor:
    """Random unit directions, ``shape``, with the dtype and device of ``like``."""
    draw = torch.randn(tuple(shape), generator=generator, dtype=torch.float64)
    return unit(draw.to(like.device, like.dtype))


def cross_entropy_directions(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    """Unit gradients of the outputs' cross-entropy in the inputs, whatever loss the model was fitted with.

    On a problem fitted to zero residual the gradient of its own loss is rounding noise; this one is not.
    """
    leaf = inputs.detach().clone().requires_grad_()
    value = nn.functional.cross_entropy(model(leaf), labels, reduction="sum")
    return unit(torch.autograd.grad(value, leaf)[0])


def loss_directions(problem: Problem, points: Sequence[int]) -> Tensor:
    """Unit gradients of each moved point's own loss in its inputs."""
    risk = problem.risk().select(points)
    gradients = risk.input_gradients()
    smallest = float(gradients.flatten(1).norm(dim=1).min())
    if not smallest > 1e4 * torch.finfo(gradients.dtype).eps:
        raise bad_value(
            "direction",
            expected="a loss gradient above rounding at every moved point",
            got=f"norms down to {smallest:.3g}",
            cure="The points are fitted to zero residual: use random directions, or give your own.",
        )
    return unit(gradients)


def directions_from_file(path: Path, shape: Sequence[int], like: Tensor) -> Tensor:
    """Directions stored under the key ``directions`` in a safetensors file, made unit."""
    data = read_file(path) if has_file(path) else None
    if data is None:
        expected = '"gradient", "random" or a safetensors file'
        raise bad_value("direction", expected=expected, got=repr(str(path)), cure="Check the path.")
    try:
        stored = load(data)
    except Exception as error:
        got = f"{path.name}: {error}"
        raise bad_value(
            "direction", expected="a safetensors file", got=got, cure="Save it as one."
        ) from error
    shapes = {key: tuple(value.shape) for key, value in stored.items()}
    if shapes.get("directions") != tuple(shape):
        expected = f"key 'directions' of shape {tuple(shape)}"
        raise bad_value("direction", expected=expected, got=f"{shapes} in {path.name}", cure="Store it so.")
    return unit(stored["directions"].to(like.device, like.dtype))
