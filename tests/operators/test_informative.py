"""Which rows of the Jacobian are chosen, and that each is ``uᵀ J_i``."""

import pytest
import torch
from torch import Tensor, nn

from solset import Problem
from solset.operators import (
    CurvatureRoot,
    DirectionalJacobian,
    DirectionSelector,
    InformativeRows,
    Jacobian,
    OutputCurvature,
    OutputDirections,
    choose_directions,
    directions_to_add,
    loss_curvature,
    weighted_squares,
)
from solset.risk import EmpiricalRisk

N, C = 7, 4
GRAPHS = 2**20


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_curvature(n: int = N, c: int = C) -> OutputCurvature:
    """Blocks whose eigenvalues lie between 1e-8 and 1."""
    vectors = torch.linalg.qr(torch.randn(n, c, c, generator=rng(0), dtype=torch.float64))[0]
    return OutputCurvature(10 ** (-8 * torch.rand(n, c, generator=rng(1), dtype=torch.float64)), vectors)


def constant_curvature(n: int = N, c: int = C) -> OutputCurvature:
    return OutputCurvature(torch.full((n, c), 0.25).double(), torch.eye(c).double().expand(n, c, c).clone())


class TestTheCurvature:
    def test_is_that_of_the_loss(self, case):
        risk = case.risk()
        found = OutputCurvature.of(risk)
        blocks = (found.vectors * found.values.unsqueeze(1)) @ found.vectors.mT
        torch.testing.assert_close(blocks, loss_curvature(risk), rtol=0, atol=1e-14)
        assert bool((found.values >= 0).all())
        assert (found.values.dtype, found.vectors.dtype) == (torch.float64, torch.float64)

    def test_is_in_float64_for_a_float32_net(self, build_case):
        found = OutputCurvature.of(build_case("tanh-ce-mean").to(torch.float32).risk())
        assert (found.values.dtype, found.vectors.dtype) == (torch.float64, torch.float64)

    def test_importance_is_relative_to_the_largest(self):
        curvature = random_curvature()
        assert float(curvature.importance.max()) == 1.0
        torch.testing.assert_close(curvature.importance * curvature.values.max(), curvature.values)

    def test_of_a_loss_without_curvature_every_direction_is_as_important(self):
        curvature = OutputCurvature(torch.zeros(N, C).double(), random_curvature().vectors)
        assert torch.equal(curvature.importance, torch.ones(N, C).double())


@pytest.mark.parametrize("discard", [0.0, 1e-9, 1e-4, 0.1, 0.5, 0.999])
@pytest.mark.parametrize("moved", [[0], [5, 2], [6, 0, 3], list(range(N))])
class TestTheChoice:
    def test_has_all_rows_of_every_moved_point_first_and_in_their_order(self, moved, discard):
        choice = choose_directions(random_curvature(), moved, discard, torch.float64)
        own = choice.directions.points[: choice.moved]
        assert choice.moved == len(moved) * C
        assert own.tolist() == [i for i in moved for _ in range(C)]
        assert choice.directions.columns[: choice.moved].tolist() == [*range(C)] * len(moved)
        assert bool(choice.taken[moved].all())

    def test_has_no_row_twice(self, moved, discard):
        choice = choose_directions(random_curvature(), moved, discard, torch.float64)
        assert int(choice.taken.sum()) == len(choice.directions)

    def test_leaves_out_no_more_of_the_trace_than_allowed(self, moved, discard):
        curvature = random_curvature()
        choice = choose_directions(curvature, moved, discard, torch.float64)
        left_out = sum(
            float(curvature.values[i, j]) for i in range(N) for j in range(C) if not choice.taken[i, j]
        )
        assert choice.discarded == pytest.approx(left_out / float(curvature.values.sum()), abs=1e-15)
        assert choice.discarded <= discard + 1e-15

    def test_could_not_do_with_fewer_rows(self, moved, discard):
        curvature = random_curvature()
        choice = choose_directions(curvature, moved, discard, torch.float64)
        others = choice.directions.points[choice.moved :], choice.directions.columns[choice.moved :]
        values = curvature.values[others]
        assert torch.equal(values, values.sort(descending=True).values)
        if len(values):
            share = float(values[-1]) / float(curvature.values.sum())
            assert choice.discarded + share > discard

    def test_its_vectors_are_unit_eigenvectors(self, moved, discard):
        curvature = random_curvature()
        choice = choose_directions(curvature, moved, discard, torch.float64)
        blocks = (curvature.vectors * curvature.values.unsqueeze(1)) @ curvature.vectors.mT
        u = choice.directions.vectors
        torch.testing.assert_close(u.norm(dim=1), torch.ones(len(u)).double())
        own = torch.einsum("sij,sj->si", blocks[choice.directions.points], u)
        expected = (choice.weights**2).unsqueeze(1) * u
        torch.testing.assert_close(own, expected, rtol=1e-12, atol=1e-14)

    def test_moved_points_have_importance_one(self, moved, discard):
        curvature = random_curvature()
        choice = choose_directions(curvature, moved, discard, torch.float64)
        rest = [i for i in range(N) if i not in moved]
        assert bool((choice.importance[moved] == 1.0).all())
        assert torch.equal(choice.importance[rest], curvature.importance[rest])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_directions_and_weights_have_the_dtype_asked_for(dtype):
    choice = choose_directions(random_curvature(), [1], 1e-3, dtype)
    grown = choice.with_more(torch.tensor([0]))
    assert {part.directions.vectors.dtype for part in (choice, grown)} == {dtype}
    assert choice.weights.dtype is dtype
    assert choice.importance.dtype is torch.float64


