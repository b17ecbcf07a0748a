"""How a batch goes into the model in training, and which of its outputs the loss takes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from solset.risk import Pick, called, picked, require_derivatives


@dataclass(frozen=True)
class Call:
    """A call of the model on a batch."""

    # Way of passing a batch: ``"whole"`` as one argument, ``"spread"`` a tuple as several, ``"named"`` a dict
    # as keyword arguments
    style: str
    pick: Pick  # Choice among the outputs; ``None`` takes what the model returns

    def __call__(self, model: nn.Module, inputs: Any) -> Any:
        """The outputs of the model as it is.

        Raises:
            ValueError: If the call is inside ``torch.inference_mode()``.
        """
        require_derivatives()
        positional, named = self._arguments(inputs)
        return picked(model(*positional, **named), self.pick)

    def at(self, model: nn.Module, state: Mapping[str, Tensor], inputs: Any) -> Any:
        """The outputs of the model at other parameters and buffers, by operations with second derivatives."""
        return picked(called(model, state, *self._arguments(inputs)), self.pick)

    def _arguments(self, inputs: Any) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
        if self.style == "named":
            return (), inputs
        return (tuple(inputs) if self.style == "spread" else (inputs,)), {}
