"""Affine sets and affine images, against bases and projectors written out."""

from math import inf, sqrt

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from solset import AffineSet, SolsetWarning
from solset.errors import Status
from solset.linalg import DenseOperator, NormalOperator
from solset.sets import TrainingFlow, affine_image
from solset.solvers import LSMR, Dense, Dual, Prepared
from solset.solvers.filters import GradientFlow, MinimumNorm, RankCut, Tikhonov

SOLVERS = [LSMR(tol=1e-12), Dense(), Dual()]


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=rng(seed), dtype=torch.float64)


MATRIX = normal(3, 7, seed=1)
SINGULAR = torch.cat([MATRIX, MATRIX[:1] + MATRIX[1:2]])
RHS = normal(3, seed=2)
REFERENCE = normal(7, seed=3)


def affine(solver, matrix: Tensor = MATRIX, rhs: Tensor = RHS, reference: Tensor = REFERENCE) -> AffineSet:
    return AffineSet(solver.prepare(DenseOperator(matrix)), rhs, reference)


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
@pytest.mark.parametrize(
    ("matrix", "rhs"),
    [(MATRIX, RHS), (SINGULAR, torch.cat([RHS, RHS[:1] + RHS[1:2]]))],
    ids=["full", "singular"],
)
class TestProjection:
    def test_lies_in_the_set_and_is_nearest(self, solver, matrix, rhs):
        line = affine(solver, matrix, rhs)
        point = normal(7, seed=4)
        nearest = line.project(point)
        torch.testing.assert_close(matrix @ (nearest.value - REFERENCE), rhs, rtol=0, atol=1e-10)
        # Nearest: what is left is normal to the direction space, so it lies in the range of Aᵀ.
        left = point - nearest.value
        off = left - torch.linalg.pinv(matrix) @ (matrix @ left)
        assert float(off.norm()) <= 1e-10
        assert (nearest.status, nearest.residual <= 1e-10) == (Status.CONVERGED, True)

    def test_is_idempotent(self, solver, matrix, rhs):
        line = affine(solver, matrix, rhs)
        once = line.project(normal(7, seed=4)).value
        torch.testing.assert_close(line.project(once).value, once, rtol=0, atol=1e-10)

    def test_minimum_norm_is_the_projection_of_the_reference(self, solver, matrix, rhs):
        line = affine(solver, matrix, rhs)
        smallest = line.min_norm().value
        torch.testing.assert_close(smallest, line.project(REFERENCE).value, rtol=0, atol=1e-10)
        torch.testing.assert_close(smallest, REFERENCE + torch.linalg.pinv(matrix) @ rhs, rtol=0, atol=1e-10)

    def test_distance_is_that_of_the_projection(self, solver, matrix, rhs):
        line = affine(solver, matrix, rhs)
        assert line.distance(REFERENCE) == pytest.approx(
            float((torch.linalg.pinv(matrix) @ rhs).norm()), abs=1e-10
        )

    def test_samples_satisfy_the_equation(self, solver, matrix, rhs):
        line = affine(solver, matrix, rhs)
        samples = line.sample(5, radius=2.0, generator=rng(5))
        assert len(samples) == 5
        for sample in samples:
            torch.testing.assert_close(matrix @ (sample.value - REFERENCE), rhs, rtol=0, atol=1e-9)
            assert line.contains(sample.value)
        assert float((samples[0].value - samples[1].value).norm()) > 1e-3

    def test_directions_are_the_kernel_part(self, solver, matrix, rhs):
        block = normal(7, 4, seed=6)
        directions = affine(solver, matrix, rhs).directions(block)
        expected = block - torch.linalg.pinv(matrix) @ (matrix @ block)
        torch.testing.assert_close(directions, expected, rtol=0, atol=1e-10)

    def test_contains_its_elements_and_nothing_off_them(self, solver, matrix, rhs):
        line = affine(solver, matrix, rhs)
        element = line.min_norm().value
        along = line.directions(normal(7, 1, seed=7)).squeeze(1)
        assert line.contains(element + 3.0 * along)
        assert not line.contains(element + 1e-6 * matrix[0])


