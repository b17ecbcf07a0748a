"""Trainings that diverged: the step at which numbers are no longer finite, or the loss explodes."""

from collections.abc import Sequence
from statistics import fmean

import torch

from solset.errors import bad_value
from solset.training._state import State

EXPLODED = 10.0  # mean loss of the last steps, in that of the first ones, at which training has diverged
SHARE = 10  # part of the steps, as 1 / SHARE, over which both means are taken


def explosion(losses: Sequence[float]) -> str:
    """A sentence on a loss that grew many times over and stayed there; empty if it did not."""
    count = max(1, len(losses) // SHARE)
    if len(losses) < 2:
        return ""
    first, last = (fmean(map(abs, part)) for part in (losses[:count], losses[-count:]))
    if last <= EXPLODED * first:
        return ""
    step = next(i for i, loss in enumerate(losses) if abs(loss) > EXPLODED * first)
    return (
        f"training diverged: the loss of a batch is {first:.3g} in the first steps, passes {EXPLODED:g} "
        f"times that at step {step}, and is {last:.3g} at the end; lower the learning rate, or clip the "
        f"gradient"
    )


def require_finite(end: State, start: State, step: int) -> None:
    """Refuses weights and statistics that are not finite after the last step; buffers that stayed may be.

    Raises:
        ValueError: If an entry is NaN or infinite; names the tensor and the step.
    """
    masks = [name for name, value in start.buffers.items() if torch.equal(value, end.buffers[name])]
    for name, value in {**end.parameters, **{n: b for n, b in end.buffers.items() if n not in masks}}.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise bad_value(
                "loss",
                expected="one whose steps end at finite weights",
                got=f"entries of {name} that are not finite after step {step}",
                cure="Lower the learning rate, or clip the gradient with clip_norm.",
            )
