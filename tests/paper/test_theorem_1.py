"""Theorem 1: the graphical derivative and the coderivative, on matrices small enough to check by hand."""

import pytest
import torch
from torch import Tensor

from solset.derivatives import Coderivative, Constraint, GraphicalDerivative, Linearisation
from solset.linalg import DenseOperator, Space
from solset.problem import MAPS
from solset.solvers import LSMR, Dense, Dual, Solver

CPU = torch.device("cpu")


def tensor(values: list) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def linearisation(A: Tensor, C: Tensor, solver: Solver, optimality: str = "stationary") -> Linearisation:
    p, d = A.shape[1], C.shape[1]
    return Linearisation(
        constraint=Constraint(DenseOperator(A), solver),
        data=DenseOperator(C),
        data_space=Space("dx", (1, d), torch.float64, CPU),
        weight_space=Space("q", (p,), torch.float64, CPU),
        gradient=torch.zeros(p, dtype=torch.float64),
        map=MAPS[optimality],
        reason="given",
    )


SINGULAR_H = tensor([[2.0, 0.0], [0.0, 0.0]])
IN_RANGE_B = tensor([[4.0, -6.0], [0.0, 0.0]])
FULL_B = tensor([[4.0, 0.0], [0.0, 1.0]])
WIDE_J = tensor([[1.0, 0.0, 2.0], [0.0, 1.0, -1.0]])
WIDE_J_X = tensor([[1.0, 0.0], [3.0, 2.0]])
DEFICIENT_J = tensor([[1.0, 1.0, 0.0], [2.0, 2.0, 0.0]])
DEFICIENT_J_X = tensor([[1.0, 0.0], [2.0, 0.0]])
SOLVERS = [Dense(), LSMR(tol=1e-12)]


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
class TestGraphicalDerivative:
    def test_of_a_singular_hessian_is_a_line_along_its_kernel(self, solver):
        # 2 v₁ + 4 μ₁ - 6 μ₂ = 0 and v₂ is free.
        D = GraphicalDerivative(linearisation(SINGULAR_H, IN_RANGE_B, solver))
        answer = D(tensor([[1.0, 1.0]]))
        torch.testing.assert_close(answer.min_norm().value, tensor([1.0, 0.0]))
        assert answer.contains(tensor([1.0, -17.0]))
        assert not answer.contains(tensor([1.1, 0.0]))
        torch.testing.assert_close(answer.directions(tensor([[3.0], [5.0]])), tensor([[0.0], [5.0]]))

    def test_is_empty_where_the_mixed_term_leaves_the_range(self, solver):
        D = GraphicalDerivative(linearisation(SINGULAR_H, FULL_B, solver))
        missed = D(tensor([[3.0, 4.0]]))  # Bμ = (12, 4), of which (0, 4) is out of reach
        assert missed.is_empty()
        assert missed.min_norm().residual == pytest.approx(4.0 / 160.0**0.5)
        torch.testing.assert_close(missed.min_norm().value, tensor([-6.0, 0.0]))
        assert not D(tensor([[3.0, 0.0]])).is_empty()

    def test_of_an_invertible_hessian_is_the_influence_function(self, solver):
        H, B, dx = tensor([[2.0, 1.0], [1.0, -3.0]]), FULL_B, tensor([[0.5, -1.0]])
        answer = GraphicalDerivative(linearisation(H, B, solver))(dx)
        expected = -torch.linalg.solve(H, B @ dx.reshape(-1))
        for start in (torch.zeros(2, dtype=torch.float64), tensor([5.0, 5.0])):
            torch.testing.assert_close(answer.project(start).value, expected)

    def test_is_positively_homogeneous_and_zero_at_zero(self, solver):
        D = GraphicalDerivative(linearisation(WIDE_J, WIDE_J_X, solver))
        dx = tensor([[1.0, -2.0]])
        torch.testing.assert_close(D(3.0 * dx).min_norm().value, 3.0 * D(dx).min_norm().value)
        assert torch.equal(D(0.0 * dx).min_norm().value, torch.zeros(3, dtype=torch.float64))

    def test_of_rows_keeps_every_output(self, solver):
        dx = tensor([[1.0, -2.0]])
        answer = GraphicalDerivative(linearisation(WIDE_J, WIDE_J_X, solver, "interpolating"))(dx)
        for sample in answer.sample(3, radius=2.0, generator=torch.Generator().manual_seed(0)):
            kept = WIDE_J @ sample.value + WIDE_J_X @ dx.reshape(-1)
            torch.testing.assert_close(kept, torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-10)


