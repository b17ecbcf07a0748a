"""A problem with less memory than the Gram matrix of its rows takes has the same answers."""

import gc

import pytest
import torch
from torch import Tensor

from solset import Move, Problem, follow_path, lipschitz_modulus, plan
from solset.derivatives import GraphicalDerivative
from solset.operators import InformativeRows
from solset.outofcore import TiledPrepared
from solset.outofcore import _disk_dual as disk_plan
from solset.outofcore._factors import Factors
from solset.solvers import Dual
from solset.solvers.filters import GradientFlow, Tikhonov
from support.fitted import MOVED, net
from support.interpolators import fitted
from support.systems import Tiled

BUDGET = 3_400_000  # for the first rows the Gram matrix fits, for those that a check adds no longer


def direction(size: float = 0.01, seed: int = 0) -> Tensor:
    return size * torch.randn(2, 64, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def small(tmp_path, monkeypatch) -> Problem:
    monkeypatch.setattr(disk_plan, "MAX_TILES", 12)  # tiles are for larger problems, but a test is not
    (tmp_path / "spill").mkdir()
    return net("connected").problem(memory_budget=BUDGET, spill_folder=tmp_path / "spill")


def derivative(problem: Problem, tol: float = 1e-6, **options: Dual) -> GraphicalDerivative:
    return problem.derivative(
        points=MOVED, optimality="interpolating", rows=InformativeRows(tol=tol), **options
    )


def prepared(D: GraphicalDerivative) -> TiledPrepared:
    found = D._source.prepared
    assert isinstance(found, TiledPrepared)
    return found


def error(found: Tensor, exact: Tensor) -> float:
    return float((found - exact).norm() / exact.norm())


@pytest.mark.filterwarnings("ignore:training had not stopped")
def test_the_same_sets(small):
    large = net("connected").problem()
    one, two = derivative(small), derivative(large)
    for dx in (direction(), direction(seed=1)):
        here, there = one(dx), two(dx)
        assert error(here.min_norm().value, there.min_norm().value) <= 1e-9
        for choice in (GradientFlow(steps=2000, learning_rate=0.1), Tikhonov(1e-3)):
            assert error(here.element(choice).value, there.element(choice).value) <= 1e-9
        assert here.dimension == there.dimension
        [sample] = here.sample(1, radius=1.0, generator=torch.Generator().manual_seed(0))
        assert here.contains(sample.value)
    assert (one.check.rows, one.qualification) == (two.check.rows, two.qualification)
    assert one.check.residual == pytest.approx(two.check.residual, rel=1e-6)
    assert prepared(one).rank == one.check.rows
    assert "the Gram matrix too, in tiles of" in one.plan


def test_rows_that_the_check_adds_keep_the_tiles_that_are_there(monkeypatch):
    known, make = [], Factors.__init__
    monkeypatch.setattr(
        Factors, "__init__", lambda self, *given: (known.append(given[2]), make(self, *given))[1]
    )
    solver = Tiled(side=40, is_equilibrated=True)
    D = derivative(net("connected").problem(), tol=1e-8, solver=solver)
    D(direction(0.3))
    assert len(known) > 1
    assert all(factor is not None for factor in known[1:])


def test_the_modulus_by_solves():
    problem = fitted().problem()
    exact = lipschitz_modulus(problem, points=[3])
    found = lipschitz_modulus(problem, points=[3], solver=Tiled(side=13))
    assert found.value == pytest.approx(exact.value, rel=1e-8)


def test_the_plan(small):
    rows = InformativeRows(tol=1e-6)
    [here], [there] = (
        [r for r in plan(p, points=MOVED, rows=rows).routes if "informative" in r.name]
        for p in (small, net("connected").problem())
    )
    assert not here.obstacle
    assert here.place == "disk"
    assert here.memory.rows + here.memory.gram <= BUDGET
    assert here.memory.gram > 0
    assert here.prepare == there.prepare


def test_a_path(small):
    large, dx, rows = net("connected").problem(), direction(0.002), InformativeRows(tol=1e-2)
    ends = [follow_path(p, Move(MOVED, dx), rows=rows, max_error=1e-2) for p in (small, large)]
    assert ends[0].reason is ends[1].reason
    assert error(ends[0].change, ends[1].change) <= 1e-6


@pytest.mark.parametrize("saved_small", [True, False])
@pytest.mark.parametrize("loaded_small", [True, False])
def test_saved_and_loaded_in_any_budget(tmp_path, small, saved_small, loaded_small):
    large, dx = net("connected").problem(), direction()
    D = derivative(small if saved_small else large)
    expected = D(dx).min_norm().value
    D.save(tmp_path / "stored")
    E = (small if loaded_small else large).load_derivative(tmp_path / "stored")
    assert isinstance(E._source.prepared, TiledPrepared) == loaded_small
    assert error(E(dx).min_norm().value, expected) <= 1e-9
    assert (E.check.rows, E.reason) == (D.check.rows, D.reason)


@pytest.mark.filterwarnings("ignore:training had not stopped")
def test_nothing_is_left_on_the_disk(small, tmp_path):
    small = net("connected").problem(memory_budget=BUDGET, spill_folder=tmp_path / "spill")
    D = derivative(small)
    D(direction()).element(GradientFlow(steps=10, learning_rate=0.1))
    assert list((tmp_path / "spill").iterdir())
    del D, small
    gc.collect()
    assert list((tmp_path / "spill").iterdir()) == []
