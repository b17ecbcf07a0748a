"""The blocks of every point for the interpolating map, joint through one Gram matrix or isolated."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from solset.errors import bad_type, bad_value
from solset.linalg import LeftSide, LinearOperator, default_tolerance
from solset.modulus._blocks import PointBlocks, isolated_blocks
from solset.operators import InputJacobian, PerSampleGradients, PointGrams
from solset.problem import Interpolating, Problem
from solset.risk import EmpiricalRisk

SHARE = 0.25  # of the memory budget that a batch of points may take


@dataclass(frozen=True)
class Constraints:
    """The Gram matrix of all rows, and what every point's block of its inverse says.

    Attributes:
        rows: ``J``, as the problem keeps it.
        gram: ``JJᵀ`` in float64, ``(m, m)``.
        tolerance: Relative size below which an eigenvalue counts as zero.
        outputs: ``c``.
    """

    rows: LinearOperator
    gram: Tensor
    tolerance: float
    outputs: int

    @classmethod
    def of(cls, problem: Problem) -> "Constraints":
        """From the Gram matrix that the problem keeps, made now if there is none.

        Args:
            problem: The trained point.

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
        system = problem.graphical_derivative(optimality=Interpolating()).linearisation.system.gram_side()
        if system is None or system.gram is None:
            raise bad_type("solver", expected="Dual", got="none with a Gram matrix", cure="Leave it out.")
        return cls(system.operator, system.gram, system.tolerance, problem.output_count)

    @cached_property
    def side(self) -> LeftSide:
        """Its decomposition."""
        return LeftSide.of_gram(self.gram, self.tolerance).refined(self.rows)

    def solve(self, rhs: Tensor) -> Tensor:
        """``(JJᵀ)⁺ b`` of one right-hand side, ``(n, c)``."""
        half = self.side.half
        return (half.T @ (half @ rhs.reshape(-1))).reshape(-1, self.outputs)

    def joint(self, chosen: Sequence[int], data: Tensor) -> PointBlocks:
        """The blocks of some points where all constraints hold.

        Args:
            chosen: Which points.
            data: Their ``J_x``, ``(b, c, d)``.
        """
        m, c, rank = len(self.gram), self.outputs, self.side.rank
        half = self.side.half.reshape(rank, m // c, c)[:, chosen]
        kernel = self.side.kernel.reshape(m // c, c, m - rank)
        return PointBlocks(
            inverse=torch.einsum("rbi,rbj->bij", half, half),
            kernel=kernel[chosen],
            data=data,
            scale=self.side.scale.reshape(m // c, c)[chosen],
            resolution=self.side.resolution,
        )

    def isolated(self, chosen: Sequence[int], data: Tensor) -> PointBlocks:
        """The blocks of some points by themselves."""
        n, c = len(self.gram) // self.outputs, self.outputs
        squares = self.gram.reshape(n, c, n, c)[chosen, :, chosen]
        return isolated_blocks(squares, data, self.tolerance)


@dataclass(frozen=True)
class IsolatedRows:
    """Points by themselves, from their own rows: no Gram matrix of all.

    Args:
        risk: At the trained point.
        outputs: ``c``.
        memory_budget: Bytes for rows.
    """

    risk: EmpiricalRisk
    outputs: int
    memory_budget: int

    @cached_property
    def _rows(self) -> PerSampleGradients:
        return PerSampleGradients(self.risk)

    @cached_property
    def at_once(self) -> int:
        """Points of a batch: the ``c`` copies of each that are pulled back together make up a batch."""
        fitting = self._rows.batch_for(int(SHARE * self.memory_budget), cotangents=self.outputs)
        return max(1, min(self.risk.batch_size // self.outputs, fitting))

    def squares(self, chosen: Sequence[int], vector: Tensor | None) -> PointGrams:
        """``J_k J_kᵀ``, ``J_k g`` and ``J_{x,k}`` from the same passes.

        Args:
            chosen: Which points.
            vector: ``g``, ``(p,)``, if wanted.
        """
        c, weights = self.outputs, self.risk.weights
        unit = torch.eye(c, dtype=weights.dtype, device=weights.device).expand(len(chosen), c, c)
        return self._rows.squares_of(chosen, unit, vector)

    @property
    def tolerance(self) -> float:
        """Relative size of an eigenvalue of ``J_k J_kᵀ`` that counts as zero."""
        noise = torch.finfo(self.risk.weights.dtype).eps ** 1.5
        return max(noise, default_tolerance((self.outputs, self.outputs), torch.float64))


def data_blocks(risk: EmpiricalRisk, chosen: Sequence[int]) -> Iterator[tuple[list[int], Tensor]]:
    """Batches of points and their ``J_x`` in float64, ``(b, c, d)``.

    Args:
        risk: At the trained point.
        chosen: ``K``.
    """
    for start in range(0, len(chosen), risk.batch_size):
        own = list(chosen[start : start + risk.batch_size])
        yield own, InputJacobian(risk, own, memory_budget=0).blocks().to(torch.float64)


def joint_moduli(problem: Problem, points: Sequence[int]) -> Tensor:
    """The modulus of each point where the constraints of all hold, ``(|K|,)``.

    Args:
        problem: The trained point.
        points: ``K``.
    """
    constraints = Constraints.of(problem)
    parts = [constraints.joint(k, x).sensitivity().modulus for k, x in data_blocks(problem.risk(), points)]
    return torch.cat(parts)


def isolated_moduli(problem: Problem, points: Sequence[int]) -> Tensor:
    """The modulus of each point with its own constraint alone, ``(|K|,)``.

    Args:
        problem: The trained point.
        points: ``K``.
    """
    rows = IsolatedRows(problem.risk(), problem.output_count, problem.memory_budget)
    found = []
    for start in range(0, len(points), rows.at_once):
        own = rows.squares(points[start : start + rows.at_once], None)
        blocks = isolated_blocks(own.gram, own.by_inputs.to(torch.float64), rows.tolerance)
        found.append(blocks.sensitivity().modulus)
    return torch.cat(found)
