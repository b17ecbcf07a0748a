"""One table of linear systems and solvers, shared by the conformance tests."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from solset.linalg import DenseOperator, LinearOperator, NormalOperator
from solset.outofcore import DiskDual, gram_solver
from solset.solvers import CG, LSMR, MINRES, Dense, Dual, FirstToConverge, LiSSA, RowPlan, Solver

TIGHT = 1e-12


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def orthogonal(size: int, seed: int) -> Tensor:
    return torch.linalg.qr(torch.randn(size, size, generator=rng(seed), dtype=torch.float64))[0]


def symmetric(eigenvalues: list[float], seed: int = 1) -> Tensor:
    U = orthogonal(len(eigenvalues), seed)
    matrix = (U * torch.tensor(eigenvalues, dtype=torch.float64)) @ U.T
    return (matrix + matrix.T) / 2


def rectangular(m: int, p: int, singular: list[float], seed: int = 2) -> Tensor:
    r = len(singular)
    return (orthogonal(m, seed)[:, :r] * torch.tensor(singular, dtype=torch.float64)) @ orthogonal(
        p, seed + 1
    )[:, :r].T


DEFINITE = symmetric([0.5, 1.0, 1.5, 2.0, 3.0, 4.0])
SEMIDEFINITE = symmetric([0.0, 0.0, 0.5, 1.0, 2.0, 4.0])
INDEFINITE = symmetric([-2.0, -0.5, 0.0, 0.0, 1.0, 3.0])
REGULAR_INDEFINITE = symmetric([-2.0, -0.5, 1.0, 1.5, 2.0, 3.0])
WIDE = rectangular(4, 9, [0.5, 1.0, 2.0, 3.0])
WIDE_SINGULAR = rectangular(4, 9, [0.5, 1.0, 2.0])
TALL = rectangular(9, 4, [0.5, 1.0, 2.0, 3.0])
TALL_SINGULAR = rectangular(9, 4, [0.5, 2.0])


class Watched(LinearOperator):
    """Rows known by their products that keep a list of the ones that were asked for."""

    def __init__(self, matrix: Tensor, fails_at: int | None = None) -> None:
        super().__init__((matrix.shape[0], matrix.shape[1]), matrix.dtype, matrix.device)
        self._matrix, self.fails_at, self.asked = matrix, fails_at, []

    def _apply(self, block: Tensor) -> Tensor:
        return self._matrix @ block

    def _apply_transposed(self, block: Tensor) -> Tensor:
        return self._matrix.T @ block

    def rows(self, start: int, stop: int) -> Tensor:
        if self.fails_at is not None and stop > self.fails_at:
            raise KeyboardInterrupt
        self.asked += range(start, stop)
        return self._matrix[start:stop]


@dataclass(frozen=True)
class Case:
    name: str
    operator: Callable[[torch.dtype], LinearOperator]

    def matrix(self) -> Tensor:
        return self.operator(torch.float64).to_dense()


def dense(name: str, matrix: Tensor) -> Case:
    return Case(name, lambda dtype: DenseOperator(matrix.to(dtype)))


def normal(name: str, factor: Tensor, damping: float) -> Case:
    return Case(name, lambda dtype: NormalOperator(DenseOperator(factor.to(dtype)), damping))


POSITIVE = [
    dense("definite", DEFINITE),
    dense("semidefinite", SEMIDEFINITE),
    normal("normal, wide factor", WIDE, 0.0),
    normal("normal, singular factor", WIDE_SINGULAR, 0.0),
    normal("normal, damped", WIDE_SINGULAR, 0.3),
    normal("normal, tall factor", TALL, 0.1),
]
NORMAL = POSITIVE[2:]
SIGNED = [dense("indefinite", INDEFINITE), dense("regular indefinite", REGULAR_INDEFINITE)]
ROWS = [
    dense("wide", WIDE),
    dense("wide singular", WIDE_SINGULAR),
    dense("tall", TALL),
    dense("tall singular", TALL_SINGULAR),
    Case("wide, not stored", lambda dtype: NormalFree(WIDE.to(dtype))),
]


class NormalFree(LinearOperator):
    """Rows known only by their products."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__((matrix.shape[0], matrix.shape[1]), matrix.dtype, matrix.device)
        self._matrix = matrix

    def _apply(self, block: Tensor) -> Tensor:
        return self._matrix @ block

    def _apply_transposed(self, block: Tensor) -> Tensor:
        return self._matrix.T @ block


_SPILL = tempfile.TemporaryDirectory(prefix="solset-tests-")


@dataclass(frozen=True)
class Tiled(DiskDual):
    """``DiskDual`` with its Gram matrix on the disk, in tiles so small that any matrix has several."""

    folder: Path = Path(_SPILL.name)
    side: int = 3

    def plan(self, operator: LinearOperator) -> RowPlan:
        m, p = operator.shape
        return RowPlan(rows=m, columns=p, place="disk", sweeps=1.0, note="asked for", side=self.side)


class Sized(LinearOperator):
    """Rows known by their sizes only."""

    def _apply(self, block: Tensor) -> Tensor:
        raise AssertionError("a plan asks for sizes, not for products")

    _apply_transposed = _apply


def plan_rows(
    shape: tuple[int, int], dtype: torch.dtype, *, memory_budget: int, folder: Path | None = None
) -> RowPlan:
    """The plan for rows of these sizes, with a folder on the disk or without one."""
    return gram_solver(memory_budget, folder).plan(Sized(shape, dtype, torch.device("cpu")))


SOLVERS: dict[str, tuple[Solver, list[Case]]] = {
    "LSMR": (LSMR(tol=TIGHT), POSITIVE + SIGNED + ROWS),
    "MINRES": (MINRES(tol=TIGHT), POSITIVE + SIGNED),
    "CG": (CG(tol=TIGHT), POSITIVE),
    "LiSSA": (LiSSA(tol=TIGHT, max_steps=1000), [POSITIVE[0], POSITIVE[1], POSITIVE[4]]),
    "Dense": (Dense(tol=1e-11), POSITIVE + SIGNED + ROWS),
    "Dual": (Dual(tol=1e-11), NORMAL + ROWS),
    "Dual, on the disk": (Tiled(tol=1e-11), NORMAL + ROWS),
    "CG, then MINRES": (FirstToConverge((CG(tol=TIGHT), MINRES(tol=TIGHT))), POSITIVE + SIGNED),
    "LSMR twice": (FirstToConverge((LSMR(tol=TIGHT, max_steps=1), LSMR(tol=TIGHT))), ROWS),
}
MINIMUM_NORM_ONLY: set[str] = set()  # solvers of the table that refuse every other filter
TABLE = [
    pytest.param(solver, case, id=f"{name}: {case.name}")
    for name, (solver, cases) in SOLVERS.items()
    for case in cases
]
RANK_DEFICIENT = {
    "semidefinite",
    "normal, wide factor",
    "normal, singular factor",
    "indefinite",
    "wide singular",
    "tall",
    "tall singular",
}
INCONSISTENT = [param for param in TABLE if param.values[1].name in RANK_DEFICIENT]


def consistent_rhs(matrix: Tensor, columns: tuple[int, ...] = (), seed: int = 7) -> Tensor:
    return matrix @ torch.randn(matrix.shape[1], *columns, generator=rng(seed), dtype=torch.float64)