@pytest.mark.parametrize("discard", [1e-9, 1.0 / (N * C) - 1e-9])
def test_a_constant_curvature_needs_every_row(discard):
    choice = choose_directions(constant_curvature(), [3], discard, torch.float64)
    assert bool(choice.taken.all())
    assert choice.discarded == 0.0


def test_squared_loss_has_a_constant_curvature(fitted):
    choice = choose_directions(OutputCurvature.of(fitted.risk()), [2], 0.05, torch.float64)
    assert len(choice.directions) == 12


@pytest.mark.parametrize("loss", [nn.L1Loss(), lambda out, y: ((out - y) * y).mean()])
def test_a_loss_without_curvature_takes_the_moved_points_alone(loss):
    model = nn.Linear(3, 2).double().eval()
    inputs = torch.randn(5, 3, generator=rng(2), dtype=torch.float64)
    targets = torch.randn(5, 2, generator=rng(3), dtype=torch.float64)
    risk = Problem(model, loss, inputs, targets, gradient_tol=float("inf")).risk()
    curvature = OutputCurvature.of(risk)
    assert not curvature.values.any()
    choice = choose_directions(curvature, [4], 1e-3, torch.float64)
    assert (choice.directions.points.tolist(), choice.discarded) == ([4, 4], 0.0)
    assert not choice.weights.any()
    assert torch.equal(choice.importance, torch.ones(5, 2).double())


class TestMoreRows:
    CHOICE = choose_directions(random_curvature(), [1], 0.3, torch.float64)

    def error(self) -> Tensor:
        return torch.randn(N, C, generator=rng(4), dtype=torch.float64)

    def squares(self, error: Tensor) -> Tensor:
        """``importance · (uᵀ e)²`` by brute force."""
        out = torch.zeros(N, C, dtype=torch.float64)
        for i in range(N):
            for j in range(C):
                u = self.CHOICE.curvature.vectors[i, :, j]
                out[i, j] = self.CHOICE.importance[i, j] * (u @ error[i]) ** 2
        return out

    def test_are_scored_by_their_weighted_squares(self):
        torch.testing.assert_close(weighted_squares(self.CHOICE, self.error()), self.squares(self.error()))

    def test_of_moved_points_sum_to_the_plain_square(self):
        found = weighted_squares(self.CHOICE, self.error())[1].sum()
        torch.testing.assert_close(found, (self.error()[1] ** 2).sum())

    @pytest.mark.parametrize("share", [1e-12, 1e-3, 0.1, 0.9, 1.1])
    def test_are_the_fewest_that_leave_the_error_allowed(self, share):
        left = torch.where(self.CHOICE.taken, 0.0, self.squares(self.error())).flatten()
        allowed = share * float(left.sum())
        extra = directions_to_add(self.CHOICE, self.error(), allowed)
        rest = left.clone()
        rest[extra] = 0.0
        assert float(rest.sum()) <= allowed
        assert not self.CHOICE.taken.flatten()[extra].any()
        assert torch.equal(left[extra], left[extra].sort(descending=True).values)
        if len(extra):
            assert float(rest.sum() + left[extra[-1]]) > allowed
        assert (len(extra) == 0) == (share > 1)

    def test_come_behind_the_present_ones(self):
        extra = directions_to_add(self.CHOICE, self.error(), 0.0)
        grown, count = self.CHOICE.with_more(extra), len(self.CHOICE.directions)
        for name in ("points", "columns", "vectors"):
            whole = getattr(grown.directions, name)
            assert torch.equal(whole[:count], getattr(self.CHOICE.directions, name))
        assert (
            grown.directions.points[count:] * C + grown.directions.columns[count:]
        ).tolist() == extra.tolist()
        assert bool(grown.taken.all())
        assert (grown.discarded, grown.moved) == (0.0, self.CHOICE.moved)

    def test_none_changes_nothing(self):
        same = self.CHOICE.with_more(torch.zeros(0, dtype=torch.long))
        assert torch.equal(same.directions.vectors, self.CHOICE.directions.vectors)
        assert same.discarded == self.CHOICE.discarded