def test_samples_repeat_with_their_seed_and_stay_within_reach():
    line = affine(Dense())
    first, second = (line.sample(4, radius=0.5, generator=rng(8)) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a.value, b.value)
        assert float((a.value - line.min_norm().value).norm()) <= 0.5


@pytest.mark.parametrize(
    "arguments", [{"k": 0, "radius": 1.0}, {"k": 2, "radius": 0.0}, {"k": 2, "radius": -1.0}]
)
def test_impossible_samples_are_refused(arguments):
    with pytest.raises(ValueError, match="must be"):
        affine(Dense()).sample(arguments["k"], radius=arguments["radius"], generator=rng(0))


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
class TestEmpty:
    def inconsistent(self, solver) -> AffineSet:
        rhs = torch.cat([RHS, RHS[:1] + RHS[1:2] + 1.0])
        return affine(solver, SINGULAR, rhs)

    def test_says_so_and_is_infinitely_far(self, solver):
        empty = self.inconsistent(solver)
        assert empty.is_empty()
        assert empty.distance(REFERENCE) == inf
        assert not empty.contains(empty.min_norm().value)

    def test_still_gives_the_least_squares_element_with_its_residual(self, solver):
        empty = self.inconsistent(solver)
        smallest = empty.min_norm()
        expected = torch.linalg.pinv(SINGULAR, rtol=1e-10) @ empty.rhs
        torch.testing.assert_close(smallest.value, REFERENCE + expected, rtol=0, atol=1e-9)
        left = float((SINGULAR @ expected - empty.rhs).norm() / empty.rhs.norm())
        assert smallest.residual == pytest.approx(left, rel=1e-8)
        assert empty.project(REFERENCE + 1.0).residual == pytest.approx(left, rel=1e-8)
        assert smallest.status is Status.INCONSISTENT

    def test_the_tolerance_is_relative_to_the_right_hand_side(self, solver):
        empty = self.inconsistent(solver)
        residual = empty.min_norm().residual
        assert empty.is_empty(residual * 0.999)
        assert not empty.is_empty(residual * 1.001)


@pytest.mark.parametrize("solver", [LSMR(), Dense(), Dual()], ids=repr)
def test_rounding_in_float32_does_not_empty_a_set(solver):
    matrix = torch.diag(torch.tensor([1.0, 30.0, 1000.0])) @ normal(3, 7, seed=21).to(torch.float32)
    rhs = matrix @ normal(7, seed=22).to(torch.float32)
    line = affine(solver, matrix, rhs, torch.zeros(7))
    assert not line.is_empty()
    assert line.distance(torch.zeros(7)) == pytest.approx(
        float((torch.linalg.pinv(matrix) @ rhs).norm()), rel=1e-3
    )
    missed = affine(solver, torch.cat([matrix, matrix[2:]]), torch.cat([rhs, 1.01 * rhs[2:]]), torch.zeros(7))
    assert missed.is_empty()


def test_a_zero_right_hand_side_is_the_kernel_itself():
    kernel = affine(Dual(), rhs=torch.zeros(3, dtype=torch.float64))
    assert torch.equal(kernel.min_norm().value, REFERENCE)
    assert (kernel.min_norm().residual, kernel.is_empty()) == (0.0, False)


def test_dimension():
    assert affine(Dense()).dimension == 4
    assert affine(Dual(), SINGULAR, torch.zeros(4, dtype=torch.float64)).dimension == 4
    with pytest.raises(ValueError, match="Use Dense or Dual"):
        _ = affine(LSMR()).dimension


def test_translate_moves_set_and_reference():
    line, shift = affine(Dense()), normal(7, seed=9)
    layout = {"weight": torch.Size([7])}
    moved = line.translate(shift, layout)
    point = normal(7, seed=10)
    torch.testing.assert_close(moved.project(point + shift).value, line.project(point).value + shift)
    torch.testing.assert_close(moved.reference, REFERENCE + shift)
    assert set(moved.min_norm().as_parameters()) == {"weight"}


