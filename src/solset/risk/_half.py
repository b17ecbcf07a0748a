"""Half precision inside of a model or a loss, in which second derivatives drown."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from solset.errors import bad_value

_HALF = {torch.float16, torch.bfloat16}


class HalfPrecision(TorchDispatchMode):
    """A context that notices operations whose results are in half precision.

    Attributes:
        operations: Names of these operations, in order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[str] = []

    def __torch_dispatch__(
        self,
        func: Any,
        types: Iterable[type],  # noqa: ARG002
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Runs the operation, and records its name where a result is in half precision."""
        result = func(*args, **(kwargs or {}))
        parts = result if isinstance(result, tuple | list) else (result,)
        if any(isinstance(part, Tensor) and part.dtype in _HALF for part in parts):
            self.operations.append(str(func))
        return result

    def refuse(self, argument: str) -> None:
        """Refuses a model or a loss that computes in half precision.

        Raises:
            ValueError: If an operation was noticed.
        """
        if self.operations:
            raise bad_value(
                argument,
                expected="computed in float32 or float64",
                got=f"half precision in {self.operations[0]}",
                cure="Leave out torch.autocast and casts to half precision inside.",
            )
