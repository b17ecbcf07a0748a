"""Every solver states its needs before anything is computed, and keeps to them."""

import pytest
import torch
from torch import Tensor

from solset.linalg import Counted, DenseOperator, NormalOperator
from solset.solvers import CG, LSMR, MINRES, Dense, Dual, FirstToConverge, LiSSA, Needs, Solver

ROOT = torch.randn(30, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
DEFINITE = ROOT.T @ ROOT + torch.eye(20, dtype=torch.float64)
RHS = torch.randn(20, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def counted(matrix: Tensor) -> Counted:
    return Counted(DenseOperator((matrix + matrix.T) / 2))


@pytest.mark.parametrize("solver", [CG(), MINRES(), LSMR(), LiSSA(), LiSSA(scale=100.0)], ids=repr)
def test_products_are_as_stated(solver: Solver):
    operator = counted(DEFINITE)
    needs = solver.plan(operator)
    assert operator.products == 0
    prepared = solver.prepare(operator)
    assert operator.products == needs.preparation
    solution = prepared.solve(RHS)
    taken = operator.products - needs.preparation
    assert solution.steps <= needs.max_steps
    # SciPy takes one product more to check its start, and each restart one or two.
    assert abs(taken - needs.products - needs.products_per_step * solution.steps) <= 4


def test_a_dense_matrix_is_written_out_with_as_many_products_as_stated():
    operator = counted(DEFINITE)
    needs = Dense().plan(operator)
    assert needs.memory == 3 * 8 * 20 * 20
    prepared = Dense().prepare(operator)
    assert operator.products == needs.preparation == 20
    prepared.solve(RHS)
    assert operator.products == 20 + needs.products


def test_the_needs_of_several_solvers_are_those_of_the_worst_case():
    operator, parts = counted(DEFINITE), (CG(max_steps=10), MINRES(max_steps=20))
    needs = FirstToConverge(parts).plan(operator)
    first, second = (part.plan(operator) for part in parts)
    assert needs.memory == max(first.memory, second.memory)
    assert needs.max_steps == 30
    assert needs.products == first.products + second.products


def test_the_gram_matrix_of_a_normal_operator_is_that_of_its_factor():
    rows = DenseOperator(ROOT.T.contiguous())
    assert Dual().plan(NormalOperator(rows, 0.1)) == Dual().plan(rows)
    assert isinstance(Dual().plan(rows), Needs)
