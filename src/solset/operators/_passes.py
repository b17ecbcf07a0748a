"""Backward passes of many columns and products ``J v``, each by the fastest route that comes out right.

PyTorch vectorises a backward pass over its columns. For some functions, such as the double backward of
group normalisation, this raises an error or, where sizes coincide, gives wrong columns. So every kind of pass
is compared once with a single one, for each number of columns. Likewise ``J v`` goes through a kept graph, in
forward mode, or by rows where neither comes out right.
"""

import warnings
from collections.abc import Callable, Hashable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd import forward_ad

from solset.risk import EmpiricalRisk, Routes, flat_rows, is_out_of_memory


def pull_back(
    outputs: Sequence[Tensor],
    inputs: Sequence[Tensor],
    cotangents: Sequence[Tensor],
    routes: Routes | None = None,
) -> list[Tensor]:
    """``Σ_j (∂outputs_j/∂inputs)ᵀ cotangents_j`` for a block ``(k, *shape)`` of cotangents of each output.

    The graph is kept; an output that depends on no input counts as constant.

    Args:
        outputs: Tensors that are differentiated.
        inputs: Leaves in which they are differentiated.
        cotangents: Block of columns for each output.
        routes: Routes of the model, which remember what was compared; by default the comparison is made.

    Cost: one backward pass of ``k`` columns; one single column more at the first block of a kind.
    """
    k = cotangents[0].shape[0]
    live = [(out, block) for out, block in zip(outputs, cotangents, strict=True) if out.requires_grad]
    if not live:
        return [leaf.new_zeros(k, *leaf.shape) for leaf in inputs]
    tensors, blocks = [out for out, _ in live], [block for _, block in live]
    if k == 1:
        return [part.unsqueeze(0) for part in _single(tensors, inputs, [block[0] for block in blocks])]
    is_right = {} if routes is None else routes.is_right
    kind = _kind(tensors, inputs, k)
    if is_right.get(kind, True):
        try:
            parts = _batched(tensors, inputs, blocks)
            if kind not in is_right:
                is_right[kind] = _agrees(tensors, inputs, blocks, parts)
            if is_right[kind]:
                return parts
        except Exception as error:
            if is_out_of_memory(error):
                raise
            is_right[kind] = False
    columns = [_single(tensors, inputs, [block[j] for block in blocks]) for j in range(k)]
    return [torch.stack(parts) for parts in zip(*columns, strict=True)]


def _kind(outputs: Sequence[Tensor], inputs: Sequence[Tensor], k: int) -> Hashable:
    """What a comparison holds for: the functions and sizes at the ends of the graph, and the columns."""
    ends = tuple((type(out.grad_fn).__name__, tuple(out.shape)) for out in outputs)
    return "batched backward", k, ends, tuple(tuple(leaf.shape) for leaf in inputs)


def _single(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], cotangents: Sequence[Tensor]
) -> list[Tensor]:
    parts = torch.autograd.grad(outputs, inputs, cotangents, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(x) if part is None else part for x, part in zip(inputs, parts, strict=True)]


def _batched(outputs: Sequence[Tensor], inputs: Sequence[Tensor], blocks: Sequence[Tensor]) -> list[Tensor]:
    with warnings.catch_warnings():
        # Functions without a batching rule run in a loop: slow, and as correct as the others.
        warnings.filterwarnings("ignore", message="There is a performance drop", category=UserWarning)
        parts = torch.autograd.grad(
            outputs, inputs, blocks, retain_graph=True, allow_unused=True, is_grads_batched=True
        )
    k = len(blocks[0])
    return [x.new_zeros(k, *x.shape) if part is None else part for x, part in zip(inputs, parts, strict=True)]


def _agrees(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], blocks: Sequence[Tensor], parts: Sequence[Tensor]
) -> bool:
    """Whether a random combination of the columns is what a single pass gives for it."""
    generator = torch.Generator().manual_seed(0)
    k = len(blocks[0])
    if not all(bool(block.any()) for block in blocks):  # columns of zeros would be right on any route
        blocks = [torch.randn(block.shape, generator=generator).to(block) for block in blocks]
        parts = _batched(outputs, inputs, blocks)
    factors = torch.randn(k, generator=generator)
    together = [torch.tensordot(factors.to(block), block, dims=1) for block in blocks]
    single = _single(outputs, inputs, together)
    combined = [torch.tensordot(factors.to(part), part, dims=1) for part in parts]
    return agree(combined, single, [part.norm() * k**0.5 for part in parts])


def agree(first: Sequence[Tensor], second: Sequence[Tensor], sizes: Sequence[Tensor]) -> bool:
    """Whether two lists of tensors are equal up to rounding, tensor by tensor.

    Args:
        first: Tensors of one route.
        second: Tensors of the other route.
        sizes: Norm of the terms of each tensor; sums of them may cancel.
    """
    eps = torch.finfo(second[0].dtype).eps
    largest = max(float(size) for size in sizes)
    for a, b, size in zip(first, second, sizes, strict=True):
        if not bool(torch.isfinite(b).all()):
            continue  # neither route has a number there
        if not float((a - b).norm()) <= 1e4 * eps * float(size + b.norm()) + 100 * eps * largest:
            return False
    return True


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
    """Whether every layer has a forward-mode derivative that agrees with the backward one."""
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
