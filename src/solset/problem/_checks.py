"""What a problem refuses before it computes anything."""

from pathlib import Path

import torch
from torch import Tensor

from solset.checks import require
from solset.errors import bad_type, bad_value


def check_inputs(inputs: Tensor, dtype: torch.dtype) -> None:
    """Refuses inputs that cannot be moved, or that the network does not take.

    Args:
        inputs: Some points.
        dtype: Of the weights.

    Raises:
        TypeError: If they are integers.
        ValueError: If they are of another dtype.
    """
    if not inputs.is_floating_point():
        raise bad_type(
            "inputs",
            expected="floating-point features",
            got=str(inputs.dtype),
            cure="Integers such as token ids cannot be perturbed: make the embeddings the inputs.",
        )
    if inputs.dtype != dtype:
        raise bad_value(
            "inputs",
            expected=f"{dtype}, like the model",
            got=str(inputs.dtype),
            cure="Use `inputs.to(dtype)` or `model.to(dtype)`.",
        )


def check_folder(folder: Path | str | None) -> Path | None:
    """The folder as a path.

    Args:
        folder: An existing folder, or ``None``.

    Raises:
        ValueError: If it is not there.
    """
    require("spill_folder", folder, Path | str | None, cure="Leave it out.")
    if folder is None or Path(folder).is_dir():
        return None if folder is None else Path(folder)
    raise bad_value(
        "spill_folder", expected="an existing folder", got=f"'{folder}'", cure="Make it, or leave it out."
    )
