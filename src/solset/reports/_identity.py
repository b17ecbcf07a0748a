"""What a run depends on besides its settings, in short texts: a resumed run must find the same."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from solset.problem import Problem
from solset.risk import digest, fingerprint
from solset.storage._files import has_file, hash_bytes, hash_file


def problem_facts(problem: Problem) -> dict[str, object]:
    """Weights, data, loss and model of a trained point.

    Args:
        problem: The trained point.

    Cost: one read of the data.
    """
    marks = fingerprint(problem.risk())
    return {
        "weights": digest([problem.weights()]),
        "data": marks["data"],
        "loss": [marks["loss"], marks["reduction"]],
        "weight decay": marks["weight decay"],
        "model": hash_bytes(marks["model"].encode())[:32],
        "fixed parameters and buffers": marks["fixed parameters and buffers"],
    }


def directions_fact(direction: str) -> dict[str, object]:
    """The sum over a file of directions; nothing for directions that settings describe.

    Args:
        direction: As given on the command line.
    """
    if direction in {"gradient", "random"} or not has_file(Path(direction)):
        return {}
    return {"file of directions": hash_file(Path(direction).resolve())}


def tensors_fact(name: str, tensors: Sequence[Tensor]) -> dict[str, object]:
    """A digest of tensors; nothing where there are none.

    Args:
        name: What they are.
        tensors: In order.
    """
    return {name: digest(tensors)} if tensors else {}
