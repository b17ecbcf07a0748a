"""Where memory runs out, batches are halved, for all copies of the risk, and nothing else changes."""

import pytest
import torch
from torch import Tensor, nn

from solset import Problem, SolsetWarning
from solset.linalg import LinearOperator
from solset.operators import GaussNewton, Hessian, InputJacobian, Jacobian, Mixed
from solset.risk import Room, in_batches

ERRORS = {
    "device": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    "processor": RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    "python": MemoryError("no room"),
}


class Small(nn.Module):
    """A net on a device that has room for so many points at once, and for so many passes that are kept."""

    def __init__(self, room: int, error: str = "device") -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.body = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
        self._room, self.error, self.sizes = room, error, []

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append(len(x))
        if len(x) > self._room:
            raise ERRORS[self.error]
        return self.body(x)


def problem(room: int, error: str = "device", count: int = 20) -> Problem:
    g = torch.Generator().manual_seed(1)
    inputs = torch.randn(count, 3, generator=g, dtype=torch.float64)
    targets = torch.randn(count, 2, generator=g, dtype=torch.float64)
    return Problem(Small(room, error).eval(), nn.MSELoss(), inputs, targets, batch_size=16, gradient_tol=9.0)


@pytest.mark.parametrize("error", list(ERRORS))
def test_the_batch_is_halved_until_it_fits_and_the_warning_says_so(error: str) -> None:
    with pytest.warns(SolsetWarning, match="out of memory with 16 points at once: going on with 8"):
        tight = problem(8, error)
    torch.testing.assert_close(tight.gradient(), problem(100).gradient(), rtol=1e-14, atol=1e-16)


def test_it_is_remembered_for_all_copies_of_the_risk() -> None:
    with pytest.warns(SolsetWarning, match="out of memory"):
        tight = problem(8)
    model = tight.risk().model
    model.sizes.clear()
    moved = tight.risk().move([0], torch.ones(1, 3, dtype=torch.float64)).at(2 * tight.weights())
    moved.gradient(), moved.outputs(), moved.losses()  # and no further warning
    assert max(model.sizes) == 8


@pytest.mark.parametrize("memory_budget", [0, 2**30])
@pytest.mark.parametrize("kind", [Hessian, GaussNewton, Jacobian, Mixed, InputJacobian])
def test_every_operator_goes_on(kind: type, memory_budget: int) -> None:
    def built(one: Problem):
        points = [list(range(20))] if kind in {Mixed, InputJacobian} else []
        return kind(one.risk(), *points, memory_budget=memory_budget)

    wide, tight = problem(100), problem(100)
    tight.risk().model._room = 3
    generator = torch.Generator().manual_seed(2)
    operator = built(wide)
    v = torch.randn(operator.shape[1], 2, generator=generator, dtype=torch.float64)
    u = torch.randn(operator.shape[0], 2, generator=generator, dtype=torch.float64)

    def first() -> tuple[LinearOperator, Tensor]:
        found = built(tight)
        return found, found @ v

    with pytest.warns(SolsetWarning, match="out of memory"):
        found, product = first()
    for _ in range(2):  # from scratch, and from what is kept
        torch.testing.assert_close(product, operator @ v, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(found.T @ u, operator.T @ u, rtol=1e-12, atol=1e-14)
        product = found @ v


def test_kept_graphs_make_room_before_the_batch_shrinks() -> None:
    one = problem(100)
    hessian = Hessian(one.risk())
    v = torch.ones(hessian.shape[1], dtype=torch.float64)
    expected = hessian @ v
    graphs, fails = hessian.graphs, [True]

    def product(start: int, graph):
        if start == 16 and fails:
            fails.clear()
            raise ERRORS["device"]
        return torch.tensor([float(start)])

    assert graphs.are_kept
    assert [float(part) for part in graphs.each(product)] == [0.0, 16.0]
    assert not graphs.are_kept
    assert one.risk().room.max_points is None
    torch.testing.assert_close(hessian @ v, expected)


def test_one_point_that_does_not_fit_is_an_error_that_names_the_cure() -> None:
    one = problem(100)
    one.risk().model._room = 0
    with pytest.warns(SolsetWarning), pytest.raises(MemoryError, match="one point alone .* smaller model"):
        one.risk().gradient()


def test_other_errors_are_not_taken_for_it() -> None:
    def work(_: range) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        list(in_batches(range(4), 2, Room(), work))
