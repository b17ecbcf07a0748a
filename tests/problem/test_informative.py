"""The interpolating map on chosen rows: checked against all rows, and against dense linear algebra."""

import copy
import warnings

import pytest
import torch
from torch import nn

from solset import Problem, SolsetWarning
from solset.operators import InformativeRows
from solset.outofcore import DiskDual
from solset.solvers import Dual
from solset.solvers.filters import GradientFlow, Tikhonov
from support.fitted import (
    MOVED,
    NETS,
    TOLS,
    N,
    Net,
    brute_force,
    direction,
    error,
    net,
    solved,
)


@pytest.fixture(params=NETS)
def fitted_net(request) -> Net:
    return net(request.param)


@pytest.mark.parametrize("tol", TOLS)
class TestTheCheck:
    def test_reaches_the_tolerance_asked_for(self, fitted_net, tol):
        check, _ = solved(fitted_net, tol)
        assert check.is_accurate
        assert check.residual <= tol == check.tol
        assert check.rows < check.all_rows == 10 * N

    def test_is_what_the_definition_gives(self, fitted_net, tol):
        check, v = solved(fitted_net, tol)
        exact = brute_force(fitted_net, v)
        assert check.residual == pytest.approx(exact["residual"], rel=1e-3, abs=1e-9)
        assert check.unit_residual == pytest.approx(exact["unit_residual"], rel=1e-5)
        assert check.risk_rise == pytest.approx(exact["risk_rise"], rel=1e-2, abs=1e-20)
        assert check.moved_residual <= 1e-8
        assert exact["moved_residual"] <= 1e-8

    def test_its_solution_is_the_projection_of_the_one_on_all_rows(self, fitted_net, tol):
        """On the span of the rows in use: so it is never longer, and what is missing is orthogonal to it."""
        (_, v), whole = solved(fitted_net, tol), fitted_net.smallest
        assert float(v.norm()) <= float(whole.norm()) * (1 + 1e-9)
        assert abs(float(v @ (whole - v))) <= 1e-5 * float(whole @ whole)


def test_the_moved_points_residual_is_seen_where_it_is_not_zero():
    """A loose rank tolerance cuts directions of the moved points; the check says by how much they miss."""
    fit = net("connected")
    D = fit.derivative(rows=InformativeRows(tol=1e-2), solver=Dual(rank_tolerance=0.02))
    with pytest.warns(SolsetWarning, match="contradict each other"):
        v = D(fit.dx).min_norm().value
    exact = brute_force(fit, v)
    assert exact["moved_residual"] > 1e-2
    assert not D.check.is_accurate
    assert D.check.moved_residual == pytest.approx(exact["moved_residual"], rel=1e-6)
    assert D.check.residual == pytest.approx(exact["residual"], rel=1e-6)


def test_every_row_more_makes_the_solution_longer_and_nearer_to_the_one_on_all_rows(fitted_net):
    """It is the projection of that one on a larger span."""
    D, generator = fitted_net.derivative(rows=InformativeRows(tol=0.1)), torch.Generator().manual_seed(8)
    selection, whole = D._source, fitted_net.smallest
    lengths, distances = [], []
    D(fitted_net.dx)
    for count in (0, 1, 5, 20, 60):
        left_out = (~selection.choice.taken).flatten().nonzero().flatten()
        if count:
            selection._add(left_out[torch.randperm(len(left_out), generator=generator)[:count]])
        v = D(fitted_net.dx).min_norm().value
        lengths.append(float(v.norm()))
        distances.append(float((v - whole).norm()))
    assert lengths == sorted(lengths)
    assert distances == sorted(distances, reverse=True)
    assert lengths[-1] <= float(whole.norm())


def test_the_finer_the_tolerance_the_nearer_to_the_full_route(fitted_net):
    whole = fitted_net.smallest
    assert error(fitted_net.derivative()(fitted_net.dx).min_norm().value, whole) <= 1e-6
    coarse, fine = (solved(fitted_net, tol)[1] for tol in (1e-1, 1e-8))
    assert error(fine, whole) < error(coarse, whole)
    assert coarse.norm() < fine.norm() <= whole.norm() * (1 + 1e-9)


def test_with_every_row_in_it_is_the_full_route(fitted_net):
    D = fitted_net.derivative(rows=InformativeRows(tol=1e-9))
    D(fitted_net.dx)
    selection = D._source
    left_out = (~selection.choice.taken).flatten().nonzero().flatten()
    assert len(left_out) > 0
    selection._add(left_out)
    assert error(D(fitted_net.dx).min_norm().value, fitted_net.smallest) <= 1e-5
    flow, damped = GradientFlow(steps=50, learning_rate=0.1), Tikhonov(1e-6)
    full = fitted_net.derivative()(fitted_net.dx)
    for choice in (flow, damped):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SolsetWarning)  # the leftover gradient is not the matter here
            assert error(D(fitted_net.dx).element(choice).value, full.element(choice).value) <= 1e-6


