"""Derivatives of a graph in its leaves, backward and forward."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from solset.errors import bad_type


def derivatives(
    ends: Sequence[Tensor],
    leaves: Sequence[Tensor],
    weights: Sequence[Tensor] | None = None,
    *,
    keep_graph: bool = False,
    create_graph: bool = False,
) -> list[Tensor]:
    """The derivative of ``Σ ⟨weight, end⟩`` in each leaf; zeros where nothing leads to the leaf.

    Args:
        ends: Tensors at the end of a graph; those without a graph are constants.
        leaves: Tensors at its start.
        weights: Tensor for each end; ones for scalars by default.
        keep_graph: Whether the graph is used again.
        create_graph: Whether the derivative gets a graph of its own.
    """
    weights = [torch.ones_like(end) for end in ends] if weights is None else weights
    pairs = [(end, weight) for end, weight in zip(ends, weights, strict=True) if end.requires_grad]
    if not pairs or not leaves:
        return [torch.zeros_like(leaf) for leaf in leaves]
    parts = torch.autograd.grad(
        [end for end, _ in pairs],
        leaves,
        [weight for _, weight in pairs],
        retain_graph=keep_graph or create_graph,
        create_graph=create_graph,
        allow_unused=True,
        materialize_grads=True,
    )
    return list(parts)


def require_second(gradients: Sequence[Tensor]) -> None:
    """Refuses gradients whose graph passes a function that can be differentiated once only.

    PyTorch drops what such a function contributes to a second derivative, and says nothing.

    Raises:
        TypeError: If there is such a function.
    """
    nodes = [each.grad_fn for each in gradients if each.grad_fn is not None]
    seen = set(nodes)
    while nodes:
        node = nodes.pop()
        if node.name() == "torch::autograd::Error":
            raise bad_type(
                "model",
                expected="one that can be differentiated twice, with its loss and augmentation",
                got="a function marked with once_differentiable",
                cure="Write its backward with differentiable operations, and leave the mark out.",
            )
        following = {after for after, _ in node.next_functions if after is not None} - seen
        seen |= following
        nodes.extend(following)


def pushed(ends: Sequence[Tensor], leaves: Sequence[Tensor], tangents: Sequence[Tensor]) -> list[Tensor]:
    """The change of each end when the leaves change by the tangents: the product with the Jacobian.

    The product with the transposed Jacobian is linear in its weights, and its derivative in them is the
    product with the Jacobian itself. So no layer needs a forward-mode derivative.
    """
    with torch.enable_grad():
        weights = [torch.zeros_like(end, requires_grad=True) for end in ends]
        parts = derivatives(ends, leaves, weights, create_graph=True)
        along = [
            (part * tangent) for part, tangent in zip(parts, tangents, strict=True) if part.requires_grad
        ]
    return derivatives(along, weights, [torch.ones_like(part) for part in along], keep_graph=True)


def leaf_of(parts: Sequence[Any]) -> Tensor | None:
    """The tensors of the parts of a batch as one fresh leaf; ``None`` where they are no real numbers."""
    tensors = [part for part in parts if isinstance(part, Tensor) and part.is_floating_point()]
    if not tensors or len(tensors) < len(parts):
        return None
    return torch.cat([tensor.detach() for tensor in tensors]).clone().requires_grad_()
