"""The way back through a run: derivatives of goals step by step, summed point by point, in a file."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from solset.goals import Slopes
from solset.storage import Checkpoint
from solset.training._recording import Interrupts
from solset.training._repetition import Repetition
from solset.training._replay import Step
from solset.training._run_file import SECONDS, SHARE
from solset.training._slopes import BatchSlope, RuleSlope, Slope
from solset.training._step import StepDerivative


class Totals:
    """Sums of what each batch contributes, point by point, and of what each step does."""

    def __init__(self, count: int, *, with_features: bool) -> None:
        self._count, self._with_features = count, with_features
        self.parts: list[Tensor | None] = [None, None, None]
        self.decay = self.rate = 0.0

    def add(self, points: Sequence[int], batch: BatchSlope, rule: RuleSlope) -> None:
        """Adds the derivatives at one step to those of its points and of the recipe."""
        self.decay += rule.decay
        self.rate += rule.rate
        for place, part in enumerate(batch.parts[:3]):
            if part is None or (place == 0 and not self._with_features):
                continue
            total = self.parts[place]
            if total is None:
                total = self.parts[place] = part.new_zeros(self._count, *part.shape[1:])
            total.index_add_(0, torch.as_tensor(points, device=part.device), part)


def block(parts: Sequence[Tensor | None], *, is_block: bool) -> Tensor | None:
    """The parts of several goals with an axis in front; that of one goal as it is.

    Args:
        parts: Part of each goal; ``None`` where there is none.
        is_block: Whether the goals are a block.
    """
    present = [part for part in parts if part is not None]
    if not present:
        return None
    return torch.stack(present) if is_block else present[0]


def numbers(values: Sequence[float], measured: Slopes) -> float | Tensor:
    """One number for one goal, and a tensor of them for a block."""
    return torch.tensor(values).to(measured.values) if measured.is_block else values[0]


@dataclass(eq=False)
class Sweep:
    """Derivatives of goals in the state before the steps that are done, and in the data of these steps."""

    derivative: StepDerivative  # Derivative of the steps
    slopes: list[Slope]  # Derivative of each goal in the state
    totals: list[Totals]  # Sums of each goal's derivatives in the data
    checkpoint: Checkpoint  # File of the sweep, or none
    left: int  # Number of steps that are left
    is_whole: bool = True  # Whether no step is counted in part, so that the sweep may be written
    # Time of the next write, by the clock of ``time.monotonic``
    due: float = field(default_factory=lambda: time.monotonic() + SECONDS)

    def take(self, step: Step, points: list[int]) -> None:
        """Goes back over one step."""
        before, record, after = step
        pulled = self.derivative.pull(before, record, after, self.slopes)
        self.is_whole = False
        self.slopes = [slope for slope, _, _ in pulled]
        for total, (_, batch, rule) in zip(self.totals, pulled, strict=True):
            total.add(points, batch, rule)
        self.left, self.is_whole = record.step, True

    @contextmanager
    def written(self) -> Iterator[Any]:
        """A context that gives a function to call after each step, which writes the sweep where it is due.

        An interrupt or a request to end waits for the end of a step where there is a file. The sweep is
        written at its end too, and where a step fails.
        """
        if self.checkpoint.path is None:
            yield lambda: None
            return
        with Interrupts() as interrupts:

            def after_step() -> None:
                if time.monotonic() >= self.due:
                    self._write()
                interrupts.answer(self._write)

            try:
                yield after_step
            finally:  # a step whose derivatives fail leaves the sweep as it was before it
                if self.is_whole:
                    self._write()

    def resume(self) -> None:
        """Goes on from the file, where there is one of this sweep."""
        self.checkpoint.resume(self._restore)

    def _write(self) -> None:
        start, arrays, slots = time.monotonic(), dict[str, Tensor](), list[list[list[Any]]]()
        for k, (slope, total) in enumerate(zip(self.slopes, self.totals, strict=True)):
            arrays |= {f"{k}.w{i}": part for i, part in enumerate(slope.parameters)}
            arrays |= {f"{k}.s{place}.{name}": part for (place, name), part in slope.slots.items()}
            arrays |= {f"{k}.b.{name}": part for name, part in slope.buffers.items()}
            arrays |= {f"{k}.t{i}": part for i, part in enumerate(total.parts) if part is not None}
            slots.append([[place, name] for place, name in slope.slots])
        arrays |= {f"k{i}": part for i, part in enumerate(self.derivative.kinks_of_blocks)}
        records = {
            "left": self.left,
            "slots": slots,
            "decay": [total.decay for total in self.totals],
            "rate": [total.rate for total in self.totals],
            "fault": self.derivative.fault,
            "gap": self.derivative.repetition.gap,
            "strayed": self.derivative.repetition.strayed,
            "moved": self.derivative.repetition.moved,
            "is_looked_at": self.derivative.is_looked_at,
            "has_factors": self.derivative.has_factors,
        }
        copies = {name: part.detach().contiguous().clone() for name, part in arrays.items()}
        self.checkpoint.write(records, copies)
        self.due = start + max(SECONDS, SHARE * (time.monotonic() - start))

    def _restore(self, records: Any, arrays: dict[str, Tensor]) -> bool:
        device = self.slopes[0].parameters[0].device
        here = {name: part.to(device) for name, part in arrays.items()}
        slopes = []
        for k, slope in enumerate(self.slopes):
            slots = {(place, name): here[f"{k}.s{place}.{name}"] for place, name in records["slots"][k]}
            weights = [here[f"{k}.w{i}"] for i in range(len(slope.parameters))]
            slopes.append(Slope(weights, slots, {name: here[f"{k}.b.{name}"] for name in slope.buffers}))
        for k, total in enumerate(self.totals):
            total.parts = [here.get(f"{k}.t{i}") for i in range(len(total.parts))]
            total.decay, total.rate = float(records["decay"][k]), float(records["rate"][k])
        kinks = self.derivative.kinks_of_blocks
        self.derivative.kinks_of_blocks = [here[f"k{i}"] for i in range(len(kinks))]
        self.derivative.fault = str(records["fault"])
        gap, strayed, moved = list(records["gap"]), list(records["strayed"]), dict(records["moved"])
        self.derivative.repetition = Repetition(gap, strayed, moved, set(moved))
        self.derivative.is_looked_at = bool(records["is_looked_at"])
        self.derivative.has_factors = bool(records["has_factors"])
        self.slopes, self.left = slopes, int(records["left"])
        return True
