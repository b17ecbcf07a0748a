"""The inverse on informative rows: exact with all of them, a good preconditioner with few."""

import pytest
import torch

from solset.errors import Status
from solset.linalg import Counted
from solset.operators import GaussNewton, Hessian, InformativeInverse, OutputCurvature, loss_curvature
from solset.solvers import CG


def test_with_all_rows_it_is_the_inverse_of_the_gauss_newton_matrix(case):
    risk = case.risk(weight_decay=0.1)
    inverse = InformativeInverse(risk, [0, 3], discard=0.0, memory_budget=2**30)
    dense = torch.linalg.inv(GaussNewton(risk).to_dense())
    torch.testing.assert_close(inverse.to_dense(), dense, rtol=1e-8, atol=1e-8)


def test_with_few_rows_it_still_saves_products(isolated_net):
    case, weight_decay = isolated_net
    risk = case.risk(weight_decay=weight_decay)
    inverse = InformativeInverse(risk, [0, 3], discard=0.3, memory_budget=2**30)
    assert inverse.count < 12
    assert float(torch.linalg.eigvalsh(inverse.to_dense())[0]) > 0
    rhs, counts = torch.ones(len(risk.weights), dtype=torch.float64), []
    for preconditioner in (None, inverse):
        hessian = Counted(Hessian(risk))
        found = CG(tol=1e-8, preconditioner=preconditioner).solve(hessian, rhs)
        assert found.status is Status.CONVERGED
        counts.append(hessian.products)
    assert counts[1] <= counts[0]


def test_needs_weight_decay(case):
    with pytest.raises(ValueError, match="weight_decay"):
        InformativeInverse(case.risk(), [0], memory_budget=2**30)


def test_the_curvature_of_known_outputs_needs_no_network(case):
    risk = case.risk()
    outputs = risk.outputs()
    assert torch.equal(loss_curvature(risk, outputs), loss_curvature(risk))
    elsewhere = risk.at(torch.zeros_like(risk.weights))
    torch.testing.assert_close(loss_curvature(elsewhere, outputs), loss_curvature(risk))
    assert torch.equal(OutputCurvature.of(risk, outputs).values, OutputCurvature.of(risk).values)
