"""An optimizer that starts from the state of a checkpoint."""

import copy
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from solset.errors import bad_value
from solset.training._optimizers import MakeOptimizer, made
from solset.training._state import put_settings, settings_of


@dataclass(frozen=True, eq=False)
class Continued:
    """A factory of optimizers that start from the state of a checkpoint."""

    make: MakeOptimizer  # Function of the parameters that returns an optimizer that starts anew
    state: dict[str, Any]  # State dict of the optimizer whose work goes on

    def __call__(self, parameters: list[Any]) -> Optimizer:
        """An optimizer with its own learning rates and the state of the checkpoint.

        Raises:
            ValueError: If the state does not fit the parameters.
        """
        optimizer = made(self.make, parameters)
        settings = settings_of(optimizer)
        try:
            optimizer.load_state_dict(copy.deepcopy(self.state))
            shapes = [
                (name, tuple(value.shape), tuple(parameter.shape))
                for parameter, slot in optimizer.state.items()
                for name, value in slot.items()
                if isinstance(value, Tensor) and value.ndim and value.shape != parameter.shape
            ]
        except (KeyError, ValueError, TypeError) as error:
            raise self._misfit(f"{type(error).__name__}: {error}") from error
        if shapes:
            raise self._misfit("{} of shape {} for a parameter of shape {}".format(*shapes[0]))
        put_settings(settings, optimizer)
        return optimizer

    def _misfit(self, how: str) -> ValueError:
        return bad_value(
            "optimizer_state",
            expected="the state dict of the same optimizer, for the trained parameters in the same order",
            got=how,
            cure="Pass optimizer.state_dict() of the checkpoint whose model make_model is.",
        )
