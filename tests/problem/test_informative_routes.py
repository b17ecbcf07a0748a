"""Where chosen rows do not do: too few allowed, no Gram matrix, contradictions, the choice of the map."""

import copy
import warnings

import pytest
import torch
from torch import Tensor, nn

from solset import Move, Problem, SolsetWarning
from solset.errors import Status
from solset.operators import InformativeRows, loss_curvature
from solset.solvers.filters import GradientFlow
from support.fitted import MOVED, NETS, N, Net, brute_force, direction, error, net


@pytest.fixture(params=NETS)
def fitted_net(request) -> Net:
    return net(request.param)


class TestAMostThatIsTooSmall:
    def started(self, fit: Net, tol: float) -> int:
        return int(fit.derivative(rows=InformativeRows(tol=tol)).reason.split()[2])

    def test_stops_the_growth_with_a_warning_that_names_the_residual(self, fitted_net):
        most = self.started(fitted_net, 1e-6) + 3
        D = fitted_net.derivative(rows=InformativeRows(tol=1e-6, max_rows=most))
        with pytest.warns(SolsetWarning, match=f"with {most} rows .* all 400 is ") as caught:
            v = D(fitted_net.dx).min_norm().value
        exact = brute_force(fitted_net, v)["residual"]
        assert not D.check.is_accurate
        assert D.check.rows == most
        assert D.check.residual == pytest.approx(exact, rel=1e-4)
        assert f" is {D.check.residual:.3g}, not 1e-06" in str(caught[0].message)
        assert f"InformativeRows.max_rows is {most}" in str(caught[0].message)

    def test_for_the_first_rows_is_refused_by_auto(self):
        fit = net("connected")
        D = fit.derivative(optimality="auto", rows=InformativeRows(tol=1e-2, max_rows=25))
        assert D.optimality == "stationary"
        assert "more than the 25 allowed" in D.reason


class TestMatrixFree:
    """More rows than allowed, asked for by name: LSMR on all rows, weighted as the check weighs them."""

    def derivative(self, fit: Net, tol: float = 0.05):
        return fit.derivative(rows=InformativeRows(tol=tol, max_rows=25))

    def weighted(self, fit: Net) -> tuple[Tensor, Tensor]:
        """``W J`` and ``W J_x Δx``, written out."""
        values, vectors = torch.linalg.eigh(loss_curvature(fit.problem().risk()))
        roots = (values.clamp_min(0) / values.max()).sqrt()
        roots[MOVED] = 1.0
        W = torch.block_diag(*((vectors * roots.unsqueeze(1)) @ vectors.mT))
        return W @ fit.J, W @ fit.answer.reshape(-1)

    def test_says_so(self):
        D = self.derivative(net("connected"))
        assert D.optimality == "interpolating"
        assert D.reason.startswith("interpolating by LSMR on all rows, weighted by the loss's curvature")
        assert "more than the 25 allowed" in D.reason
        assert D.plan == ""
        assert D.qualification.is_verified is None

    @pytest.mark.parametrize("tol", [0.1, 0.03])
    def test_solves_the_weighted_system_to_the_tolerance(self, fitted_net, tol):
        A, answer = self.weighted(fitted_net)
        found = self.derivative(fitted_net, tol)(fitted_net.dx).min_norm()
        residual = float((A @ found.value + answer).norm() / answer.norm())
        assert found.residual == pytest.approx(residual, rel=1e-5)
        assert residual <= tol
        exact = brute_force(fitted_net, found.value)
        assert exact["residual"] * float(fitted_net.answer.norm()) / float(answer.norm()) == pytest.approx(
            residual, rel=1e-5
        )

    def test_its_elements_are_as_long_as_those_on_chosen_rows_at_most_the_full_ones(self, fitted_net):
        v = self.derivative(fitted_net, 0.03)(fitted_net.dx).min_norm().value
        assert float(v.norm()) <= float(fitted_net.smallest.norm())

    def test_flow_elements_follow_training(self):
        fit = net("connected")
        flow = GradientFlow(steps=20, learning_rate=0.1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SolsetWarning)
            found = self.derivative(fit)(fit.dx).element(flow).value
            whole = fit.derivative()(fit.dx).element(flow).value
        assert error(found, whole) <= 1e-7

    def test_a_set_solved_to_the_tolerance_asked_for_is_not_called_empty(self):
        fit = net("connected")
        values = self.derivative(fit)(fit.dx)
        assert values.min_norm().status is Status.CONVERGED
        assert not values.is_empty()
        assert values.distance(values.min_norm().value) < float("inf")


