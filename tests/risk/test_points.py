"""Points are the same whatever they come in: tensors, a dataset, a loader."""

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from solset import Problem

INF = float("inf")

SOURCES = {
    "dataset": lambda x, y: TensorDataset(x, y),
    "list": lambda x, y: list(zip(x, y, strict=True)),
    "loader": lambda x, y: DataLoader(TensorDataset(x, y), batch_size=2),
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_every_source_gives_the_same_risk(case, source):
    risk = case.risk(batch_size=4)
    data = source(case.inputs, case.targets)
    other = Problem(case.model, case.loss, data, batch_size=4, gradient_tol=INF).risk()
    assert other.value() == risk.value()
    assert torch.equal(other.gradient(), risk.gradient())


def test_moving_adds_the_change_where_it_belongs(case):
    risk = case.risk()
    dx = torch.randn(
        2, *case.inputs.shape[1:], generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    expected = case.inputs.clone()
    expected[[4, 1]] += dx
    moved = risk.move([4, 1], dx)
    assert torch.equal(moved.points[range(6)][0], expected)
    assert torch.equal(moved.points[range(6)][1], case.targets)
    assert torch.equal(risk.points[range(6)][0], case.inputs)


def test_moves_add_up(case):
    dx = torch.ones(1, *case.inputs.shape[1:], dtype=torch.float64)
    moved = case.risk().move([3], dx).move([1, 3], torch.cat([dx, 2 * dx])).move([0], dx)
    expected = case.inputs.clone()
    expected[[0, 1]] += dx
    expected[3] = expected[3] + dx[0] + 2 * dx[0]
    assert torch.equal(moved.points[range(6)][0], expected)


def test_selected_points_are_renumbered_and_stay_moved(case):
    dx = torch.ones(1, *case.inputs.shape[1:], dtype=torch.float64)
    chosen = case.risk().move([5], dx).select([2, 5])
    assert len(chosen.points) == 2
    assert torch.equal(chosen.points[[1, 0]][0], torch.stack([case.inputs[5] + dx[0], case.inputs[2]]))


def test_the_data_itself_is_never_changed(case):
    inputs, targets = case.inputs.clone(), case.targets.clone()
    risk = Problem(case.model, case.loss, TensorDataset(inputs, targets), gradient_tol=INF).risk()
    risk.move([0], torch.ones_like(inputs[:1])).gradient()
    assert torch.equal(inputs, case.inputs)
    assert torch.equal(targets, case.targets)
