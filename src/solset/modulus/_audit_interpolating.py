"""The left sides of every point for the interpolating map, joint through one Gram matrix or isolated."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from solset.changes import Move, PointsChange
from solset.errors import bad_type, bad_value
from solset.linalg import LeftSide, default_tolerance
from solset.operators import InputJacobian, PerSampleGradients, PointGrams
from solset.problem import Interpolating, Problem
from solset.risk import EmpiricalRisk

SHARE = 0.25  # share of the memory budget that a batch of points may take


@dataclass(frozen=True)
class Constraints:
    """The Gram matrix of all rows, and its decomposition as each point sees it."""

    side: LeftSide  # Decomposition of all rows
    gram: Tensor  # Gram matrix ``JJᵀ`` in float64, ``(m, m)``
    tolerance: float  # Relative size up to which an eigenvalue counts as zero
    outputs: int  # Number of outputs of each point, ``c``
    doubt: str = ""  # Sentence that says why the rank of the rows is not known; empty where it is

    @classmethod
    def of(cls, problem: Problem) -> "Constraints":
        """From the Gram matrix that the problem keeps, made now if there is none.

        Raises:
            ValueError: If all rows of ``J`` do not fit the memory budget.
        """
        rows = problem.point_count * problem.output_count
        if not problem.gram_fits:
            raise bad_value(
                "joint",
                expected=f"False for {rows} rows of J, whose Gram matrix does not fit the memory budget",
                got=True,
                cure="Leave it out, or raise memory_budget.",
            )
        system = problem.derivative(optimality=Interpolating()).linearisation.gram_side()
        side = None if system is None else system.left_side()
        if system is None or system.gram is None or side is None:
            raise bad_type("solver", expected="Dual", got="none with a Gram matrix", cure="Leave it out.")
        return cls(side, system.gram, system.tolerance, problem.output_count, system.doubt)

    def joint(self, points: Sequence[int]) -> LeftSide:
        """All constraints, as seen at the rows of each of some points."""
        rows = torch.arange(len(self.gram), device=self.gram.device).reshape(-1, self.outputs)
        return self.side.at(rows[list(points)])

    def isolated(self, points: Sequence[int]) -> LeftSide:
        """The constraint of each of some points by itself."""
        return LeftSide.of_gram(self.squares(points), self.tolerance)

    def squares(self, points: Sequence[int]) -> Tensor:
        """``J_k J_kᵀ`` of some points, ``(b, c, c)``."""
        n, c = len(self.gram) // self.outputs, self.outputs
        return self.gram.reshape(n, c, n, c)[points, :, points]


@dataclass(frozen=True)
class IsolatedRows:
    """Points by themselves, from their own rows: no Gram matrix of all."""

    risk: EmpiricalRisk  # Empirical risk at the trained point
    outputs: int  # Number of outputs of each point, ``c``
    memory_budget: int  # Number of bytes for rows

    @cached_property
    def _rows(self) -> PerSampleGradients:
        return PerSampleGradients(self.risk)

    @cached_property
    def at_once(self) -> int:
        """Points of a batch: the ``c`` copies of each that are pulled back together make up a batch."""
        fitting = self._rows.batch_for(int(SHARE * self.memory_budget), cotangents=self.outputs)
        return max(1, min(self.risk.batch_size // self.outputs, fitting))

    def squares(self, points: Sequence[int], vector: Tensor | None) -> PointGrams:
        """``J_k J_kᵀ``, ``J_k v`` and ``J_{x,k}`` of some points from the same passes."""
        c, weights = self.outputs, self.risk.weights
        unit = torch.eye(c, dtype=weights.dtype, device=weights.device).expand(len(points), c, c)
        return self._rows.squares_of(points, unit, vector)

    def side(self, gram: Tensor) -> LeftSide:
        """The left sides of points from their ``J_k J_kᵀ``, ``(b, c, c)``."""
        noise = torch.finfo(self.risk.weights.dtype).eps ** 1.5
        tolerance = max(noise, default_tolerance((self.outputs, self.outputs), torch.float64))
        return LeftSide.of_gram(gram, tolerance)


def data_blocks(
    risk: EmpiricalRisk, change: PointsChange, points: Sequence[int]
) -> Iterator[tuple[list[int], Tensor]]:
    """Batches of points and the derivative of their outputs in the change in float64, ``(b, c, d)``."""
    for start in range(0, len(points), risk.batch_size):
        batch = list(points[start : start + risk.batch_size])
        if isinstance(change, Move):
            yield batch, InputJacobian(risk, batch, memory_budget=0).blocks().to(torch.float64)
            continue
        operator = replace(change, points=batch).of_outputs(risk, 0)
        outputs = operator.shape[0] // len(risk.points)
        # The blocks of different points have no row in common: one product reads a row of each.
        rows = torch.eye(outputs, dtype=operator.dtype, device=operator.device).repeat(len(risk.points), 1)
        yield batch, (operator.T @ rows).reshape(len(batch), -1, outputs).mT.to(torch.float64)
