"""Several processes share the points; every one of them has the results of one process alone."""

import json
from functools import cache
from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch import Tensor

from support.processes import torchrun
from support.sharded import everything, reads

HERE = Path(__file__).parent


@cache
def alone() -> dict[str, Tensor]:
    return everything()


@pytest.fixture(scope="module", params=[1, 2, 4])
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Path]:
    """How many processes, and the folder in which each wrote down what it found."""
    folder = tmp_path_factory.mktemp(f"processes-{request.param}")
    run = torchrun(request.param, str(HERE / "worker.py"), str(folder))
    assert run.returncode == 0, run.stderr
    return request.param, folder


@pytest.mark.slow
def test_every_process_has_the_results_of_one_alone(shared: tuple[int, Path]) -> None:
    processes, folder = shared
    expected, worst = alone(), 0.0
    for rank in range(processes):
        found = load_file(folder / f"found_{rank}.safetensors")
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            error = float((found[name] - value).norm() / value.norm())
            worst = max(worst, error)
            assert error <= 1e-10, name
    print(f"{processes} processes: {len(expected)} results, largest relative difference {worst:.1e}")


@pytest.mark.slow
def test_each_reads_its_share_of_the_points(shared: tuple[int, Path]) -> None:
    processes, folder = shared
    shares = [json.loads((folder / f"reads_{rank}.json").read_text()) for rank in range(processes)]
    print(f"{processes} processes: points read by each {shares}, by one alone {reads(3)}")
    assert shares == [reads(3) // processes] * processes
