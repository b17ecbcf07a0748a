"""Results that survive an interrupt: each stage is written when it is done and read back on resuming."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from solset.reports._run_folder import RunFolder


def stage(folder: RunFolder, name: str, compute: Callable[[], Any], *, beside: Sequence[str] = ()) -> Any:
    """The JSON result of a stage: read from the folder if this run has it, else computed and written."""
    file = f"{name}.json"
    are_there = [folder.has(part) for part in (file, *beside)]  # asks for all: each names its damage
    if not all(are_there):
        folder.write_json(file, compute())
    return folder.read_json(file)


def tensor_stage(folder: RunFolder, name: str, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors of a stage, as :func:`stage` does for numbers."""
    file = f"{name}.safetensors"
    if not folder.has(file):
        folder.write_tensors(file, compute())
    return folder.read_tensors(file)