class TestAuto:
    def budget(self) -> int:
        """A little less than what all rows and their Gram matrix take: 400 rows, 4154 weights."""
        return 8 * 400 * (2 * 400 + 2 * 4154) - 1

    def test_takes_all_rows_where_they_fit(self):
        D = net("connected").problem().derivative(points=MOVED)
        assert (D.optimality, D.plan, D.check) == ("interpolating", "", None)
        assert "the 400 rows of J are independent" in D.reason

    def test_takes_chosen_rows_where_all_do_not_fit_and_says_which(self):
        fit = net("connected")
        assert len(fit.smallest) == 4154
        D = fit.problem(memory_budget=self.budget()).derivative(points=MOVED)
        assert D.optimality == "interpolating"
        assert D.reason.startswith("interpolating on ")
        assert " of 400 rows: all 20 of the moved points" in D.reason
        v = D(fit.dx).min_norm()
        assert v.status is Status.CONVERGED
        assert (D.check.is_accurate, D.check.tol) == (True, InformativeRows().tol)
        expected = fit.derivative(rows=InformativeRows())(fit.dx).min_norm().value
        assert error(v.value, expected) <= 1e-9
        assert fit.problem(memory_budget=self.budget() + 1).derivative(points=MOVED).plan == ""

    def test_is_as_asked_for_with_rows(self):
        D = net("connected").derivative(optimality="auto", rows=InformativeRows(tol=1e-2))
        assert D.reason.startswith("interpolating on ")

    def test_is_kept_for_the_same_points(self, counted):
        problem = net("connected").problem(memory_budget=self.budget())
        first = problem.derivative(points=MOVED)
        before = sum(counted)
        second = problem.derivative(points=MOVED)
        problem.coderivative(points=MOVED)
        assert sum(counted) == before > 0
        dx = direction(4)
        assert torch.equal(first(dx).min_norm().value, second(dx).min_norm().value)

    def test_is_stationary_where_rows_in_use_depend_on_each_other(self):
        fit = net("connected")
        twice = [*range(N), MOVED[0]]
        problem = Problem(fit.model, nn.CrossEntropyLoss(), fit.inputs[twice], fit.labels[twice])
        D = problem.derivative(points=[MOVED[0], N], rows=InformativeRows())
        assert D.optimality == "stationary"
        assert "rows of J in use have numerical rank" in D.reason

    def test_of_an_unfitted_problem_is_stationary_whatever_rows_are_asked_for(self):
        fit = net("connected")
        wrong = (fit.labels + 1) % 10
        problem = Problem(fit.model, nn.CrossEntropyLoss(), fit.inputs, wrong, gradient_tol=float("inf"))
        D = problem.derivative(points=MOVED, rows=InformativeRows())
        assert D.optimality == "stationary"
        assert "not fitted" in D.reason
        with pytest.raises(ValueError, match="a fitted problem"):
            problem.derivative(points=MOVED, optimality="interpolating", rows=InformativeRows())


