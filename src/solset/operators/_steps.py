"""Features that hold ids, counts or categories as floating-point numbers: outputs jump between them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from solset.operators._verify import Comparison, Probe, Verdict
from solset.risk import flat_rows

MOST_TRIED = 64


def stepping_features(probe: Probe) -> list[int]:
    """The flat features with whole numbers and derivative 0, of which the outputs are a step function.

    Args:
        probe: Function of weights and inputs; the inputs are its last tensor.

    Cost: none where no feature holds whole numbers with derivative 0, else some forward passes.
    """
    inputs, slopes = flat_rows(probe.values[-1]), flat_rows(probe.slopes[-1])
    is_whole = (inputs == inputs.round()).all(dim=0) & (slopes == 0).all(dim=0)
    candidates = is_whole.nonzero().flatten().tolist()
    if not candidates or not _is_step(probe, candidates):
        return []
    if len(candidates) > MOST_TRIED:
        return candidates
    return [feature for feature in candidates if _is_step(probe, [feature])]


def _is_step(probe: Probe, features: Sequence[int]) -> bool:
    """Whether outputs stay the same up to some fraction of 1, and are those of the next number beyond it."""
    column = flat_rows(probe.values[-1])[:, list(features)]
    inwards = torch.where(column > column.mean(dim=0), -1.0, 1.0).to(column)  # there are ids between ids
    for sign in (inwards, -inwards):
        try:
            here, *between, there = [
                _moved(probe, features, step * sign) for step in (0.0, 0.26, 0.51, 0.99, 1.0)
            ]
        except (IndexError, RuntimeError):  # there is no such id
            continue
        if not torch.equal(here, there) and all(
            torch.equal(one, here) or torch.equal(one, there) for one in between
        ):
            return True
    return False


def _moved(probe: Probe, features: Sequence[int], step: Tensor) -> Tensor:
    inputs = flat_rows(probe.values[-1]).clone()
    inputs[:, list(features)] += step
    moved = [*probe.values[:-1], inputs.reshape(probe.values[-1].shape)]
    with torch.no_grad():
        return probe.call(moved)[0].detach()


def jumping_features(probe: Probe, direction: Tensor) -> list[int]:
    """The flat features along which the outputs jump at once, by halving.

    Args:
        probe: Function of weights and inputs; the inputs are its last tensor.
        direction: Direction in the inputs along which outputs jump.

    Cost: some ten gradients of the points for each feature that is found; at most eight are.
    """
    flat = flat_rows(direction)
    waiting, jumping = [list(range(flat.shape[1]))], []
    while waiting and len(jumping) < 8:
        part = waiting.pop()
        only = torch.zeros_like(flat)
        only[:, part] = flat[:, part]
        still = [torch.zeros_like(value) for value in probe.values[:-1]]
        comparison = Comparison(probe, [*still, only.reshape(direction.shape)])
        if comparison.first is not Verdict.JUMPS:
            continue
        if len(part) == 1:
            jumping += part
        else:
            waiting += [part[len(part) // 2 :], part[: len(part) // 2]]
    return jumping