def test_flow_elements_are_those_of_the_full_route_where_the_loss_feels_every_row(fitted):
    problem = fitted.problem()
    dx = torch.randn(2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    D = problem.derivative(points=[1, 4], optimality="interpolating", rows=InformativeRows(tol=0.01))
    full = problem.derivative(points=[1, 4], optimality="interpolating")
    choices = (GradientFlow(steps=200, learning_rate=0.02), Tikhonov(1e-3), None)
    for choice in choices:
        assert error(D(dx).element(choice).value, full(dx).element(choice).value) <= 1e-10
    assert (D.check.rows, D.check.all_rows, D.check.discarded) == (12, 12, 0.0)


def test_flow_elements_tend_to_those_of_the_full_route(fitted_net):
    flow = GradientFlow(steps=50, learning_rate=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SolsetWarning)
        whole = fitted_net.derivative()(fitted_net.dx).element(flow).value
        errors = [
            error(
                fitted_net.derivative(rows=InformativeRows(tol=tol))(fitted_net.dx).element(flow).value, whole
            )
            for tol in (1e-1, 1e-3, 1e-6)
        ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] <= 1e-4


class TestRows:
    def test_nothing_is_computed_before_the_first_direction(self, counted):
        D = net("connected").derivative(rows=InformativeRows(tol=1e-2))
        assert " rows of " in D.plan
        assert "all 20 of the moved points" in D.reason
        assert counted == []

    @pytest.mark.parametrize("tol", [1e-2, 1e-6])
    def test_each_is_computed_once_even_while_they_grow(self, counted, tol):
        fit = net("connected")
        D = fit.derivative(rows=InformativeRows(tol=tol))
        started = int(D.reason.split()[2])
        D(fit.dx).min_norm()
        assert D.check.rows > started
        assert sum(counted) == D.check.rows

    def test_none_is_computed_for_further_directions_elements_and_samples(self, counted):
        fit = net("connected")
        D = fit.derivative(rows=InformativeRows(tol=1e-4))
        D(fit.dx)
        before = sum(counted)
        for seed in (1, 2):
            D(direction(seed)).min_norm()
        estimate = D(direction(3))
        estimate.sample(2, radius=1.0, generator=torch.Generator().manual_seed(0))
        estimate.element(Tikhonov(1e-6))
        assert sum(counted) == before

    def test_only_new_ones_are_computed_to_verify_another_direction(self, counted):
        fit = net("connected")
        D = fit.derivative(rows=InformativeRows(tol=1e-3))
        D(fit.dx)
        before = D.check.rows
        check = D.verify(direction(1))
        assert check.is_accurate
        assert check == D.check
        assert sum(counted) == check.rows >= before
        v = D(direction(1)).min_norm().value
        again = D.verify(direction(1))
        assert again.rows == check.rows
        assert again.residual == pytest.approx(check.residual, rel=1e-6)
        assert torch.equal(D(direction(1)).min_norm().value, v)

    def test_the_zero_direction_asks_for_nothing(self, counted):
        fit = net("connected")
        D = fit.derivative(rows=InformativeRows(tol=1e-3))
        still = D(torch.zeros_like(fit.dx))
        assert (D.check, counted) == (None, [])
        assert torch.equal(still.min_norm().value, torch.zeros_like(fit.smallest))
        assert D.verify(torch.zeros_like(fit.dx)).residual == 0.0

    def test_on_all_rows_there_is_nothing_to_verify(self):
        fit = net("connected")
        D = fit.derivative()
        assert (D.check, D.plan) == (None, "")
        with pytest.raises(ValueError, match="its whole constraint"):
            D.verify(fit.dx)

    @pytest.mark.parametrize("tol", [1e-1, 1e-3])
    def test_kept_on_the_disk_they_give_the_same(self, tmp_path, counted, tol):
        fit, settings = net("connected"), InformativeRows(tol=tol)
        kept = fit.derivative(rows=settings)
        v = kept(fit.dx).min_norm().value
        m, p = kept.check.rows, len(v)
        counted.clear()
        solver = DiskDual(memory_budget=24 * m * (m + p) - 1, folder=tmp_path, is_equilibrated=True)
        D = fit.derivative(rows=settings, solver=solver)
        assert error(D(fit.dx).min_norm().value, v) <= 1e-10
        assert "on the disk" in D.plan
        assert len(list(tmp_path.iterdir())) == 1
        assert sum(counted) == D.check.rows == m

    def test_computed_anew_they_give_the_same(self):
        fit, settings = net("connected"), InformativeRows(tol=1e-2)
        v = fit.derivative(rows=settings)(fit.dx).min_norm().value
        D = fit.derivative(rows=settings, solver=Dual(memory_budget=10**6, is_equilibrated=True))
        assert "for the Gram matrix and once more a product" in D.plan
        assert error(D(fit.dx).min_norm().value, v) <= 1e-10

    def test_the_model_is_not_changed(self):
        fit = net("convolutional")
        before = copy.deepcopy(fit.model.state_dict())
        state = torch.get_rng_state()
        fit.derivative(rows=InformativeRows(tol=1e-3))(fit.dx).min_norm()
        assert all(torch.equal(before[name], value) for name, value in fit.model.state_dict().items())
        assert torch.equal(torch.get_rng_state(), state)
        assert all(part.grad is None or part.requires_grad for part in fit.model.parameters())

    def test_in_float32_the_check_holds(self):
        fit = net("connected")
        problem = Problem(
            copy.deepcopy(fit.model).float(), nn.CrossEntropyLoss(), fit.inputs.float(), fit.labels
        )
        D = problem.derivative(points=MOVED, optimality="interpolating", rows=InformativeRows(tol=1e-3))
        v = D(fit.dx.float()).min_norm().value
        assert D.check.is_accurate
        exact = brute_force(fit, v.double())
        assert D.check.residual == pytest.approx(exact["residual"], rel=0.05)
        assert exact["moved_residual"] <= 1e-4