def test_a_point_of_another_space_is_refused():
    with pytest.raises(ValueError, match=r"of shape \(7,\)"):
        affine(Dense()).project(torch.zeros(6, dtype=torch.float64))


class TestElement:
    @pytest.mark.parametrize("solver", [Dense(), Dual()], ids=repr)
    @pytest.mark.parametrize("choice", [Tikhonov(0.3), RankCut(0.4), GradientFlow(20, 0.05)], ids=repr)
    def test_filters_act_on_its_own_system(self, solver, choice):
        values, vectors = torch.linalg.eigh(MATRIX @ MATRIX.T)
        phi = choice(values, torch.ones(3, dtype=torch.bool))
        expected = REFERENCE + MATRIX.T @ (vectors @ (phi * (vectors.T @ RHS)))
        element = affine(solver).element(choice)
        torch.testing.assert_close(element.value, expected, rtol=0, atol=1e-11)
        short = float((MATRIX @ (expected - REFERENCE) - RHS).norm() / RHS.norm())
        assert element.residual == pytest.approx(short, rel=1e-8)

    def test_by_default_the_one_of_minimum_norm(self):
        line = affine(Dense())
        assert torch.equal(line.element().value, line.min_norm().value)
        assert torch.equal(line.element(MinimumNorm()).value, line.min_norm().value)

    def trained(self, gradient: Tensor) -> AffineSet:
        weights = torch.diag(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
        system = Dense().prepare(DenseOperator(weights @ MATRIX))
        training = TrainingFlow(lambda: system, lambda: weights @ RHS, gradient)
        return AffineSet(Dense().prepare(DenseOperator(MATRIX)), RHS, REFERENCE, training=training)

    def test_filters_act_on_the_flow_of_training_where_there_is_one(self):
        line = self.trained(torch.zeros(7, dtype=torch.float64))
        rows = torch.diag(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)) @ MATRIX
        targets = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64) * RHS
        change = torch.zeros(7, dtype=torch.float64)
        for _ in range(15):
            change = change - 0.002 * rows.T @ (rows @ change - targets)
        torch.testing.assert_close(
            line.element(GradientFlow(15, 0.002)).value, REFERENCE + change, rtol=0, atol=1e-12
        )
        plain = affine(Dense()).min_norm().value
        torch.testing.assert_close(line.min_norm().value, plain, rtol=0, atol=1e-12)

    def test_warns_when_the_leftover_gradient_moves_the_weights_as_much(self):
        line = self.trained(torch.ones(7, dtype=torch.float64))
        with pytest.warns(SolsetWarning, match="training had not stopped"):
            line.element(GradientFlow(15, 0.002))

    def test_a_small_leftover_gradient_is_silent(self):
        line = self.trained(torch.full((7,), 1e-6, dtype=torch.float64))
        assert line.element(GradientFlow(15, 0.002)).status is Status.CONVERGED


