"""The audit of a run by the validation loss at its end, and finished batches of any audit in a folder."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from solset.changes import Change, Move, Remove
from solset.checks import points_of
from solset.errors import bad_type, bad_value
from solset.goals import HeldOutLoss
from solset.modulus._audit_batches import Batch
from solset.modulus._audit_result import Audit
from solset.modulus._result import Certainty
from solset.storage import Checkpoint, Identity, check_place
from solset.training import Run

REASON = "the derivative of the run, by one replay, compared with two real reruns"
NO_MODULUS = "no modulus: that of the weights at the end of a run would take a replay for each weight"


def audit_run(
    run: Run,
    kind: type[Change] | Change,
    points: Sequence[int] | None,
    validation: tuple[Any, Any] | None,
    others: Mapping[str, object],
    progress: bool | None,
) -> Audit:
    """The points of a run, ranked by the effect of the worst unit move of each, or of its removal.

    Args:
        run: Recorded training that is audited.
        kind: ``Move`` for features or ``Remove`` for points that leave.
        points: Indices of the points to audit; ``None`` for all.
        validation: Inputs and targets whose mean loss is followed.
        others: Arguments of an audit that a run does not know, by name; ``None`` where they were left out.
        progress: Whether to show a progress bar; by default only on a terminal.

    Raises:
        TypeError: If the kind of change is another one.
        ValueError: If there are no validation data, they do not fit, or an argument is of problems alone.

    Cost: about five trainings, and one forward pass over the training data.
    """
    held_out = _refuse(kind, validation, others)
    chosen = points_of(points, run.point_count)
    worth = run.attribute(HeldOutLoss(*held_out), features=kind is Move, progress=progress)
    part = worth.features if kind is Move else worth.weights
    if part is None:
        raise bad_value("kind", expected="one that the data of the run allow", got=kind, cure=worth.message)
    slopes = -part[chosen].to(torch.float64) if kind is Remove else part[chosen].to(torch.float64)
    lengths = slopes.flatten(1).norm(dim=1) if kind is Move else slopes.abs()
    return Audit(
        kind=kind.__name__,
        points=tuple(chosen),
        unit="loss units per input unit" if kind is Move else "loss units",
        modulus=None,
        isolated_modulus=None,
        validation_change=lengths if kind is Move else slopes,
        validation_slope=lengths,
        loss=run.point_losses()[chosen].to(torch.float64),
        gradient_norm=None,
        feature_influence=None,
        memory_perturbation=None,
        directions=_unit(slopes, lengths) if kind is Move else torch.ones(len(chosen), 1),
        maps=slopes.abs() if kind is Move else lengths.unsqueeze(1),
        optimality="run",
        reason=REASON,
        certainty=(Certainty.UNKNOWN,) * len(chosen),
        notes=(NO_MODULUS, *worth.notes),
        smoothness=worth.smoothness,
        fault=worth.fault,
    )


def _refuse(
    kind: object, validation: tuple[Any, Any] | None, others: Mapping[str, object]
) -> tuple[Any, Any]:
    """The validation data; arguments that a run cannot answer are refused."""
    for name, value in others.items():
        if value is not None:
            raise bad_value(name, expected="left out for a run", got=value, cure="Audit a Problem with it.")
    if validation is None:
        cure = "Pass validation=(x_test, y_test), whose loss ranks the points."
        raise bad_value("validation", expected="inputs and targets for a run", got=None, cure=cure)
    if kind not in {Move, Remove}:
        cure = "Ask run.attribute(goal) for targets, factors and decay."
        raise bad_type("kind", expected="Move or Remove for a run", got=kind, cure=cure)
    return validation


def _unit(slopes: Tensor, lengths: Tensor) -> Tensor:
    shape = (-1, *(1 for _ in slopes.shape[1:]))
    return slopes / torch.where(lengths > 0, lengths, 1.0).reshape(shape)


@dataclass(frozen=True)
class Batches:
    """The checkpoints of an audit's batches."""

    place: Callable[[str], Path] | None  # Function from a file's name to its path; ``None`` stores nothing
    identity: Identity  # Everything that a batch depends on

    @classmethod
    def at(
        cls, checkpoint: Path | str | Callable[[str], Path] | None, identify: Callable[[], Identity]
    ) -> "Batches":
        """The batches in a folder that a user gave.

        Args:
            checkpoint: The folder, or a function from a file's name to its path; ``None`` stores nothing.
            identify: Function that returns the identity of the audit.

        Raises:
            ValueError: If the folder does not exist.
        """
        if checkpoint is None:
            return cls(None, Identity({}))
        place = checkpoint if callable(checkpoint) else lambda name: Path(checkpoint) / name
        check_place(place(_name(0)))
        return cls(place, identify())

    def batch(self, number: int, count: int, compute: Callable[[], Batch]) -> Batch:
        """A batch as an earlier audit stored it, or as it is computed now and stored.

        Raises:
            ValueError: If the stored batch is of another audit; says what differs.
        """

        def restored(records: Any, arrays: dict[str, Tensor]) -> dict[str, Tensor]:
            if records["batch"] != number:
                raise ValueError(f"batch {records['batch']} under the name of batch {number}")
            lengths = {len(arrays["direction"]), *map(len, arrays.values())}
            if lengths != {count}:
                raise ValueError(f"{sorted(lengths)} points instead of {count}")
            return arrays

        path = None if self.place is None else self.place(_name(number))
        checkpoint = Checkpoint(path, "audit", self.identity)
        stored = checkpoint.resume(restored)
        if stored is not None:
            return stored
        batch = compute()
        checkpoint.write({"batch": number}, batch)
        return batch


def _name(number: int) -> str:
    return f"audit_{number:05d}.safetensors"
