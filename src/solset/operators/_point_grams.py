"""Inner products of the rows of each point, summed layer by layer without writing a whole row."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from solset.operators._capture import Capture, Use
from solset.operators._layer_rules import convolution_weight
from solset.operators._per_sample_routes import CHUNK_BYTES, NotCoveredError
from solset.risk import EmpiricalRisk, flat_rows


@dataclass(frozen=True, eq=False, repr=False)
class PointGrams:
    """Inner products of the rows of each point of a batch, with ``k`` output combinations ``u`` each.

    Attributes:
        gram: Inner products ``(u_iᵀJ)(u_jᵀJ)ᵀ`` for each point, ``(b, k, k)`` in float64.
        pushed: Products ``u_iᵀ J v``, ``(b, k)`` in float64; zero without a ``v``.
        by_inputs: Rows ``u_iᵀ J_x`` for each point, ``(b, k, d)``.
    """

    gram: Tensor
    pushed: Tensor
    by_inputs: Tensor


def squares_by_rules(
    risk: EmpiricalRisk, inputs: Tensor, cotangents: Tensor, vector: Tensor | None
) -> PointGrams:
    """The inner products of each point's rows from the input of every layer and the gradient at its output.

    The backward pass takes all ``k`` combinations at once, as copies of the batch, so that a layer's rows of
    one point are multiplied while they are in the cache.

    Raises:
        NotCoveredError: If a function without a rule uses a weight, or a weight is used twice.

    Cost: one gradient of ``b·k`` points, memory for their activations, and the inner products.
    """
    b, k, c = cotangents.shape
    leaves = risk.leaves()
    copies, batch = risk.points.leaf(inputs.repeat_interleave(k, 0))
    with torch.enable_grad(), Capture(leaves, b * k) as capture:
        outputs = flat_rows(risk.forward(leaves, batch))
    used = [index for use in capture.uses for index in use.parameters.values()]
    if capture.unruled or len(set(used)) < len(used):
        raise NotCoveredError(
            f"no rule for {', '.join(sorted(set(capture.unruled)))}, or a weight used twice"
        )
    sums = _Sums(b, k, None if vector is None else risk.layout.split(vector), inputs.device)
    passed = [use for use in capture.uses if not use.is_first]
    handles = [use.edge.node.register_prehook(sums.hook(use)) for use in passed]
    try:
        by_inputs = sums.pull(outputs, copies, [use for use in capture.uses if use.is_first], cotangents)
    finally:
        for handle in handles:
            handle.remove()
    return PointGrams(sums.gram, sums.pushed, by_inputs.reshape(b, k, -1))


class _Sums:
    """Sums over layers; each layer is added as soon as the gradient at its output is computed."""

    def __init__(self, b: int, k: int, parts: list[Tensor] | None, device: torch.device) -> None:
        self._k, self._parts = k, parts
        self.gram = torch.zeros(b, k, k, dtype=torch.float64, device=device)
        self.pushed = torch.zeros(b, k, dtype=torch.float64, device=device)

    def pull(self, outputs: Tensor, copies: Tensor, ends: list[Use], cotangents: Tensor) -> Tensor:
        """The gradient in the inputs; also adds the first uses of weights, which no hook sees."""
        if not outputs.requires_grad:
            return torch.zeros_like(copies)
        targets = [copies, *(use.edge for use in ends)]
        flat = cotangents.reshape(len(outputs), -1)
        by_inputs, *gradients = torch.autograd.grad(outputs, targets, flat, allow_unused=True)
        for use, gradient in zip(ends, gradients, strict=True):
            self._add(use, gradient)
        return torch.zeros_like(copies) if by_inputs is None else by_inputs

    def hook(self, use: Use) -> Callable[[tuple[Tensor, ...]], None]:
        return lambda gradients: self._add(use, gradients[use.edge.output_nr])

    def _add(self, use: Use, gradient: Tensor | None) -> None:
        if gradient is None:
            return
        for name, index in use.parameters.items():
            self._add_weight(use, name, index, gradient)

    def _add_weight(self, use: Use, name: str, index: int, gradient: Tensor) -> None:
        """Adds the part of one weight, for a few points at a time and all their combinations."""
        k = self._k
        step = max(1, CHUNK_BYTES // (use.sample_bytes(name, gradient) * k))
        for start in range(0, len(self.gram), step):
            rows = _rows(use, name, gradient, slice(start * k, (start + step) * k), k).to(torch.float64)
            here = slice(start, start + step)
            self.gram[here] += rows @ rows.mT
            if self._parts is not None:
                self.pushed[here] += rows @ self._parts[index].reshape(-1).to(torch.float64)


def _rows(use: Use, name: str, gradient: Tensor, chunk: slice, k: int) -> Tensor:
    """The entries of one weight in the rows of some points, ``(points, k, size)``."""
    arguments, inputs, rule = use.arguments, use.arguments["inputs"], use.rule.parameters[name]
    part = gradient[chunk]
    if not (isinstance(inputs, Tensor) and len(inputs) == len(gradient)):
        rows = rule(part, arguments)
    elif rule is convolution_weight and arguments.get("groups", 1) == 1:
        # The copies of a point have the same windows, so that these are written once for all combinations.
        together = part.reshape(len(part) // k, k * part.shape[1], *part.shape[2:])
        rows = rule(together, {**arguments, "inputs": inputs[chunk][::k]})
    else:
        rows = rule(part, {**arguments, "inputs": inputs[chunk]})
    return rows.reshape(len(part) // k, k, -1)
