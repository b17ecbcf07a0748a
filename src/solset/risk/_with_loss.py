"""A network beside a loss with weights of its own, whose parameters have names together."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from solset.errors import bad_value

PREFIX = "loss."


class WithLoss(nn.Module):
    """A network and a loss: modules of the network keep their names, those of the loss follow ``loss``."""

    def __init__(self, network: nn.Module, loss: nn.Module) -> None:
        super().__init__()
        self.network, self.loss = network, loss
        self.training = network.training

    def named_modules(  # type: ignore[override]
        self, *args: Any, **kwargs: Any
    ) -> Iterator[tuple[str, nn.Module]]:
        """The modules of both; arguments as of PyTorch."""
        yield from self.network.named_modules(*args, **kwargs)
        for name, module in self.loss.named_modules():
            yield f"{PREFIX}{name}".rstrip("."), module


def network_of(model: nn.Module, state: Mapping[str, Tensor]) -> tuple[nn.Module, dict[str, Tensor]]:
    """The user's network alone, and the part of a state that belongs to it.

    Args:
        model: The network, or the network beside a loss.
        state: Parameters and buffers by name.
    """
    if not isinstance(model, WithLoss):
        return model, dict(state)
    return model.network, {name: part for name, part in state.items() if not name.startswith(PREFIX)}


def with_loss(model: nn.Module, loss: nn.Module) -> nn.Module:
    """The network beside a loss whose weights may move; neither of them changes.

    Args:
        model: The user's network, called as it is.
        loss: The user's loss, a module with parameters.

    Raises:
        ValueError: If the network has a part of that name, or holds parameters of the loss.
    """
    if "loss" in dict(model.named_children()) or "loss" in dict(model.named_parameters(recurse=False)):
        raise bad_value(
            "model",
            expected="without a part named 'loss', beside a loss with weights that move",
            got="one that has such a part",
            cure="Rename it.",
        )
    shared = {id(value) for value in model.parameters()}
    if any(id(value) in shared for value in loss.parameters()):
        raise bad_value(
            "loss",
            expected="a module whose weights are not those of the model",
            got="one that holds parameters of the model",
            cure="Pass an L2 penalty as weight_decay and any other as penalty=.",
        )
    return WithLoss(model, loss)
