"""Every operator of a network against one table of properties, with dense torch.autograd as the oracle."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from solset.linalg import LinearOperator
from solset.operators import (
    CurvatureRoot,
    GaussNewton,
    GaussNewtonInverse,
    Hessian,
    InputJacobian,
    Jacobian,
    Mixed,
    loss_curvature,
)
from solset.risk import EmpiricalRisk

DECAY = 0.3
MOVED = [4, 0, 3]
EXACT = 1e-10
ADJOINT = 1e-12


@dataclass(frozen=True)
class Truth:
    """What torch.autograd writes out, from the module itself and not from the library."""

    case: Any

    @property
    def weights(self) -> Tensor:
        return torch.cat([v.detach().reshape(-1) for v in self.case.model.parameters()])

    def outputs(self, w: Tensor, x: Tensor) -> Tensor:
        named, start, state = dict(self.case.model.named_parameters()), 0, {}
        for name, value in named.items():
            state[name] = w[start : start + value.numel()].reshape(value.shape)
            start += value.numel()
        return functional_call(self.case.model, state, (x,))

    def energy(self, w: Tensor, x: Tensor) -> Tensor:
        return self.case.loss(self.outputs(w, x), self.case.targets) + 0.5 * DECAY * w @ w

    @cached_property
    def hessian(self) -> Tensor:
        return torch.autograd.functional.hessian(lambda w: self.energy(w, self.case.inputs), self.weights)

    @cached_property
    def jacobian(self) -> Tensor:
        J = torch.autograd.functional.jacobian(lambda w: self.outputs(w, self.case.inputs), self.weights)
        return J.reshape(-1, len(self.weights))

    @cached_property
    def curvature(self) -> Tensor:
        """``∇²`` of the whole loss in all outputs, ``(m, m)``."""
        z = self.outputs(self.weights, self.case.inputs).detach()
        return torch.autograd.functional.hessian(
            lambda flat: self.case.loss(flat.reshape(z.shape), self.case.targets), z.reshape(-1)
        )

    @cached_property
    def gauss_newton(self) -> Tensor:
        J = self.jacobian
        return J.T @ self.curvature @ J + DECAY * torch.eye(J.shape[1], dtype=J.dtype)

    @cached_property
    def gauss_newton_inverse(self) -> Tensor:
        return torch.linalg.inv(self.gauss_newton)

    @cached_property
    def mixed(self) -> Tensor:
        x = self.case.inputs
        second = torch.autograd.functional.hessian(self.energy, (self.weights, x))
        return second[0][1].reshape(len(self.weights), len(x), -1)[:, MOVED].flatten(1)

    @cached_property
    def input_jacobian(self) -> Tensor:
        x = self.case.inputs
        J = torch.autograd.functional.jacobian(lambda inputs: self.outputs(self.weights, inputs), x)
        m = J.numel() // x.numel()
        return J.reshape(m, len(x), -1)[:, MOVED].flatten(1)


@cache
def truth_of(case: Any) -> Truth:
    return Truth(case)


@dataclass(frozen=True)
class Row:
    """One operator of the table: how it is built, what it must equal, which sides are weights."""

    name: str
    build: Callable[..., LinearOperator]
    truth: str
    weight_sides: str

    def truth_for(self, case: Any) -> Tensor:
        return getattr(truth_of(case), self.truth)


TABLE = (
    Row("Hessian", Hessian, "hessian", "both"),
    Row("GaussNewton", GaussNewton, "gauss_newton", "both"),
    Row("Jacobian", Jacobian, "jacobian", "columns"),
    Row("Mixed", lambda risk, **kw: Mixed(risk, MOVED, **kw), "mixed", "rows"),
    Row("InputJacobian", lambda risk, **kw: InputJacobian(risk, MOVED, **kw), "input_jacobian", "none"),
)
INVERSE = Row(
    "GaussNewtonInverse",
    lambda risk, memory_budget=2**30: GaussNewtonInverse(risk, memory_budget=memory_budget),
    "gauss_newton_inverse",
    "both",
)
SYMMETRIC = {"Hessian", "GaussNewton", "GaussNewtonInverse"}

every_operator = pytest.mark.parametrize("row", [*TABLE, INVERSE], ids=lambda row: row.name)
every_graph_operator = pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def error(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return float((found - expected).norm() / expected.norm())


def risk_of(case: Any, **options: Any) -> EmpiricalRisk:
    return case.risk(**{"weight_decay": DECAY, "batch_size": 4, **options})


@every_operator
def test_products_equal_the_dense_matrix(case, row):
    matrix, operator = row.truth_for(case), row.build(risk_of(case))
    assert operator.shape == tuple(matrix.shape)
    V, U = draw(matrix.shape[1], 3), draw(matrix.shape[0], 3)
    assert error(operator @ V, matrix @ V) <= EXACT
    assert error(operator.T @ U, matrix.T @ U) <= EXACT


@every_operator
def test_written_out_it_is_the_dense_matrix(case, row):
    assert error(row.build(risk_of(case)).to_dense(chunk=5), row.truth_for(case)) <= EXACT


@every_operator
def test_rows_are_the_rows(case, row):
    assert error(row.build(risk_of(case)).rows(1, 8), row.truth_for(case)[1:8]) <= EXACT


def test_rows_of_the_gauss_newton_factor(case):
    factor = GaussNewton(risk_of(case)).factor
    assert error(factor.rows(1, 8), factor.to_dense()[1:8]) <= EXACT
    assert error(factor.T @ factor.to_dense(), truth_of(case).gauss_newton - _shift(case)) <= EXACT


def _shift(case) -> Tensor:
    return DECAY * torch.eye(len(truth_of(case).weights), dtype=torch.float64)


def test_jacobian_of_some_points_has_their_rows(case):
    risk = risk_of(case)
    J = Jacobian(risk, points=MOVED)
    whole = truth_of(case).jacobian.reshape(len(case.inputs), J.outputs, -1)
    assert error(J.to_dense(), whole[MOVED].flatten(0, 1)) <= EXACT


def test_row_weights_square_to_the_curvature_of_the_loss(case):
    risk = risk_of(case)
    blocks = torch.block_diag(*loss_curvature(risk))
    root = CurvatureRoot(risk).to_dense()
    assert error(blocks, truth_of(case).curvature) <= EXACT
    assert error(root @ root, blocks) <= EXACT


@every_operator
def test_linear(case, row):
    operator = row.build(risk_of(case))
    u, v = draw(operator.shape[1], seed=1), draw(operator.shape[1], seed=2)
    assert error(operator @ (2.5 * u - v), 2.5 * (operator @ u) - operator @ v) <= ADJOINT


@every_operator
def test_adjoint(case, row):
    operator = row.build(risk_of(case))
    u, v = draw(operator.shape[0], seed=1), draw(operator.shape[1], seed=2)
    left, right = u @ (operator @ v), (operator.T @ u) @ v
    assert abs(left - right) <= ADJOINT * (operator @ v).norm() * u.norm()


@every_operator
def test_symmetric_as_declared(case, row):
    operator = row.build(risk_of(case))
    assert operator.is_symmetric == (row.name in SYMMETRIC)
    if operator.is_symmetric:
        matrix = operator @ torch.eye(operator.shape[0], dtype=torch.float64)
        assert error(matrix, matrix.T.contiguous()) <= ADJOINT


@every_operator
def test_a_block_is_multiplied_column_by_column(case, row):
    operator = row.build(risk_of(case))
    V, U = draw(operator.shape[1], 3), draw(operator.shape[0], 3)
    assert error(operator @ V, torch.stack([operator @ v for v in V.T], dim=1)) <= ADJOINT
    assert error(operator.T @ U, torch.stack([operator.T @ u for u in U.T], dim=1)) <= ADJOINT


@every_operator
@pytest.mark.parametrize("batch_size", [1, 3, 6])
def test_the_batch_size_does_not_matter(case, row, batch_size):
    operator, whole = row.build(risk_of(case, batch_size=batch_size)), row.build(risk_of(case))
    V, U = draw(whole.shape[1], 2), draw(whole.shape[0], 2)
    assert error(operator @ V, whole @ V) <= ADJOINT
    assert error(operator.T @ U, whole.T @ U) <= ADJOINT


@every_graph_operator
@pytest.mark.parametrize("memory_budget", [0, 2**30], ids=["rebuilt", "kept"])
def test_graphs_may_be_kept_or_rebuilt(case, row, memory_budget):
    matrix, operator = row.truth_for(case), row.build(risk_of(case), memory_budget=memory_budget)
    for seed in (1, 2):
        v, u = draw(matrix.shape[1], seed=seed), draw(matrix.shape[0], seed=seed)
        assert error(operator @ v, matrix @ v) <= EXACT
        assert error(operator.T @ u, matrix.T @ u) <= EXACT


class _Cube(torch.autograd.Function):
    """A layer with a double backward and without a forward-mode derivative."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, u):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * u


