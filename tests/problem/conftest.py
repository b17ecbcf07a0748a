"""A sound small problem that each case of bad input spoils in one way."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from solset import AffineSet, Move, Problem
from solset.derivatives import GraphicalDerivative
from solset.operators import DirectionalJacobian

N, D, C = 12, 3, 2
SAME = object()


class Door:
    """What a user brings, all of it sound, with one thing at a time replaced."""

    INPUTS = torch.randn(N, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    TARGETS = torch.randn(N, C, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    LABELS = torch.arange(N) % C

    def network(self, *layers: nn.Module) -> nn.Module:
        """A tanh net, and what a case puts behind it."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = nn.Sequential(nn.Linear(D, 4), nn.Tanh(), nn.Linear(4, C), *layers)
        return model.double().eval()

    def spoiled(self, values: Tensor, entry: float, *index: int) -> Tensor:
        """The values with one entry replaced."""
        changed = values.clone()
        changed[index] = entry
        return changed

    def with_weight(self, entry: float) -> nn.Module:
        model = self.network()
        with torch.no_grad():
            model[2].weight[0, 0] = entry
        return model

    def frozen(self, model: nn.Module, name: str) -> nn.Module:
        model.get_parameter(name).requires_grad_(False)
        return model

    def problem(
        self,
        model: Any = None,
        *,
        loss: Any = None,
        inputs: Any = INPUTS,
        targets: Any = SAME,
        **options: Any,
    ) -> Problem:
        if targets is SAME:
            targets = self.TARGETS if isinstance(inputs, Tensor) else None
        options = {"gradient_tol": float("inf"), **options}
        return Problem(model or self.network(), loss or nn.MSELoss(), inputs, targets, **options)

    def fitted_problem(self) -> Problem:
        """Its own outputs are the targets."""
        model = self.network()
        return Problem(model, nn.MSELoss(), self.INPUTS, model(self.INPUTS).detach())

    def derivative(self, **options: Any) -> GraphicalDerivative:
        return self.problem().derivative(**options)

    def estimate(self, change: Move, **options: Any) -> AffineSet:
        return self.problem().estimate(change, **options)


@pytest.fixture
def door():
    """The calls of a user who gives one argument that is wrong."""
    return Door()


@pytest.fixture
def assert_refused(door: Door):
    """Asserts that a call raises, with a message made of argument, expected, what came and the cure."""

    def check(call: Any, error: type[Exception], says: str) -> None:
        argument, got, cure = says.split(" | ")
        with pytest.raises(error) as caught:
            call(door)
        message = str(caught.value)
        head, _, tail = message.partition("; got ")
        assert type(caught.value) is error
        assert head.startswith(f"`{argument}` must be ")
        assert got in tail
        assert cure in tail.partition(got)[2]

    return check


@pytest.fixture
def counted(monkeypatch) -> list[int]:
    """How many rows each call computed."""
    counts, compute = [], DirectionalJacobian.rows

    def rows(self: DirectionalJacobian, start: int, stop: int) -> Tensor:
        counts.append(stop - start)
        return compute(self, start, stop)

    monkeypatch.setattr(DirectionalJacobian, "rows", rows)
    return counts
