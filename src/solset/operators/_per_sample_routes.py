"""Three routes to the rows of a batch of points: layer rules, ``torch.func``, one point at a time."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor
from torch.func import vjp, vmap

from solset.operators._capture import Capture, Use
from solset.risk import EmpiricalRisk, flat_rows

Route = Callable[[EmpiricalRisk, Tensor, Tensor], Tensor]

# The windows of a few images stay in the cache. For 64 images at once, in the first stage of a ResNet,
# writing the windows takes four times as long as the product with them.
CHUNK_BYTES = 2 * 2**20

# Below this many numbers in one row of each point, calls cost more than arithmetic: one backward pass over
# k copies of the batch takes a third of the time of k passes (64-32-10, 20 to 100 points).
REPEATED_SIZE = 250_000


class NotCoveredError(Exception):
    """A use of the weights that the layer rules do not cover."""


def rows_by_rules(risk: EmpiricalRisk, inputs: Tensor, cotangents: Tensor) -> Tensor:
    """Rows ``(b, k, p)`` from the input of every layer and the gradient at its output.

    Raises:
        NotCoveredError: If a function without a rule uses a weight.
    """
    b, k, c = cotangents.shape
    if k > 1 and b * risk.layout.size <= REPEATED_SIZE:
        repeated = rows_by_rules(risk, inputs.repeat_interleave(k, 0), cotangents.reshape(b * k, 1, c))
        return repeated.reshape(b, k, -1)
    leaves = risk.leaves()
    with torch.enable_grad(), Capture(leaves, b) as capture:
        outputs = flat_rows(risk.forward(leaves, inputs))
    if capture.unruled:
        raise NotCoveredError(f"no rule for the weights' use in {', '.join(sorted(set(capture.unruled)))}")
    if not outputs.requires_grad:
        return risk.weights.new_zeros(b, k, risk.layout.size)
    rows = risk.weights.new_empty(b, k, risk.layout.size)
    sizes = [leaf.numel() for leaf in leaves]
    with _Sweeps(outputs, capture.uses) as sweeps:
        for j in range(k):
            sweeps.write(cotangents[:, j], rows[:, j].split(sizes, dim=1), is_last=j == k - 1)
    return rows


class _Sweeps:
    """Backward passes that turn the gradient at each layer into rows at once.

    If gradients were collected first, those of all layers would be in memory together; a plain backward pass
    uses the same memory again and again.
    """

    def __init__(self, outputs: Tensor, uses: Sequence[Use]) -> None:
        self._outputs = outputs
        self._ends = [use for use in uses if use.is_first]  # the engine stops there and returns gradients
        self._passed = [use for use in uses if not use.is_first]
        self._parts: Sequence[Tensor] = ()
        self._written: set[int] = set()

    def __enter__(self) -> "_Sweeps":
        self._handles = [use.edge.node.register_prehook(self._hook(use)) for use in self._passed]
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()

    def write(self, cotangent: Tensor, parts: Sequence[Tensor], *, is_last: bool) -> None:
        """Writes one row of every sample, ``(b, size)`` for each weight."""
        self._parts, self._written = parts, set()
        edges = [use.edge for use in self._ends]
        gradients = torch.autograd.grad(
            self._outputs, edges, cotangent, retain_graph=not is_last, allow_unused=True
        )
        for use, gradient in zip(self._ends, gradients, strict=True):
            self._add(use, gradient)
        for index in set(range(len(parts))) - self._written:
            parts[index].zero_()

    def _hook(self, use: Use) -> Callable[[tuple[Tensor, ...]], None]:
        return lambda gradients: self._add(use, gradients[use.edge.output_nr])

    def _add(self, use: Use, gradient: Tensor | None) -> None:
        if gradient is None:
            return
        for name, index in use.parameters.items():
            for chunk, part in _in_chunks(use, name, gradient):
                target = self._parts[index][chunk]
                rows = part.reshape(target.shape)
                target.add_(rows) if index in self._written else target.copy_(rows)
            self._written.add(index)


def _in_chunks(use: Use, name: str, gradient: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Gradients of a weight for a few samples at a time, so that they stay in the cache."""
    arguments, inputs = use.arguments, use.arguments["inputs"]
    count = max(1, CHUNK_BYTES // use.sample_bytes(name, gradient))
    for start in range(0, len(gradient), count):
        chunk = slice(start, start + count)
        part = inputs[chunk] if isinstance(inputs, Tensor) and len(inputs) == len(gradient) else inputs
        yield chunk, use.rule.parameters[name](gradient[chunk], {**arguments, "inputs": part})


def rows_by_vmap(risk: EmpiricalRisk, inputs: Tensor, cotangents: Tensor) -> Tensor:
    """Rows ``(b, k, p)`` by ``torch.func``: the vectorised pull-back of one point."""
    parameters = tuple(part.detach() for part in risk.layout.split(risk.weights))

    def rows_of(point: Tensor, block: Tensor) -> Tensor:
        def outputs_of(parts: tuple[Tensor, ...]) -> Tensor:
            return risk.forward(parts, point.unsqueeze(0)).reshape(-1)

        pull = vjp(outputs_of, parameters)[1]
        if len(block) == 1:
            return torch.cat([part.reshape(1, -1) for part in pull(block[0])[0]], dim=1)
        return torch.cat([flat_rows(part) for part in vmap(pull)(block)[0]], dim=1)

    with warnings.catch_warnings():
        # Functions without a batching rule run in a loop: slow, and as correct as the others.
        warnings.filterwarnings("ignore", message="There is a performance drop", category=UserWarning)
        return vmap(rows_of)(inputs, cotangents)


def rows_one_by_one(risk: EmpiricalRisk, inputs: Tensor, cotangents: Tensor) -> Tensor:
    """Rows ``(b, k, p)`` by plain ``torch.autograd``, one point after another."""
    rows = []
    for point, block in zip(inputs, cotangents, strict=True):
        leaves = risk.leaves()
        with torch.enable_grad():
            outputs = flat_rows(risk.forward(leaves, point.unsqueeze(0)))
        rows.append(torch.stack([pull_one(risk, outputs, leaves, u.unsqueeze(0)) for u in block]))
    return torch.stack(rows)


def pull_one(risk: EmpiricalRisk, outputs: Tensor, leaves: list[Tensor], cotangent: Tensor) -> Tensor:
    """The product ``Jᵀ u``, ``(p,)``, with ``u`` shaped like the outputs; the graph is kept."""
    if not outputs.requires_grad:
        return torch.zeros_like(risk.weights)
    parts = torch.autograd.grad(
        outputs, leaves, cotangent, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return risk.layout.join(parts)


ROUTES: Mapping[str, Route] = {
    "layer rules": rows_by_rules,
    "torch.func": rows_by_vmap,
    "one by one": rows_one_by_one,
}