class _Cubed(torch.nn.Module):
    def __init__(self, inner) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return _Cube.apply(self.inner(x))


@every_graph_operator
@pytest.mark.parametrize("memory_budget", [0, 2**30], ids=["rebuilt", "kept"])
def test_a_layer_without_forward_mode_is_pulled_back(build_case, row, memory_budget):
    case = build_case("conv-ce-sum")
    case = replace(case, model=_Cubed(case.model).eval())
    matrix, operator = row.truth_for(case), row.build(risk_of(case), memory_budget=memory_budget)
    v, u = draw(matrix.shape[1], seed=1), draw(matrix.shape[0], seed=2)
    assert error(operator @ v, matrix @ v) <= EXACT
    assert error(operator.T @ u, matrix.T @ u) <= EXACT


@every_operator
def test_float32_agrees_to_float32(case, row):
    matrix, operator = row.truth_for(case), row.build(risk_of(case.to(torch.float32)))
    v = draw(matrix.shape[1])
    found = operator @ v.float()
    assert found.dtype == torch.float32
    assert error(found.double(), matrix @ v) <= 100 * torch.finfo(torch.float32).eps


@every_graph_operator
@pytest.mark.parametrize("choice", ["one layer", "biases"])
def test_a_choice_of_parameters_is_a_submatrix(case, row, choice):
    names = {name: value.numel() for name, value in case.model.named_parameters()}
    pattern = "*bias" if choice == "biases" else next(reversed(names))
    operator = row.build(risk_of(case, parameters=[pattern]))
    ends = pattern.removeprefix("*")
    kept = torch.cat([torch.full((size,), name.endswith(ends)) for name, size in names.items()])
    matrix = row.truth_for(case)
    matrix = matrix[kept] if row.weight_sides in {"rows", "both"} else matrix
    matrix = matrix[:, kept] if row.weight_sides in {"columns", "both"} else matrix
    assert error(operator.to_dense(), matrix) <= EXACT


