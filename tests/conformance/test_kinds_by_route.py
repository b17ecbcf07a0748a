"""Every kind of change, on every map by every route, against dense autograd, and its adjoint."""

import sys
import warnings
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from solset.errors import SolsetWarning
from solset.operators import InformativeRows, Jacobian
from solset.outofcore import DiskDual
from solset.solvers import CG, LSMR, MINRES, Dense, Dual, RowSizes
from support.kinds import FORMS, Case, Written, case, drawn, everything
from support.processes import torchrun

ISOLATED = {
    "dense": ("stationary", Dense()),
    "matrix-free": ("stationary", MINRES(tol=1e-13)),
    "Gauss–Newton, dense": ("gauss_newton", Dense()),
    "Gauss–Newton, Gram": ("gauss_newton", Dual()),
    "Gauss–Newton, matrix-free": ("gauss_newton", CG(tol=1e-13)),
    "Gauss–Newton, disk": ("gauss_newton", "disk"),
}
FITTED = {
    "Gram": {"solver": Dual()},
    "disk": {"solver": "disk"},
    "matrix-free": {"solver": LSMR(tol=1e-12)},
    "informative rows": {"rows": InformativeRows(tol=1e-12)},
}


@cache
def made(form: str, fits: bool) -> Case:
    return case(form, fits=fits)


@cache
def truth(form: str, fits: bool, kind: str, which: str, optimality: str = "") -> Tensor:
    written = Written(made(form, fits), kind)
    return written.fitted() if fits else getattr(written, which)(optimality)


def on_the_disk(of: Case, folder: Path) -> DiskDual:
    rows = Jacobian(of.problem.risk(), memory_budget=0)
    solver = DiskDual(memory_budget=RowSizes.of(rows).in_memory - 1, folder=folder)
    assert solver.plan(rows).place == "disk"
    return solver


def relative(got: Tensor, expected: Tensor) -> float:
    size = float(expected.norm())
    return float((got - expected).norm()) / (size or 1.0)


def by_speed(routes: dict) -> list:
    """The names of routes; those that iterate for each of many kinds are slow."""
    return [
        pytest.param(name, marks=pytest.mark.slow if "matrix-free" in name or "dense" in name[1:] else ())
        for name in routes
    ]


@pytest.mark.parametrize("route", by_speed(ISOLATED))
def test_isolated_solutions_answer_every_kind_as_dense_autograd_does(route, tmp_path):
    of, (optimality, solver) = made("tensor", fits=False), ISOLATED[route]
    solver = on_the_disk(of, tmp_path) if solver == "disk" else solver
    asked = {"optimality": optimality, "solver": solver}
    for kind, change in of.changes().items():
        first = of.problem.estimate(change, order="first", **asked).min_norm().change
        assert relative(first, truth("tensor", False, kind, "first", optimality)) <= 1e-10, kind
        with warnings.catch_warnings():  # nothing was trained: the curvature may turn negative
            warnings.simplefilter("ignore", SolsetWarning)
            if change.is_finite(of.problem.risk()):
                step = of.problem.estimate(change, **asked).min_norm().change
                assert relative(step, truth("tensor", False, kind, "newton", optimality)) <= 1e-10, kind
        assert adjoint_error(of, change, asked) <= 1e-12, kind


@pytest.mark.parametrize("route", by_speed(FITTED))
def test_fitted_solutions_answer_every_kind_as_dense_autograd_does(route, tmp_path):
    of, given = made("tensor", fits=True), FITTED[route]
    given = {"solver": on_the_disk(of, tmp_path)} if given.get("solver") == "disk" else given
    asked = {"optimality": "interpolating", **given}
    for kind, change in of.changes().items():
        got = of.problem.estimate(change, **asked).min_norm().change
        assert relative(got, truth("tensor", True, kind, "fitted")) <= 1e-10, kind
        assert adjoint_error(of, change, asked) <= 1e-12, kind


def adjoint_error(of: Case, change, asked: dict) -> float:
    """The gap of ``⟨D t, q⟩`` and ``⟨t, D* q⟩`` for a ``q`` that the coderivative answers, in their scale."""
    derivative = of.problem.derivative(change, **asked)
    line = derivative.linearisation
    step = change.direction(of.problem.risk())
    q = line.operator.T @ drawn(60, line.operator.shape[0])
    forward = derivative(line.data_space.unflatten(step)).min_norm().value
    back = of.problem.coderivative(change, **asked)(line.weight_space.unflatten(q)).min_norm().value
    scale = float(forward.norm() * q.norm()) + float(step.norm() * back.norm())
    return abs(float(forward.flatten() @ q) - float(step @ back.flatten())) / (scale or 1.0)


@pytest.mark.parametrize("form", [form for form in FORMS if form != "tensor"])
def test_trees_and_embeddings_that_move_answer_every_kind(form):
    isolated, fitted = made(form, fits=False), made(form, fits=True)
    for kind, change in isolated.changes().items():
        got = isolated.problem.estimate(change, order="first", optimality="stationary").min_norm().change
        assert relative(got, truth(form, False, kind, "first", "stationary")) <= 1e-10, kind
    for kind, change in fitted.changes().items():
        got = fitted.problem.estimate(change, optimality="interpolating").min_norm().change
        assert relative(got, truth(form, True, kind, "fitted")) <= 1e-10, kind


@pytest.mark.slow
def test_two_processes_answer_every_kind(tmp_path):
    run = torchrun(2, __file__, str(tmp_path))
    assert run.returncode == 0, run.stderr
    expected = everything()
    for rank in range(2):
        got = load_file(tmp_path / f"{rank}.safetensors")
        assert got.keys() == expected.keys()
        for name, value in expected.items():
            assert relative(got[name], value) <= 1e-10, name


def work(folder: Path) -> None:
    """What each of two processes computes."""
    from safetensors.torch import save_file

    from solset import comm

    torch.set_num_threads(1)
    comm.launch(timeout=60.0)
    with comm.reporting():
        answers = {name: value.contiguous().clone() for name, value in everything().items()}
        save_file(answers, folder / f"{comm.rank()}.safetensors")
    comm.finish(0)


if __name__ == "__main__":
    work(Path(sys.argv[1]))