class TestContradiction:
    """Two equal points, one of which moves: no weights answer, and that is said."""

    def problem(self, fit: Net) -> tuple[Problem, int]:
        """With the least confident point twice, so that the loss feels both."""
        values = loss_curvature(fit.problem().risk()).diagonal(dim1=1, dim2=2).sum(dim=1)
        k = int(values.argmax())
        twice = [*range(N), k]
        return Problem(fit.model, nn.CrossEntropyLoss(), fit.inputs[twice], fit.labels[twice]), k

    def test_is_said_by_warning_status_emptiness_and_check(self, fitted_net):
        problem, _ = self.problem(fitted_net)
        D = problem.derivative(points=[N], optimality="interpolating", rows=InformativeRows())
        with pytest.warns(SolsetWarning, match="contradict each other"):
            values = D(fitted_net.dx[:1])
        assert values.min_norm().status is Status.INCONSISTENT
        assert values.is_empty()
        assert not D.check.is_accurate
        assert D.check.moved_residual > D.check.tol
        assert D.qualification.is_verified is False

    def test_is_none_where_both_move_alike(self, fitted_net):
        problem, k = self.problem(fitted_net)
        D = problem.derivative(points=[k, N], optimality="interpolating", rows=InformativeRows())
        values = D(fitted_net.dx[:1].repeat(2, 1))
        assert D.check.is_accurate
        assert not values.is_empty()

    def test_auto_never_hands_out_dependent_rows_as_verified(self, fitted_net):
        problem, _ = self.problem(fitted_net)
        for tol in (0.5, 0.1, 2e-3):
            D = problem.derivative(points=[N], rows=InformativeRows(tol=tol))
            if D.optimality == "interpolating":
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", SolsetWarning)
                    D(fitted_net.dx[:1])
                assert D.check.is_accurate or D.qualification.is_verified is False


class TestDuality:
    def test_coderivative_and_graphical_derivative_are_dual_on_chosen_rows(self, fitted_net):
        """``⟨q, D(Δx)⟩ = ⟨D*(q), Δx⟩`` for ``q`` in the span of the rows in use."""
        problem, options = fitted_net.problem(), {"points": MOVED, "optimality": "interpolating"}
        rows = InformativeRows(tol=1e-3)
        D = problem.derivative(rows=rows, **options)
        v = D(fitted_net.dx).min_norm().value
        q = D(direction(5)).min_norm().value
        found = problem.coderivative(rows=rows, **options)(q).min_norm()
        assert found.residual <= 1e-8
        assert float(q @ v) == pytest.approx(float(found.value @ fitted_net.dx.reshape(-1)), rel=1e-6)

    def test_a_weight_direction_off_the_rows_has_no_coderivative(self, fitted_net):
        options = {"points": MOVED, "optimality": "interpolating", "rows": InformativeRows(tol=1e-3)}
        q = torch.randn(
            fitted_net.J.shape[1], generator=torch.Generator().manual_seed(6), dtype=torch.float64
        )
        assert fitted_net.problem().coderivative(**options)(q).is_empty()

    def test_samples_lie_on_the_set_and_keep_the_rows_in_use(self, fitted_net):
        D = fitted_net.derivative(rows=InformativeRows(tol=1e-3))
        values = D(fitted_net.dx)
        smallest = values.min_norm().value
        radius = 3.0 * float(smallest.norm())
        for sample in values.sample(3, radius=radius, generator=torch.Generator().manual_seed(7)):
            assert values.contains(sample.value)
            assert sample.residual <= 1e-8
            assert float(sample.value.norm()) >= float(smallest.norm()) * (1 - 1e-9)
            kept = (fitted_net.J @ sample.value).reshape(N, 10) + fitted_net.answer
            assert float(kept[MOVED].norm()) <= 1e-6 * float(fitted_net.answer.norm())
        assert values.dimension == len(smallest) - D.check.rows

    def test_the_estimate_is_the_point_plus_the_derivative(self):
        fit, rows = net("connected"), InformativeRows(tol=1e-3)
        problem = fit.problem()
        estimate = problem.estimate(Move(MOVED, fit.dx), optimality="interpolating", rows=rows)
        v = fit.derivative(rows=rows)(fit.dx).min_norm().value
        torch.testing.assert_close(estimate.min_norm().value, problem.weights() + v, rtol=0, atol=1e-12)
        moved = copy.deepcopy(fit.inputs)
        moved[MOVED] += fit.dx
        with torch.no_grad():
            kept = estimate.min_norm().apply_to(fit.model)(moved[MOVED])
            before, without = fit.model(fit.inputs[MOVED]), fit.model(moved[MOVED])
        assert float((kept - before).norm()) <= 0.3 * float((without - before).norm())


def test_verified_is_not_said_of_a_set_that_leaves_rows_out():
    """With rows left out the formula set is larger than the derivative, however independent the rest is."""
    D = net("connected").derivative(rows=InformativeRows(tol=1e-2))
    assert D.qualification.is_verified is not True
