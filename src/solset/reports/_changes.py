"""Changes of whole points, as options: points that leave, join, count less, or have new targets."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load
from torch import Tensor

from solset.changes import Add, Change, Relabel, Remove, Reweight
from solset.errors import bad_value
from solset.problem import Problem
from solset.reports._options import Settings, indices, option, source_option
from solset.risk import EmpiricalRisk, target_form
from solset.storage import has_file, read_file

NAMED = 4  # points that a sentence names


def assignments(flag: str, text: str, *, example: str) -> tuple[str, ...]:
    """``"5=2,6-8=0"`` as single parts ``"5=2"`` and ``"6-8=0"``, each of which was read once."""
    parts = tuple(part.strip() for part in text.split(","))
    for part in parts:
        points, sign, value = part.partition("=")
        if not sign or not _is_number(value):
            cure = "Write INDEX=NUMBER, with ranges such as 6-8=0."
            raise bad_value(
                flag, expected=f"indices with a number, such as {example}", got=repr(text), cure=cure
            )
        indices(flag, points)
    return parts


def _is_number(text: str) -> bool:
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False


def assigned_numbers(flag: str, parts: Sequence[str]) -> tuple[list[int], list[str]]:
    """The indices of all parts, and the text of the number of each index.

    Args:
        flag: Name of the option, for messages.
        parts: Parts of its text, such as ``"5=2"``.
    """
    pairs = [(i, part.partition("=")[2]) for part in parts for i in indices(flag, part.partition("=")[0])]
    return [i for i, _ in pairs], [text for _, text in pairs]


@dataclass(frozen=True)
class PointSettings(Settings):
    """Settings of changes of whole points; each field says what it is in its help text."""

    source: str = source_option("a solset.Problem")
    remove: tuple[int, ...] = option(
        (),
        flag="--remove",
        parse=indices,
        help="Indices of the training points that are left out, such as 3,7 or 0-5,9.",
    )
    relabel: tuple[str, ...] = option(
        (),
        flag="--relabel",
        parse=partial(assignments, example="5=2,6-8=0"),
        help="New targets of training points, such as 5=2,6-8=0: class labels, or the numbers of a "
        "regression with one output.",
    )
    reweight: tuple[str, ...] = option(
        (),
        flag="--reweight",
        parse=partial(assignments, example="5=0.5"),
        help="New factors of the losses of training points, which are 1 as trained, such as 5=0.5.",
    )
    add: str = option(
        "",
        flag="--add",
        help="File (.npz or .safetensors) with the arrays x and y: inputs and targets of points that join.",
    )

    @property
    def changes_points(self) -> bool:
        """Whether whole points change."""
        return bool(self.remove or self.relabel or self.reweight or self.add)

    def point_changes(self, problem: Problem) -> "PointChanges":
        """The changes that were asked for; refuses those that do not fit the problem."""
        risk = problem.risk()
        changes = self.changes(
            lambda _, values: _targets(risk, values), lambda: Add(*new_points(self.add, problem))
        )
        changes.whole.direction(risk)  # refuses what does not fit
        return changes

    def changes(
        self, targets: Callable[[list[int], list[float]], Tensor], added: Callable[[], Add]
    ) -> "PointChanges":
        """The changes that were asked for, with functions that give new targets, and the points that join."""
        parts: dict[str, Change] = {}
        if self.remove:
            parts["left out"] = Remove(list(self.remove))
        if self.relabel:
            points, texts = assigned_numbers("--relabel", self.relabel)
            parts["relabelled"] = Relabel(points, targets(points, [float(text) for text in texts]))
        if self.reweight:
            points, texts = assigned_numbers("--reweight", self.reweight)
            parts["reweighted"] = Reweight(points, [float(text) - 1.0 for text in texts])
        if self.add:
            parts["added"] = added()
        return PointChanges(parts, self.sentence_part)

    @property
    def sentence_part(self) -> str:
        """What changes, as the middle of a sentence: ``"points 3 and 7 left out"``."""
        phrases = []
        if self.remove:
            phrases.append(f"{named_points(self.remove)} left out")
        for field, what in (("relabel", "with the target"), ("reweight", "counted with the weight")):
            by_value: dict[str, list[int]] = {}
            for i, text in zip(*assigned_numbers(f"--{field}", getattr(self, field)), strict=True):
                by_value.setdefault(text, []).append(i)
            phrases += [f"{named_points(points)} {what} {text}" for text, points in by_value.items()]
        if self.add:
            phrases.append(f"the points of {Path(self.add).name} added")
        return " and ".join([", ".join(phrases[:-1]), phrases[-1]] if len(phrases) > 1 else phrases)


@dataclass(frozen=True, eq=False)
class PointChanges:
    """Changes of whole points, by the words for their points."""

    parts: Mapping[str, Change]  # Changes by the words for the points concerned, such as ``"left out"``
    sentence_part: str  # Phrase that says what changes, such as "points 3 and 7 left out"

    @property
    def whole(self) -> Change:
        """All of them together."""
        first, *others = self.parts.values()
        return sum(others, start=first)

    def groups(self, risk: EmpiricalRisk) -> Iterator[tuple[str, EmpiricalRisk]]:
        """The losses of the points that each part concerns, and of all points that stay as they are."""
        count, chosen = len(risk.points), self.whole.chosen(risk)
        for words, part in self.parts.items():
            if isinstance(part, Add):
                there = part.applied_to(risk)
                yield words, there.select(range(count, len(there.points)))
            else:  # points that leave, or count less, keep their data
                there = part.applied_to(risk) if isinstance(part, Relabel) else risk
                yield words, there.select(part.chosen(risk))
        rest = [i for i in range(count) if i not in set(chosen)]
        if rest:
            yield "as they were", risk.select(rest)


def named_points(points: Sequence[int]) -> str:
    """Points in words, such as ``"points 3 and 7"``; of many points the first few."""
    names = [str(point) for point in points]
    if len(names) == 1:
        return f"point {names[0]}"
    if len(names) > NAMED:
        return f"{len(names)} points ({', '.join(names[:NAMED])}, …)"
    return f"points {', '.join(names[:-1])} and {names[-1]}"


def _targets(risk: EmpiricalRisk, values: Sequence[float]) -> Tensor:
    """Numbers as targets of the training data: class labels, or one number for each point."""
    shape, dtype = target_form(risk)
    if risk.points.targets is not None or torch.Size(shape).numel() != 1:
        raise bad_value(
            "--relabel",
            expected="left out where a target is more than one number",
            got=f"targets of shape {tuple(shape)}",
            cure="Call problem.estimate(solset.Relabel(points, targets)) in Python.",
        )
    if not dtype.is_floating_point and any(value != int(value) for value in values):
        cure = "Write whole numbers."
        raise bad_value("--relabel", expected="class labels, as trained with", got=list(values), cure=cure)
    return torch.tensor(values, dtype=torch.float64).to(dtype).reshape(-1, *shape)


def new_points(path: Path | str, problem: Problem) -> tuple[Tensor, Tensor]:
    """The inputs and targets that a file holds under ``x`` and ``y``, in the dtypes of the training data.

    Args:
        path: File with the suffix ``.npz`` or ``.safetensors``.
        problem: Problem whose training data they join.

    Raises:
        ValueError: If the file is not there, cannot be read, holds other arrays, or they do not fit.
    """
    (x, y), risk = stored_arrays(path), problem.risk()
    dtype = target_form(risk)[1]
    for name, array, wanted in (("x", x, risk.weights.dtype), ("y", y, dtype)):
        if array.is_floating_point() != wanted.is_floating_point:
            cure = "Save it as the training data are."
            raise bad_value("--add", expected=f"{name} like {wanted}", got=str(array.dtype), cure=cure)
    device = risk.weights.device
    x, y = x.to(device, risk.weights.dtype), y.to(device, dtype)
    shape = (len(x), *problem.input_shape)
    if tuple(x.shape) != shape or len(y) != len(x) or not len(x):
        raise bad_value(
            "--add",
            expected=f"x of shape (k, {', '.join(map(str, problem.input_shape))}) and k targets y",
            got=f"{tuple(x.shape)} and {tuple(y.shape)}",
            cure="Preprocess them like the training data.",
        )
    return x, y


def stored_arrays(path: Path | str) -> tuple[Tensor, Tensor]:
    """The arrays ``x`` and ``y`` of a file, as they are stored.

    Args:
        path: File with the suffix ``.npz`` or ``.safetensors``.

    Raises:
        ValueError: If the file is not there, cannot be read, or holds other arrays.
    """
    path = Path(path)
    arrays = _read(path)
    if not {"x", "y"} <= set(arrays):
        got = f"{sorted(arrays)} in {path.name}"
        raise bad_value(
            "--add", expected="arrays x and y", got=got, cure="Save the inputs as x, the targets as y."
        )
    return arrays["x"], arrays["y"]


def _read(path: Path) -> dict[str, Tensor]:
    readers: dict[str, Callable[[], dict[str, Tensor]]] = {
        ".npz": lambda: _read_npz(path),
        ".safetensors": lambda: load(read_file(path) or b""),
    }
    if path.suffix not in readers or not has_file(path):
        expected, got = "an existing .npz or .safetensors file", repr(str(path))
        raise bad_value("--add", expected=expected, got=got, cure="Check the path.")
    try:
        return readers[path.suffix]()
    except Exception as error:
        got = " ".join(f"{path.name}: {error}".split())
        cure = "Save it with numpy.savez or safetensors, without pickled objects."
        raise bad_value("--add", expected="a file of arrays", got=got, cure=cure) from error


def _read_npz(path: Path) -> dict[str, Tensor]:
    with np.load(path, allow_pickle=False) as stored:
        return {name: torch.as_tensor(stored[name]) for name in stored.files}
