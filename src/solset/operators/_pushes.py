"""Products ``J v``: through a kept graph, in forward mode, or from rows where neither comes out right."""

import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd import forward_ad

from solset.operators._pull_back import agree, pull_back
from solset.risk import EmpiricalRisk, flat_rows, is_out_of_memory


@dataclass(frozen=True)
class Pushed:
    """The weights as leaves, outputs ``(b, c)`` and their derivative ``J v`` along one direction."""

    source: list[Tensor]
    outputs: Tensor
    tangent: Tensor


def push_forward(
    risk: EmpiricalRisk, inputs: Tensor, direction: Sequence[Tensor], *, with_graph: bool
) -> Pushed:
    """Outputs of a batch and their derivative along a parameter-shaped direction, in forward mode.

    With a graph the outputs are differentiable in the leaves.

    Raises:
        NotImplementedError: If a layer has no forward-mode derivative.
    """
    source = risk.leaves() if with_graph else [leaf.detach() for leaf in risk.leaves()]
    with forward_ad.dual_level(), nullcontext() if with_graph else torch.no_grad():
        duals = [forward_ad.make_dual(leaf, part) for leaf, part in zip(source, direction, strict=True)]
        outputs, tangent = forward_ad.unpack_dual(flat_rows(risk.forward(duals, inputs)))
    return Pushed(source, outputs, torch.zeros_like(outputs) if tangent is None else tangent.detach())


def has_forward_mode(risk: EmpiricalRisk) -> bool:
    """Whether every layer has a forward-mode derivative that agrees with the backward one.

    Args:
        risk: Empirical risk, on whose first point both are tried.
    """
    is_right = risk.routes.is_right
    if "forward mode" not in is_right:
        is_right["forward mode"] = _agrees_forward(risk)
    return is_right["forward mode"]


def _agrees_forward(risk: EmpiricalRisk) -> bool:
    inputs, _ = risk.points[[0]]
    leaves = risk.leaves()
    with torch.enable_grad():
        outputs = flat_rows(risk.forward(leaves, inputs))

    def push(direction: Sequence[Tensor]) -> Tensor:
        return push_forward(risk, inputs, direction, with_graph=False).tangent

    with warnings.catch_warnings():
        # The first forward-mode derivative imports decompositions that are deprecated inside torch itself.
        warnings.simplefilter("ignore", DeprecationWarning)
        return is_adjoint(push, outputs, leaves)


def is_adjoint(push: Callable[[Sequence[Tensor]], Tensor], outputs: Tensor, source: Sequence[Tensor]) -> bool:
    """Whether ``⟨u, J v⟩ = ⟨Jᵀ u, v⟩`` for a random ``u`` and a ``v`` in which every leaf counts alike.

    Args:
        push: Function that computes ``J v`` from one direction, shaped like the leaves.
        outputs: Outputs ``(b, c)`` with their graph.
        source: Leaves of the graph in which ``J`` is taken.

    Cost: one backward pass and one push.
    """
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(outputs.shape, generator=generator, dtype=torch.float64).to(outputs)
    pulled = [part[0] for part in pull_back([outputs], source, [u.unsqueeze(0)])]
    largest = max(float(part.norm()) for part in pulled)
    if not 0 < largest < float("inf"):
        pulled, largest = [torch.ones_like(leaf) for leaf in source], 1.0
    factors = 1 + torch.rand(len(pulled), generator=generator)
    direction = [
        float(factor) * part / (part.norm() ** 2 + (1e-3 * largest) ** 2)
        for factor, part in zip(factors, pulled, strict=True)
    ]
    terms = torch.stack([(part * along).sum() for part, along in zip(pulled, direction, strict=True)])
    try:
        pushed = (u * push(direction)).sum()
    except Exception as error:
        if is_out_of_memory(error):
            raise
        return False
    return agree([pushed], [terms.sum()], [terms.abs().sum()])
