"""Per-sample gradients: rows of the Jacobian, for a batch of points at once."""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from math import prod
from typing import TypeVar

import torch
from torch import Tensor

from solset import comm
from solset.errors import bad_value
from solset.operators._graphs import saved_bytes
from solset.operators._passes import agree, pull_back
from solset.operators._per_sample_routes import ROUTES, NotCoveredError, pull_one
from solset.operators._point_grams import PointGrams, squares_by_rules
from solset.risk import EmpiricalRisk, Room, flat_rows, in_batches, is_out_of_memory, output_shape

Part = TypeVar("Part")

_PROBED = 3
FEW = 16  # rows up to which the definition costs less than a comparison of faster routes with it


class PerSampleGradients:
    """The gradients ``u_iᵀ J(x_i)`` of chosen output combinations, one per point of a batch.

    There are three routes, the fastest first. A route is used if it reproduces plain ``torch.autograd`` on a
    few points, else the next one is tried; 16 rows or fewer come one by one, unless a route was found before:

    - ``"layer rules"``: one forward pass and one backward pass of the whole batch in its activations, and for
      each layer the product of its input with the gradient at its output;
    - ``"torch.func"``: a vectorised pull-back, for networks that use weights in a function without a rule;
    - ``"one by one"``: one point after another, for networks that cannot be vectorised.

    Args:
        risk: Empirical risk at the point of linearisation; routes are compared on a few of its points.

    Cost: layer rules take about one gradient of the batch for all its rows, and memory for one backward pass
    and the rows, ``b·k·p`` numbers.

    Example:
        >>> from torch import nn
        >>> from solset import Problem
        >>> x, y = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.zeros(2, 1)
        >>> model = nn.Linear(2, 1, bias=False)
        >>> risk = Problem(model, nn.MSELoss(), x, y, gradient_tol=float("inf")).risk()
        >>> PerSampleGradients(risk).rows(x, torch.tensor([[1.0], [10.0]]))
        tensor([[ 1.,  2.],
                [30., 40.]])
    """

    def __init__(self, risk: EmpiricalRisk) -> None:
        self._risk = risk
        self._is_used_twice = False  # whether a weight is: then inner products of layers do not add up

    @property
    def method(self) -> str:
        """The route in use: ``"layer rules"``, ``"torch.func"`` or ``"one by one"``."""
        return next(name for name in ROUTES if name not in self._refused)

    @property
    def reason(self) -> str:
        """The reason for this route and against each faster one."""
        reasons = [f"{name}: {why}" for name, why in self._refused.items()]
        return "; ".join(reasons) or "agrees with torch.autograd on the points compared"

    def rows(self, inputs: Tensor, cotangents: Tensor) -> Tensor:
        """Row ``i`` is ``u_iᵀ J(x_i)``, in the order of the layout: ``(b, p)`` or ``(b, k, p)``.

        Args:
            inputs: Batch of inputs, ``(b, *input)``.
            cotangents: Output combinations ``u``, ``(b, c)`` for one row per point or ``(b, k, c)`` for ``k``
                rows from one forward pass.

        Raises:
            ValueError: If the cotangents do not fit the inputs and outputs.
        """
        self._check(inputs, cotangents)
        blocks = cotangents if cotangents.ndim == 3 else cotangents.unsqueeze(1)
        rows = self._rows(inputs.detach().clone(), blocks.detach())
        return rows if cotangents.ndim == 3 else rows.squeeze(1)

    def _rows(self, inputs: Tensor, blocks: Tensor) -> Tensor:
        """The rows by the first route that, for batches of this size, sums to a plain backward pass."""
        is_right, slow = self._risk.routes.is_right, list(ROUTES)[-1]
        if blocks.shape[0] * blocks.shape[1] <= FEW and "_refused" not in self.__dict__:
            return ROUTES[slow](self._risk, inputs, blocks)
        for name in ROUTES:
            key = ("rows", name, tuple(inputs.shape), blocks.shape[1], self._risk.layout.size)
            if name in self._refused or not is_right.get(key, True):
                continue
            try:
                rows = ROUTES[name](self._risk, inputs, blocks)
            except NotCoveredError as error:
                # The forward pass depends on the data: on the points compared it used no such function.
                self._refused[name] = str(error)
                continue
            except Exception as error:
                if name == slow or is_out_of_memory(error):
                    raise
                is_right[key] = False
                continue
            if key not in is_right:
                is_right[key] = name == slow or self._sums_right(inputs, blocks, rows)
            if is_right[key]:
                return rows
        raise AssertionError("the last route is the definition")

    def _sums_right(self, inputs: Tensor, blocks: Tensor, rows: Tensor) -> bool:
        """Whether a random combination of rows is one plain backward pass of the batch."""
        risk, leaves = self._risk, self._risk.leaves()
        with torch.enable_grad(), torch.random.fork_rng():
            outputs = flat_rows(risk.forward(leaves, inputs.clone()))
        generator = torch.Generator().manual_seed(0)
        factors = torch.randn(blocks.shape[:2], generator=generator).to(rows)
        plain = pull_one(risk, outputs, leaves, torch.einsum("bk,bkc->bc", factors, blocks))
        sizes = [prod(shape) for shape in risk.layout.shapes.values()]
        combined = torch.einsum("bk,bkp->p", factors, rows).split(sizes)
        terms = [part.norm() * len(rows) ** 0.5 for part in rows.split(sizes, dim=2)]
        return agree(combined, plain.split(sizes), terms)

    def squares(self, inputs: Tensor, cotangents: Tensor, vector: Tensor | None = None) -> PointGrams:
        """Inner products of the rows of each point, their products with a vector, and the rows of ``J_x``.

        Args:
            inputs: Batch of inputs, ``(b, *input)``.
            cotangents: Output combinations ``u``, ``(b, k, c)``.
            vector: Vector ``v``, ``(p,)``; products are 0 without one.

        Raises:
            ValueError: If the cotangents do not fit the inputs and outputs.

        Cost: one gradient of ``b·k`` points with layer rules, which write no rows; else the rows.
        """
        self._check(inputs, cotangents)
        if self.method == "layer rules" and not self._is_used_twice:
            try:
                return squares_by_rules(self._risk, inputs, cotangents, vector)
            except NotCoveredError:
                self._is_used_twice = True
        rows = self.rows(inputs, cotangents).to(torch.float64)
        pushed = torch.zeros(rows.shape[:2], dtype=torch.float64, device=rows.device)
        if vector is not None:
            pushed = rows @ vector.to(torch.float64)
        return PointGrams(rows @ rows.mT, pushed, self._by_inputs(inputs, cotangents))

    def rows_of(self, points: Sequence[int], cotangents: Tensor, *, at_once: int | None = None) -> Tensor:
        """The rows of points of the risk, named by index, with the work shared among processes.

        Args:
            points: Indices of points, ``(b,)``, not necessarily distinct.
            cotangents: Output combinations ``u``, as for :meth:`rows`.
            at_once: Number of points in a batch; all by default.
        """
        parts = list(self._shared(points, at_once, lambda places, x: self.rows(x, cotangents[places])))
        joined = parts[0] if len(parts) == 1 else torch.cat(parts) if parts else None
        return comm.join(joined, device=self._risk.weights.device)

    def squares_of(self, points: Sequence[int], cotangents: Tensor, vector: Tensor | None) -> PointGrams:
        """The inner products of points of the risk, named by index, with the work shared among processes.

        Args:
            points: Indices of points, ``(b,)``, not necessarily distinct.
            cotangents: Output combinations ``u``, ``(b, k, c)``.
            vector: Vector ``v``, ``(p,)``; products are 0 without one.
        """

        def squares(places: range, inputs: Tensor) -> PointGrams:
            return self.squares(inputs, cotangents[places], vector)

        parts = list(self._shared(points, None, squares))

        def joined(name: str) -> Tensor:
            tensors = [getattr(part, name) for part in parts]
            return comm.join(torch.cat(tensors) if tensors else None, device=self._risk.weights.device)

        return PointGrams(joined("gram"), joined("pushed"), joined("by_inputs"))

    def _shared(
        self, points: Sequence[int], at_once: int | None, work: Callable[[range, Tensor], Part]
    ) -> Iterator[Part]:
        """The results of ``work`` on this process's share of some points, batch by batch."""
        share = comm.share(len(points))

        def batch(places: range) -> Part:
            inputs, _ = self._risk.points[[points[place] for place in places]]
            return work(places, inputs)

        return in_batches(share, at_once or max(len(share), 1), Room(), batch)

    def _by_inputs(self, inputs: Tensor, cotangents: Tensor) -> Tensor:
        """The rows ``u_iᵀ J_x`` by one backward pass each, ``(b, k, d)``."""
        risk = self._risk
        leaf, batch = risk.points.leaf(inputs)
        with torch.enable_grad():
            outputs = flat_rows(risk.forward(risk.layout.split(risk.weights), batch))
        blocks = cotangents.movedim(1, 0).contiguous()
        rows = [flat_rows(pull_back([outputs], [leaf], [block.unsqueeze(0)])[0][0]) for block in blocks]
        return torch.stack(rows, dim=1)

    def batch_for(self, memory_budget: int, *, cotangents: int = 1) -> int:
        """The number of points whose rows fit the budget at once, at least one.

        Args:
            memory_budget: Bytes for activations, their gradients and the rows.
            cotangents: Number ``k`` of rows per point; 1 by default.
        """
        row = self._risk.layout.size * self._risk.weights.element_size()
        return max(1, memory_budget // max(1, self._activation_bytes + 2 * cotangents * row))

    @cached_property
    def _activation_bytes(self) -> int:
        """Bytes for the activations of one point (two points less one) and for the gradients in them."""
        pair = self._probed_inputs[:2]

        def saved(count: int) -> int:
            leaves = self._risk.leaves()
            with torch.enable_grad(), torch.random.fork_rng():
                return saved_bytes(lambda: self._risk.forward(leaves, pair[:count]))

        return 2 * max(0, saved(2) - saved(1))

    @cached_property
    def _probed_inputs(self) -> Tensor:
        """A few inputs, repeated if there are too few: a batch of one hides the batch dimension."""
        n = len(self._risk.points)
        inputs, _ = self._risk.points[[round(i * (n - 1) / (_PROBED - 1)) for i in range(_PROBED)]]
        return inputs

    def _check(self, inputs: Tensor, cotangents: Tensor) -> None:
        if cotangents.ndim not in {2, 3} or cotangents.shape[0] != len(inputs) or len(inputs) == 0:
            raise bad_value(
                "cotangents",
                expected=f"of shape ({len(inputs)}, c) or ({len(inputs)}, k, c), with at least one point",
                got=tuple(cotangents.shape),
                cure="Give one output combination per point, or k of them.",
            )
        outputs = prod(output_shape(self._risk))
        if cotangents.shape[-1] != outputs:
            raise bad_value(
                "cotangents",
                expected=f"one number for each of the {outputs} outputs",
                got=tuple(cotangents.shape),
                cure="Flatten the outputs of a point.",
            )

    @cached_property
    def _truth(self) -> tuple[Tensor, Tensor]:
        """Random cotangents of the points compared, and their rows by plain ``torch.autograd``.

        All rows come from one graph, so that a rectifier at zero is on the same side as for the layer rules.
        """
        risk, leaves = self._risk, self._risk.leaves()
        with torch.enable_grad(), torch.random.fork_rng():
            outputs = flat_rows(risk.forward(leaves, self._probed_inputs.clone()))
        generator = torch.Generator().manual_seed(0)
        drawn = torch.randn(outputs.shape, generator=generator, dtype=torch.float64).to(outputs)
        with torch.enable_grad():  # a row is a view, which has a graph only where gradients are on
            each = outputs.split(1)
        single = [pull_one(risk, row, leaves, drawn[i : i + 1]) for i, row in enumerate(each)]
        return drawn, torch.stack(single)

    @cached_property
    def _refused(self) -> dict[str, str]:
        """The reason against each route before the first that agrees; the last route is the definition."""
        drawn, expected = self._truth
        refused: dict[str, str] = {}
        for name in list(ROUTES)[:-1]:
            try:
                with torch.random.fork_rng():
                    rows = ROUTES[name](self._risk, self._probed_inputs.clone(), drawn.unsqueeze(1))
            except NotCoveredError as error:
                refused[name] = str(error)
                continue
            except Exception as error:  # plain autograd raised nothing, so the route is at fault
                refused[name] = f"{type(error).__name__}: {error}".splitlines()[0]
                continue
            if self._agree(rows.squeeze(1), expected):
                break
            refused[name] = "rows differ from torch.autograd"
        return refused

    def _agree(self, rows: Tensor, expected: Tensor) -> bool:
        """Whether rows are equal up to rounding, parameter by parameter.

        Two sums of N numbers in different order differ by about ``√N`` units in the last place, and no sum is
        longer than a row; the error of a wrong rule is as large as the parameter's gradient. The second term
        covers gradients that cancel to zero, such as a bias before a normalisation.
        """
        eps = torch.finfo(expected.dtype).eps
        sizes = [prod(shape) for shape in self._risk.layout.shapes.values()]
        floor = 100 * eps * expected.norm()
        pairs = zip(rows.split(sizes, dim=1), expected.split(sizes, dim=1), strict=True)
        return all(
            bool((row - true).norm() <= 100 * eps * expected.shape[1] ** 0.5 * true.norm() + floor)
            for row, true in pairs
        )