@pytest.mark.parametrize("solver", [Dense(), Dual()], ids=repr)
class TestCoderivative:
    def test_is_a_single_point_where_the_rows_are_independent(self, solver):
        Dstar = Coderivative(linearisation(WIDE_J, WIDE_J_X, solver, "interpolating"))
        y = tensor([1.0, -2.0])
        answer = Dstar(-(WIDE_J.T @ y))
        assert answer.dimension == 0
        torch.testing.assert_close(answer.min_norm().value, WIDE_J_X.T @ y)
        torch.testing.assert_close(answer.project(tensor([9.0, 9.0])).value, WIDE_J_X.T @ y)

    def test_is_empty_outside_the_range_of_the_adjoint(self, solver):
        Dstar = Coderivative(linearisation(WIDE_J, WIDE_J_X, solver, "interpolating"))
        kernel = tensor([-2.0, 1.0, 1.0])
        torch.testing.assert_close(WIDE_J @ kernel, torch.zeros(2, dtype=torch.float64))
        assert Dstar(kernel).is_empty()
        assert not Dstar(WIDE_J[0]).is_empty()

    def test_at_zero_is_zero_alone_where_the_mordukhovich_criterion_holds(self, solver):
        zero = torch.zeros(3, dtype=torch.float64)
        # Aᵀy = 0 leaves y along (2, -1), which J_xᵀ sends to 0 here and to (1, 0) below.
        holds = Coderivative(linearisation(DEFICIENT_J, DEFICIENT_J_X, solver, "interpolating"))(zero)
        assert holds.contains(tensor([0.0, 0.0]))
        assert not holds.contains(tensor([1e-3, 0.0]))
        fails = Coderivative(
            linearisation(DEFICIENT_J, tensor([[1.0, 0.0], [1.0, 0.0]]), solver, "interpolating")
        )(zero)
        assert fails.contains(tensor([1.0, 0.0]))
        assert fails.contains(tensor([-40.0, 0.0]))
        assert not fails.contains(tensor([0.0, 1e-3]))

    def test_is_a_line_where_the_rows_depend_on_each_other(self, solver):
        C = tensor([[1.0, 0.0], [1.0, 1.0]])
        Dstar = Coderivative(linearisation(DEFICIENT_J, C, solver, "interpolating"))
        y = tensor([0.5, 1.0])
        answer = Dstar(-(DEFICIENT_J.T @ y))
        for t in (-3.0, 0.0, 2.0):
            assert answer.contains(C.T @ (y + t * tensor([2.0, -1.0])))
        assert not answer.contains(C.T @ y + tensor([1.0, 1.0]))
        # The line is x₀ + t (1, -1): projecting keeps the part along it.
        nearest = answer.project(tensor([4.0, 1.0])).value
        assert float((tensor([4.0, 1.0]) - nearest) @ tensor([1.0, -1.0])) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(
    ("A", "C"), [(WIDE_J, WIDE_J_X), (SINGULAR_H, IN_RANGE_B), (DEFICIENT_J, DEFICIENT_J_X)]
)
def test_the_two_derivatives_are_dual(A, C):
    # ⟨z, μ⟩ = ⟨yᵀC, μ⟩ = -⟨yᵀA, v⟩ = ⟨q, v⟩ for v ∈ DS(μ) and z ∈ D*S(q).
    line = linearisation(A, C, Dense())
    generator = torch.Generator().manual_seed(3)
    for _ in range(5):
        dx = torch.randn(1, C.shape[1], generator=generator, dtype=torch.float64)
        y = torch.randn(A.shape[0], generator=generator, dtype=torch.float64)
        q = -(A.T @ y)
        answer, dual = GraphicalDerivative(line)(dx), Coderivative(line)(q)
        v = answer.sample(1, radius=2.0, generator=generator)[0].value
        z = dual.sample(1, radius=2.0, generator=generator)[0].value
        assert float(z @ dx.reshape(-1)) == pytest.approx(float(q @ v), abs=1e-9)


@pytest.mark.parametrize(
    ("A", "optimality", "solver", "verified"),
    [
        (WIDE_J, "interpolating", Dense(), True),
        (WIDE_J, "interpolating", Dual(), True),
        (DEFICIENT_J, "interpolating", Dual(), False),
        (SINGULAR_H, "stationary", Dense(), None),
        (tensor([[2.0, 0.0], [0.0, 1.0]]), "stationary", Dense(), True),
        (WIDE_J, "interpolating", LSMR(), None),
    ],
)
def test_whether_equality_was_verified_travels_with_the_derivative(A, optimality, solver, verified):
    C = torch.ones(A.shape[0], 2, dtype=torch.float64)
    D = GraphicalDerivative(linearisation(A, C, solver, optimality))
    assert D.qualification.is_verified is verified
    assert D.qualification.reason
    assert (D.optimality, D.reason) == (optimality, "given")


def test_a_direction_of_another_shape_or_dtype_is_refused():
    line = linearisation(WIDE_J, WIDE_J_X, Dense())
    with pytest.raises(ValueError, match="dx"):
        GraphicalDerivative(line)(tensor([[1.0, 2.0, 3.0]]))
    with pytest.raises(ValueError, match="float64"):
        GraphicalDerivative(line)(torch.ones(1, 2))
    with pytest.raises(ValueError, match="finite"):
        Coderivative(line)(tensor([1.0, float("nan"), 0.0]))