class TestAffineImage:
    generators = normal(5, 3, seed=11) @ torch.diag(torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64))
    point = normal(5, seed=12)

    def test_a_single_point(self):
        single = affine_image(self.point, None)
        assert single.dimension == 0
        torch.testing.assert_close(single.project(normal(5, seed=13)).value, self.point)
        torch.testing.assert_close(single.min_norm().value, self.point)
        assert single.distance(self.point + torch.eye(5, dtype=torch.float64)[0]) == pytest.approx(1.0)
        assert single.contains(self.point)

    def test_the_image_of_a_subspace(self):
        image = affine_image(self.point, DenseOperator(self.generators))
        anywhere = normal(5, seed=14)
        coordinates = torch.linalg.pinv(self.generators, rtol=1e-10) @ (anywhere - self.point)
        expected = self.point + self.generators @ coordinates
        torch.testing.assert_close(image.project(anywhere).value, expected, rtol=0, atol=1e-9)
        assert image.contains(self.point + self.generators @ normal(3, seed=15))
        assert not image.contains(anywhere)
        assert image.distance(anywhere) == pytest.approx(float((anywhere - expected).norm()), abs=1e-9)

    def test_its_minimum_norm_element_is_orthogonal_to_the_generators(self):
        smallest = affine_image(self.point, DenseOperator(self.generators)).min_norm().value
        assert float((self.generators.T @ smallest).norm()) <= 1e-9

    def test_its_samples_are_its_points(self):
        image = affine_image(self.point, DenseOperator(self.generators))
        assert all(image.contains(s.value) for s in image.sample(3, radius=1.0, generator=rng(16)))

    def test_inherits_emptiness_from_what_it_is_an_image_of(self):
        empty = affine_image(self.point, DenseOperator(self.generators), defect=0.3)
        assert empty.is_empty()
        assert empty.distance(self.point) == inf
        assert empty.min_norm().residual == pytest.approx(0.3)
        assert empty.project(self.point).residual == pytest.approx(0.3)


@settings(max_examples=40, deadline=None)
@given(m=st.integers(1, 4), p=st.integers(2, 6), seed=st.integers(0, 9_999))
def test_projection_does_not_expand(m, p, seed):
    matrix = normal(m, p, seed=seed)
    line = affine(Dense(), matrix, matrix @ normal(p, seed=seed + 1), normal(p, seed=seed + 2))
    a, b = normal(p, seed=seed + 3), normal(p, seed=seed + 4)
    moved = float((line.project(a).value - line.project(b).value).norm())
    assert moved <= float((a - b).norm()) * (1 + 1e-10)
    assert float((line.project(a).value - line.project(line.project(a).value).value).norm()) <= 1e-9


def test_a_set_behind_a_normal_operator():
    # AᵀA v = Aᵀb has the solutions of A v = b.
    factor = DenseOperator(MATRIX)
    both = [
        AffineSet(Dual().prepare(NormalOperator(factor)), MATRIX.T @ RHS, REFERENCE),
        affine(Dual()),
    ]
    point = normal(7, seed=17)
    torch.testing.assert_close(both[0].project(point).value, both[1].project(point).value, rtol=0, atol=1e-9)
    assert both[0].dimension == both[1].dimension == 4


def test_closed_form_of_a_line():
    line = affine(Dense(), torch.tensor([[3.0, 4.0]]), torch.tensor([5.0]), torch.zeros(2))
    assert line.distance(torch.zeros(2)) == pytest.approx(1.0)
    assert line.distance(torch.tensor([2.0, 0.0])) == pytest.approx(0.2, rel=1e-5)
    assert float(line.project(torch.tensor([3.0, 4.0])).value.norm()) == pytest.approx(1.0, rel=1e-5)
    along = line.directions(torch.tensor([[4.0], [-3.0]])).squeeze(1)
    assert float(along.norm()) == pytest.approx(sqrt(25.0), rel=1e-5)


def test_printing_a_set_solves_nothing():
    class Unsolved(Prepared):
        def solve(self, rhs):
            raise AssertionError

        filtered = curvature = solve

    system = Unsolved()
    assert (
        repr(AffineSet(system, torch.ones(2), torch.zeros(7))) == "AffineSet(in R^7, dimension not computed)"
    )


def test_a_solved_set_prints_its_dimension():
    line = AffineSet(
        Dense().prepare(DenseOperator(torch.tensor([[3.0, 4.0]]))), torch.ones(1), torch.zeros(2)
    )
    line.min_norm()
    assert repr(line) == "AffineSet(in R^2, dimension 1)"
    matrix_free = AffineSet(LSMR().prepare(DenseOperator(torch.eye(2))), torch.ones(2), torch.zeros(2))
    matrix_free.min_norm()
    assert repr(matrix_free) == "AffineSet(in R^2, dimension not known to the solver)"
