"""Theorem 2: the modulus of one layer at one point in closed form, without automatic differentiation."""

import torch
from torch import Tensor

from solset.errors import bad_type, bad_value
from solset.zoo import DFCNN


def theorem_2(network: DFCNN, inputs: Tensor, layer: int) -> float:
    """The Lipschitz modulus of one layer's solution map for one point (Theorem 2).

    For one output ``κ_h = ‖(Π_j W^(j)ᵀ D_j) a‖ / ‖D_h (Π_{j>h} W^(j)ᵀ D_j) a · x^(h-1)ᵀ‖_F`` with the 0/1
    activation patterns ``D_j``. For several, the largest generalized singular value of the two blocks made of
    these vectors: ``max_u ‖P u‖ / (‖Q u‖ ‖x^(h-1)‖)``, where column ``i`` of ``P`` and ``Q`` belongs to
    output ``i``.

    Args:
        network: A bias-free ReLU network; its output layer counts as the last one.
        inputs: One point, ``(*input)``.
        layer: ``h``, from 0 for the first layer of weights.

    Returns:
        The modulus; infinite where some combination of outputs feels the input and not the layer, 0 where it
        feels neither.

    Raises:
        TypeError: If the network is none, or not a ReLU one.
        ValueError: If there is no such layer, or the input is not one point.

    Cost: one matrix product per layer.

    Example:
        >>> net = DFCNN([2, 2, 1], generator=torch.Generator().manual_seed(0))
        >>> with torch.no_grad():
        ...     _ = net.layers[0].copy_(torch.eye(2)), net.output.copy_(torch.tensor([[3.0, 4.0]]))
        >>> x = torch.tensor([1.0, 2.0], dtype=torch.float64)
        >>> round(theorem_2(net, x, 0), 12)  # ‖a‖ / (‖a‖ ‖x‖) = 1/√5
        0.4472135955
    """
    if not isinstance(network, DFCNN) or network.activation is not torch.relu:
        raise bad_type(
            "network",
            expected="a DFCNN with ReLU",
            got=type(network).__name__,
            cure="Use lipschitz_modulus for others.",
        )
    matrices = [weight.detach() for weight in (*network.layers, network.output)]
    if not 0 <= layer < len(matrices):
        raise bad_value("layer", expected=f"in 0..{len(matrices) - 1}", got=layer, cure="Count from 0.")
    if inputs.numel() != matrices[0].shape[1] or inputs.dtype != matrices[0].dtype:
        raise bad_value(
            "inputs",
            expected=f"one point of {matrices[0].shape[1]} features and {matrices[0].dtype}",
            got=f"shape {tuple(inputs.shape)} and {inputs.dtype}",
            cure="Give one point at a time, in the network's dtype.",
        )
    hidden, patterns = [inputs.reshape(-1)], []
    for weight in matrices[:-1]:
        before = weight @ hidden[-1]
        patterns.append((before > 0).to(before.dtype))
        hidden.append(patterns[-1] * before)
    # Column i of `pulled` is the gradient of output i in what the layer above the loop variable puts out.
    pulled = torch.eye(matrices[-1].shape[0], dtype=matrices[-1].dtype, device=matrices[-1].device)
    at_layer = pulled
    for h in reversed(range(len(matrices))):
        if h < len(patterns):
            pulled = patterns[h].unsqueeze(1) * pulled
        if h == layer:
            at_layer = pulled
        pulled = matrices[h].T @ pulled
    return _largest(pulled, at_layer * hidden[layer].norm())


def _largest(by_input: Tensor, by_weights: Tensor) -> float:
    """``max_u ‖P u‖ / ‖Q u‖`` by a singular value decomposition of ``Q``."""
    size = float(torch.linalg.matrix_norm(by_input, 2))
    if size == 0.0:
        return 0.0
    rounding = max(by_weights.shape) * torch.finfo(by_weights.dtype).eps
    _, values, right = torch.linalg.svd(by_weights, full_matrices=True)
    rank = int(((values > rounding * values.max()) & (values > 0)).sum())
    leaked = by_input @ right[rank:].T
    if leaked.numel() and float(torch.linalg.matrix_norm(leaked, 2)) > 1e3 * rounding * size:
        return float("inf")
    return float(torch.linalg.matrix_norm(by_input @ right[:rank].T / values[:rank], 2))
