"""Whether a replay repeats what training did: losses that differ, and state that no derivative follows."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from solset.errors import bad_value
from solset.risk import named_tensors

ROUNDED = 16.0  # units of rounding of the outputs up to which a difference of two losses is none
SAME = 1e-6  # relative difference of two losses below which they are the same in any precision
UNSURE = 1e3  # units of rounding by which weights and gradients of two computations may differ
STRAYED = 30.0  # roots of the unit of rounding, as part of a step, by which a replay may end elsewhere
DISPLACED = 0.01  # relative change of weights and features that shows what a buffer depends on


@dataclass(eq=False)
class Repetition:
    """What a replay saw that training did otherwise, and what moves without a derivative."""

    # Step, recorded and replayed loss where these two differ most; empty where all are the same
    gap: list[float] = field(default_factory=list)
    # Step, and part of its length by which it ends elsewhere, where that is largest; empty where none does
    strayed: list[float] = field(default_factory=list)
    # Largest relative change by a step of each buffer that moves by weights or data, by name
    moved: dict[str, float] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)  # Names of the buffers that were seen to move

    @property
    def sentences(self) -> list[str]:
        """What speaks against the derivative."""
        texts = []
        if self.gap:
            step, recorded, replayed = self.gap
            texts.append(
                f"the replay computes another loss than training did, {replayed:.6g} for {recorded:.6g} at "
                f"step {step:.0f} ({100 * _apart(recorded, replayed):.2g} % apart): model, loss, data or "
                "augmentation depend on more than weights, buffers and PyTorch's generators, such as a count "
                "of calls or a generator of their own; keep such a state in a buffer"
            )
        if self.strayed:
            step, share = self.strayed
            texts.append(
                f"the replay ends at other weights than training did after step {step:.0f}, by "
                f"{100 * share:.3g} % of the step: something beside the gradient of the loss moves weights "
                "there, such as max_norm of an embedding, and is left out"
            )
        if self.moved:
            names = ", ".join(f"{name} (by {100 * share:.3g} %)" for name, share in self.moved.items())
            texts.append(
                f"a step moves buffers that no derivative follows, {names}: what a change of the data does "
                "through them is left out"
            )
        return texts

    def compare(self, step: int, recorded: float, losses: Sequence[Tensor], outputs: Any) -> None:
        """Notes a loss that is not the recorded one, beyond rounding.

        Args:
            step: Number of the step.
            recorded: Loss of the batch in training.
            losses: Values of the same loss, of which the nearest counts.
            outputs: Outputs that the loss took.
        """
        replayed = min((float(loss.detach()) for loss in losses), key=lambda loss: abs(loss - recorded))
        tensors = [value.detach() for _, value in named_tensors(outputs) if value.is_floating_point()]
        eps = max(torch.finfo(each.dtype).eps for each in (*losses, *tensors))
        size = max((float(value.abs().max()) for value in tensors if value.numel()), default=0.0)
        slack = max(math.sqrt(eps), SAME) * abs(recorded) + ROUNDED * eps * min(size, size**2)
        is_worst = not self.gap or _apart(recorded, replayed) > _apart(*self.gap[1:])
        if not abs(replayed - recorded) <= slack and is_worst:
            self.gap = [float(step), recorded, replayed]

    @torch.no_grad()
    def compare_weights(
        self,
        step: int,
        before: Sequence[Tensor],
        replayed: Sequence[Tensor],
        after: Sequence[Tensor],
        gradients: Sequence[Tensor],
    ) -> None:
        """Notes weights after a step that are not those of training, beyond rounding.

        An entry whose gradient is all rounding may move by a whole step of either sign, as by Adam's rule.

        Args:
            step: Number of the step.
            before: Weights before the step.
            replayed: Weights after it, computed again.
            after: Weights after it in training.
            gradients: Gradients of the step.
        """
        eps = max(torch.finfo(value.dtype).eps for value in after)
        largest = max(float(gradient.abs().max()) for gradient in gradients)
        beyond, length = 0.0, 0.0
        for old, again, new, gradient in zip(before, replayed, after, gradients, strict=True):
            move = (new - old).abs()
            unsure = (UNSURE * eps * largest / gradient.abs()).clamp(max=4.0)  # in units of the move
            unsure = torch.where(gradient == 0, 0.0, unsure)
            excess = ((again - new).abs() - unsure * move - UNSURE * eps * old.abs()).clamp(min=0)
            beyond, length = beyond + float(excess.square().sum()), length + float(move.square().sum())
        share = math.sqrt(beyond / length) if length else float(beyond > 0)
        worst = self.strayed[1] if self.strayed else 0.0
        if not share <= max(STRAYED * math.sqrt(eps), worst):
            self.strayed = [float(step), share]

    def look(
        self,
        before: Mapping[str, Tensor],
        after: Mapping[str, Tensor],
        again: Callable[[], Mapping[str, Tensor]],
    ) -> None:
        """Notes buffers that a step moves by the weights or by the data, and how far at most.

        Args:
            before: Buffers before the step that no derivative follows, by name.
            after: The same buffers after it.
            again: Function that takes the step again at other weights and features, and returns the
                buffers after it.

        Cost: one forward pass of a batch for each step that moves a buffer for the first time.
        """
        shares = {
            name: float((value - before[name]).norm() / max(float(value.norm()), 1e-300))
            for name, value in after.items()
            if name in before and not torch.equal(value, before[name])
        }
        elsewhere = again() if shares.keys() - self.seen else {}
        for name, share in shares.items():
            if name not in self.seen and not torch.equal(after[name], elsewhere.get(name, before[name])):
                self.moved[name] = 0.0
            if name in self.moved:
                self.moved[name] = max(share, self.moved[name])
        self.seen |= shares.keys()


def displaced(value: Tensor) -> Tensor:
    """A tensor whose entries are a little larger, each by another share."""
    return value.detach() * (1.0 + DISPLACED * torch.rand_like(value))


@contextmanager
def buffers_after(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """A context that gives the buffers of real numbers as forward passes of the model leave them, by name."""
    after: dict[str, Tensor] = {}

    def note(*_: Any) -> None:
        after.update({k: v.detach() for k, v in model.named_buffers() if v.is_floating_point()})

    hook = model.register_forward_hook(note)
    try:
        yield after
    finally:
        hook.remove()


def refuse_moved_parameters(before: nn.Module, after: nn.Module) -> None:
    """Refuses a training that moved parameters which do not require grad, as an average of others does.

    Args:
        before: Module before the first step.
        after: Module after the last one.

    Raises:
        ValueError: If there are such parameters; the message names them.
    """
    frozen = {name: value for name, value in before.named_parameters() if not value.requires_grad}
    now = dict(after.named_parameters())
    moved = [name for name, value in frozen.items() if name in now and not torch.equal(value, now[name])]
    if moved:
        raise bad_value(
            "model",
            expected="one whose parameters move by steps of the optimizer alone, for a derivative of the run",
            got=f"{', '.join(moved[:5])}, which moved without requiring grad",
            cure="Run it again on changed data with retrain, which needs no derivative.",
        )


def _apart(recorded: float, replayed: float) -> float:
    """The relative difference of two losses."""
    return abs(replayed - recorded) / max(abs(recorded), abs(replayed), 1e-300)