def directions_of(risk: EmpiricalRisk) -> OutputDirections:
    """Points out of order, one of them with several directions, one without any."""
    n, c = risk.outputs().shape
    points = torch.tensor([3, 0, 3, n - 1, 3, 1, 0])
    vectors = torch.randn(len(points), c, generator=rng(5), dtype=torch.float64).to(risk.weights.dtype)
    return OutputDirections(points, torch.zeros_like(points), vectors)


def dense_rows(risk: EmpiricalRisk, directions: OutputDirections) -> Tensor:
    """``Uᵀ J``, from the whole Jacobian by plain ``torch.autograd``."""
    inputs, _ = risk.points[range(len(risk.points))]

    def outputs(w: Tensor) -> Tensor:
        return risk.forward(risk.layout.split(w), inputs).flatten(1)

    J = torch.func.jacrev(outputs)(risk.weights)
    return torch.einsum("sc,scp->sp", directions.vectors, J[directions.points])


class TestDirectionalJacobian:
    def test_are_their_output_directions_times_the_jacobian(self, case):
        risk = case.risk()
        directions = directions_of(risk)
        rows, exact = (
            DirectionalJacobian(risk, directions, memory_budget=GRAPHS),
            dense_rows(risk, directions),
        )
        s, p = exact.shape
        assert rows.shape == (s, p)
        torch.testing.assert_close(rows.rows(0, s), exact, rtol=0, atol=1e-12)
        torch.testing.assert_close(rows.rows(2, 5), exact[2:5], rtol=0, atol=1e-12)
        v = torch.randn(p, 2, generator=rng(6), dtype=torch.float64)
        u = torch.randn(s, 2, generator=rng(7), dtype=torch.float64)
        for j in (slice(None), 0):
            torch.testing.assert_close(rows @ v[:, j], exact @ v[:, j], rtol=0, atol=1e-11)
            torch.testing.assert_close(rows.T @ u[:, j], exact.T @ u[:, j], rtol=0, atol=1e-11)

    @pytest.mark.parametrize("batch_size", [1, 2, 100])
    def test_do_not_depend_on_batches(self, build_case, batch_size):
        whole, batched = (
            build_case("conv-ce-sum").risk(),
            build_case("conv-ce-sum").risk(batch_size=batch_size),
        )
        directions = directions_of(whole)
        exact = dense_rows(whole, directions)
        rows = DirectionalJacobian(batched, directions, memory_budget=0)
        v = torch.randn(exact.shape[1], generator=rng(6), dtype=torch.float64)
        torch.testing.assert_close(rows @ v, exact @ v, rtol=0, atol=1e-11)
        torch.testing.assert_close(rows.rows(0, len(exact)), exact, rtol=0, atol=1e-12)

    def test_in_float32(self, build_case):
        risk = build_case("tanh-ce-mean").to(torch.float32).risk()
        directions = directions_of(risk)
        rows, exact = (
            DirectionalJacobian(risk, directions, memory_budget=GRAPHS),
            dense_rows(risk, directions),
        )
        assert rows.dtype is torch.float32
        torch.testing.assert_close(rows.rows(0, len(exact)), exact)
        torch.testing.assert_close(rows @ exact[0], exact @ exact[0])

    def test_of_all_eigenvectors_have_the_gram_matrix_of_the_jacobian(self, case):
        """Unit eigenvectors of each block only turn the rows of each point."""
        risk = case.risk()
        curvature, J = OutputCurvature.of(risk), Jacobian(risk).to_dense()
        choice = choose_directions(curvature, range(len(risk.points)), 0.0, torch.float64)
        rows = DirectionalJacobian(risk, choice.directions, memory_budget=GRAPHS)
        dense = rows.rows(0, rows.shape[0])
        torch.testing.assert_close(dense.T @ dense, J.T @ J, rtol=0, atol=1e-11)
        weighted = choice.weights.unsqueeze(1) * dense
        A = CurvatureRoot(risk).to_dense() @ J
        torch.testing.assert_close(weighted.T @ weighted, A.T @ A, rtol=0, atol=1e-11)


def test_combinations_are_the_matrix_of_their_directions():
    directions = OutputDirections(
        torch.tensor([2, 0, 2]), torch.zeros(3).long(), torch.randn(3, C, generator=rng(8)).double()
    )
    exact = torch.zeros(3, 3 * C, dtype=torch.float64)
    for s, i in enumerate(directions.points.tolist()):
        exact[s, i * C : (i + 1) * C] = directions.vectors[s]
    operator = DirectionSelector(directions, directions.points, 3)
    torch.testing.assert_close(operator @ torch.eye(3 * C).double(), exact)
    torch.testing.assert_close(operator.T @ torch.eye(3).double(), exact.T)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tol": 0.0}, "tol"),
        ({"tol": 1.0}, "tol"),
        ({"tol": -1e-3}, "tol"),
        ({"tol": float("nan")}, "tol"),
        ({"max_rows": 0}, "max_rows"),
    ],
)
def test_settings_that_mean_nothing_are_refused(options, words):
    with pytest.raises(ValueError, match=f"`{words}` must be"):
        InformativeRows(**options)
