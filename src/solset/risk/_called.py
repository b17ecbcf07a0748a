"""A call of the user's module with other weights; module and PyTorch's switches stay as they were."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import checkpoint

from solset.errors import bad_value
from solset.risk._plain_embedding import plain_embeddings
from solset.risk._trees import mapped


def called(
    model: nn.Module, state: Mapping[str, Tensor], inputs: Sequence[Any], named: Mapping[str, Any]
) -> Any:
    """What the module returns at these parameters and buffers.

    A forward method may differentiate or write to its input: it gets a copy, and gradients are switched on
    inside. If they are off outside, the outputs have none.

    Args:
        model: Module that is called.
        state: Values of parameters and buffers, by name.
        inputs: Tensors of a batch, or trees of them, that go in by their order.
        named: Tensors of a batch, or trees of them, that go in by name.

    Raises:
        ValueError: If the call is inside ``torch.inference_mode()``.
    """
    require_derivatives()
    is_wanted = torch.is_grad_enabled()
    with plain_operations(next(iter(state.values())).device), _attributes_kept(model), torch.enable_grad():
        outputs = functional_call(
            model, dict(state), mapped(tuple(inputs), _copy), mapped(dict(named), _copy)
        )
    is_graph = isinstance(outputs, Tensor) and outputs.requires_grad
    return outputs.detach() if is_graph and not is_wanted else outputs


def require_derivatives() -> None:
    """Refuses a call of the model inside ``torch.inference_mode()``, where every derivative would be zero.

    Raises:
        ValueError: If the call is inside.
    """
    if torch.is_inference_mode_enabled():
        raise bad_value(
            "model",
            expected="called outside of torch.inference_mode()",
            got="a call inside, where nothing has a derivative",
            cure="Leave that context; torch.no_grad() is no obstacle.",
        )


def _copy(value: Any, _: str) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


@contextmanager
def plain_operations(device: torch.device) -> Iterator[None]:
    """A context without autocast and activation checkpointing, and with attention by plain operations.

    Fused kernels have no second or forward-mode derivative, and half precision drowns a second derivative. A
    checkpoint calls the module again during the backward pass, when it has its own weights again and not
    those of the functional call. Embeddings are plain functions of their weights. All switches of PyTorch are
    set back afterwards.
    """
    has_autocast = torch.amp.is_autocast_available(device.type)
    autocast = torch.autocast(device.type, enabled=False) if has_autocast else nullcontext()
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with (
            sdpa_kernel(SDPBackend.MATH),
            autocast,
            plain_embeddings(),
            patch.object(checkpoint, "CheckpointFunction", _Direct),
            patch.object(checkpoint, "_checkpoint_without_reentrant_generator", _nothing_around),
        ):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


class _Direct:
    """Stands in for the reentrant checkpoint: the function is called, and its activations stay."""

    @staticmethod
    def apply(function: Callable[..., Any], preserve: bool, *arguments: Any) -> Any:  # noqa: ARG004, FBT001
        return function(*arguments)


def _nothing_around(*_: Any, **__: Any) -> Iterator[None]:
    """Stands in for what a checkpoint that is not reentrant does around its function."""
    yield


@contextmanager
def _attributes_kept(model: nn.Module) -> Iterator[None]:
    """A context after which every module has its attributes of before.

    Pruning and the old weight normalisation store the weight of each call as an attribute. One with a graph
    could not be copied, and would keep that graph alive.
    """
    before = [(module, dict(vars(module))) for module in model.modules()]
    try:
        yield
    finally:
        for module, attributes in before:
            present = vars(module)
            is_same = len(present) == len(attributes) and all(
                name in present and present[name] is value for name, value in attributes.items()
            )
            if not is_same:
                present.clear()
                present.update({name: _without_graph(value) for name, value in attributes.items()})


def _without_graph(value: Any) -> Any:
    """A weight that an earlier call has computed loses its graph, with which no module could be copied."""
    return value.detach() if isinstance(value, Tensor) and value.grad_fn is not None else value
