"""What a run depends on besides its settings, in short texts: a resumed run must have the same."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from solset.problem import Problem
from solset.risk import digest, identity
from solset.storage import has_file, hash_file


def problem_facts(problem: Problem) -> Mapping[str, object]:
    """Digests of weights, data, loss and model of a trained point, at the cost of one read of the data."""
    return identity(problem.risk(), depends_on_batches=False).settings


def directions_fact(direction: str) -> dict[str, object]:
    """The sum over a file of directions; nothing for directions that settings describe."""
    if direction in {"gradient", "random"} or not has_file(Path(direction)):
        return {}
    return {"file of directions": hash_file(Path(direction).resolve())}


def tensors_fact(name: str, tensors: Sequence[Tensor]) -> dict[str, object]:
    """A digest of tensors in order under the given name; nothing where there are none."""
    return {name: digest(tensors)} if tensors else {}
