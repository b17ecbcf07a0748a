"""A call of the module, or of module and loss together, with other weights; both stay as they were."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import lru_cache, wraps
from inspect import signature
from typing import Any
from unittest.mock import patch
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import checkpoint

from solset.errors import bad_value
from solset.risk._layout import matches
from solset.risk._losses import WholeBatch
from solset.risk._trees import mapped

_WRITTEN: WeakKeyDictionary[nn.Module, set[str]] = WeakKeyDictionary()
REACHES = 1e-6  # relative distance to the largest norm within which a row counts as held by it
PREFIX = "loss."


def called(
    model: nn.Module, state: Mapping[str, Tensor], inputs: Sequence[Any], named: Mapping[str, Any]
) -> Any:
    """What the module returns at these parameters and buffers.

    A forward method may differentiate or write to its input: it gets a copy, and gradients are switched on
    inside. If they are off outside, the outputs have none.

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
                names = present.keys() | attributes.keys()
                changed = {key for key in names if present.get(key, ...) is not attributes.get(key, ...)}
                _WRITTEN.setdefault(module, set()).update(changed)
                present.clear()
                present.update({name: _without_graph(value) for name, value in attributes.items()})


def written_by_calls(module: object) -> set[str]:
    """The names of the attributes that calls of a module were seen to write, such as a counter.

    Args:
        module: Part of a model; another object has none.
    """
    return _WRITTEN.get(module, set()) if isinstance(module, nn.Module) else set()


def _without_graph(value: Any) -> Any:
    """A weight that an earlier call has computed loses its graph, with which no module could be copied."""
    return value.detach() if isinstance(value, Tensor) and value.grad_fn is not None else value


@contextmanager
def plain_embeddings() -> Iterator[None]:
    """A context in which PyTorch's embeddings are plain functions of their weights.

    ``sparse=True`` gives gradients that few operations take. ``scale_grad_by_freq=True`` divides gradients by
    the counts of a batch, so that they belong to no risk. ``max_norm=`` writes to the weights in the forward
    pass; here its rows are shortened in a copy, so that a row at its largest length may only turn.
    """
    plain = [_plain(getattr(functional, name)) for name in ("embedding", "embedding_bag")]
    with (
        patch.object(functional, "embedding", plain[0]),
        patch.object(functional, "embedding_bag", plain[1]),
    ):
        yield


@lru_cache(maxsize=8)  # the signature of a function takes longer to read than a small network to run
def _plain(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The function without what changes gradients, and with rows that are shortened in a copy."""
    names = signature(function)

    @wraps(function)  # these contexts stand inside each other, and the signature has to be seen through all
    def call(*args: Any, **named: Any) -> Tensor:
        bound = names.bind(*args, **named)
        bound.apply_defaults()
        given = bound.arguments
        given.update(sparse=False, scale_grad_by_freq=False)
        if given["max_norm"] is not None:
            given["weight"] = _shortened(given["weight"], given["max_norm"], given["norm_type"])
            given["max_norm"] = None
        return function(*bound.args, **bound.kwargs)

    return call


def _shortened(weight: Tensor, longest: float, order: float) -> Tensor:
    lengths = torch.linalg.vector_norm(weight, ord=order, dim=1, keepdim=True)
    is_held = lengths >= longest * (1.0 - REACHES)
    return weight * torch.where(is_held, longest / torch.where(is_held, lengths, 1.0), 1.0)


def filling_rows(model: nn.Module) -> dict[str, int]:
    """The row of the token that fills up, ``padding_idx``, by the name of the weights; training holds it."""
    return {
        f"{name}.weight" if name else "weight": module.padding_idx
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.padding_idx is not None
    }


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
    """The user's network alone, and the part of a state that belongs to it."""
    if not isinstance(model, WithLoss):
        return model, dict(state)
    return model.network, {name: part for name, part in state.items() if not name.startswith(PREFIX)}


def asked_for(loss: object, patterns: Sequence[str] | None) -> nn.Module | None:
    """The loss's module where its weights are among those that may move; ``None`` where they are not."""
    module = loss.loss if isinstance(loss, WholeBatch) else loss
    if not isinstance(module, nn.Module) or not isinstance(patterns, Sequence) or isinstance(patterns, str):
        return None
    names = [PREFIX + name for name, value in module.named_parameters() if value.requires_grad]
    wanted = [pattern for pattern in patterns if isinstance(pattern, str)]
    return module if any(matches(name, pattern) for name in names for pattern in wanted) else None


def with_loss(model: nn.Module, loss: nn.Module) -> nn.Module:
    """The network beside a loss whose weights may move; neither of them changes.

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