@pytest.mark.parametrize("moved", [[2], [5, 1], [3, 4, 0, 1, 5, 2]])
def test_moved_points_keep_their_order(case, moved):
    risk, everyone = risk_of(case), list(range(len(case.inputs)))
    d = case.inputs[0].numel()
    for operator in (Mixed, InputJacobian):
        whole = operator(risk, everyone).to_dense().reshape(-1, len(everyone), d)
        assert error(operator(risk, moved).to_dense(), whole[:, moved].flatten(1)) <= EXACT


def test_gauss_newton_inverse_on_the_tall_side(logistic):
    case, _ = logistic
    risk = case.risk(weight_decay=DECAY)
    assert len(risk.points) * 2 > risk.layout.size
    assert error(GaussNewtonInverse(risk, memory_budget=2**30).to_dense(), _inverse(case)) <= EXACT


def _inverse(case) -> Tensor:
    return torch.linalg.inv(truth_of(case).hessian)  # linear in the weights: Gauss-Newton is the Hessian


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("ours", [Hessian, GaussNewton])
@pytest.mark.parametrize("name", ["tanh-ce-mean", "conv-ce-sum", "tied-mse-mean"])
def test_agrees_with_curvlinops(build_case, name, ours):
    from curvlinops import GGNLinearOperator, HessianLinearOperator  # its import warns

    theirs = {Hessian: HessianLinearOperator, GaussNewton: GGNLinearOperator}[ours]
    case = build_case(name)
    operator = ours(case.risk(batch_size=4))
    data = [(case.inputs[:4], case.targets[:4]), (case.inputs[4:], case.targets[4:])]
    oracle = theirs(case.model, case.loss, list(case.model.parameters()), data)
    V = draw(operator.shape[1], 3)
    assert error(operator @ V, oracle @ V) <= EXACT
