"""Theorem 2: the modulus of one layer at one point in closed form, without automatic differentiation."""

import torch
from torch import Tensor

from solset.checks import within
from solset.errors import bad_type, bad_value
from solset.linalg import LeftSide, largest_ratio
from solset.zoo import DFCNN


def theorem_2(network: DFCNN, inputs: Tensor, layer: int) -> float:
    """The Lipschitz modulus of one layer's solution map for one point (Theorem 2).

    For one output ``κ_h = ‖(Π_j W^(j)ᵀ D_j) a‖ / ‖D_h (Π_{j>h} W^(j)ᵀ D_j) a · x^(h-1)ᵀ‖_F`` with the 0/1
    activation patterns ``D_j``. For several, the largest generalized singular value of the two blocks made of
    these vectors: ``sup_u ‖Pᵀu‖ / (‖Qᵀu‖ ‖x^(h-1)‖)``, where row ``i`` of ``P`` and ``Q`` belongs to output
    ``i``.

    Args:
        network: Bias-free ReLU network, whose output layer counts as the last one.
        inputs: Features of one point, ``(*input)``.
        layer: Number ``h`` of the layer, from 0 for the first one.

    Returns:
        The modulus; infinite where some combination of outputs depends on the input and not on the layer, 0
        where all depend on neither.

    Raises:
        TypeError: If the network is not a DFCNN with ReLU.
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
    within("layer", layer, 0, len(matrices) - 1, cure="Count from 0.")
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
    # Row i of `pulled` is the gradient of output i in the values that the layer above this one gives.
    pulled = torch.eye(matrices[-1].shape[0], dtype=matrices[-1].dtype, device=matrices[-1].device)
    at_layer = pulled
    for h in reversed(range(len(matrices))):
        if h < len(patterns):
            pulled = pulled * patterns[h]
        if h == layer:
            at_layer = pulled
        pulled = pulled @ matrices[h]
    return largest_ratio(LeftSide.of_rows(at_layer * hidden[layer].norm()), pulled).value
