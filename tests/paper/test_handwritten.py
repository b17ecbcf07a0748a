"""Data as it is read from files."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from solset.paper import digits
from support.reference import isolated_digits, shared_folder

REFERENCE = shared_folder() / "data" / "digits_isolated.npz"


def test_digits_are_all_there_in_order():
    data = digits()
    assert data.inputs.shape == (1797, 64)
    assert (data.inputs.dtype, data.labels.dtype) == (torch.float64, torch.int64)
    assert data.labels[:10].tolist() == list(range(10))
    assert data.labels.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_pixels_are_sixteenths_of_one():
    pixels = digits().inputs
    assert (float(pixels.min()), float(pixels.max())) == (0.0, 1.0)
    assert torch.equal(16 * pixels, (16 * pixels).round())


def test_lower_precision_loses_nothing():
    assert torch.equal(digits(torch.float32).inputs.double(), digits().inputs)


def test_a_part_and_its_one_hot_targets():
    part = digits().part(10, 13)
    assert torch.equal(part.inputs, digits().inputs[10:13])
    assert torch.equal(part.one_hot().argmax(1), part.labels)
    assert torch.equal(part.one_hot().sum(1), torch.ones(3, dtype=torch.float64))
    assert digits(torch.float32).part(0, 2).one_hot().dtype == torch.float32


@pytest.fixture
def stored(tmp_path) -> SimpleNamespace:
    values = {
        "weights": np.arange(4.0),
        "points": np.array([5, 2]),
        "directions": np.eye(2, 64),
        "steps": np.array([0.001, 0.01]),
        "retrained_change": np.ones((2, 4)),
    }
    np.savez(tmp_path / "small.npz", **values)
    return SimpleNamespace(path=tmp_path / "small.npz", **values)


def test_isolated_digits_are_what_the_file_holds(stored):
    found = isolated_digits(stored.path)
    assert len(found.data.labels) == 1000
    assert (found.points, found.steps) == ([5, 2], [0.001, 0.01])
    for name in ("weights", "directions", "retrained_change"):
        assert torch.equal(getattr(found, name), torch.from_numpy(getattr(stored, name)))


def test_a_step_is_a_fraction_of_each_points_norm(stored):
    found = isolated_digits(stored.path)
    lengths = found.dx(0.01).norm(dim=1)
    torch.testing.assert_close(lengths, 0.01 * digits().inputs[[5, 2]].norm(dim=1), rtol=1e-14, atol=0)


def test_a_missing_file_says_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("SOLSET_SHARED", str(tmp_path))
    assert shared_folder() == tmp_path
    with pytest.raises(
        FileNotFoundError, match=r"no reference data at .*digits_isolated\.npz; set SOLSET_SHARED"
    ):
        isolated_digits()


@pytest.mark.skipif(not REFERENCE.is_file(), reason="no digits_isolated.npz in the folder of SOLSET_SHARED")
def test_the_stored_weights_are_stationary_and_so_is_every_retrained_end():
    found = isolated_digits()
    model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.Tanh(), torch.nn.Linear(32, 10)).double()
    shapes = {name: value.shape for name, value in model.named_parameters()}

    def gradient(weights: Tensor, inputs: Tensor) -> Tensor:
        def energy(w: Tensor) -> Tensor:
            parts = torch.split(w, [shape.numel() for shape in shapes.values()])
            named = {key: part.reshape(shapes[key]) for key, part in zip(shapes, parts, strict=True)}
            loss = torch.nn.functional.cross_entropy(
                functional_call(model, named, (inputs,)), found.data.labels
            )
            return loss + 0.5 * found.weight_decay * w @ w

        return torch.func.grad(energy)(weights)

    assert gradient(found.weights, found.data.inputs).norm() <= 1e-12
    for step, change in zip(found.steps, found.retrained_change, strict=True):
        moved = found.data.inputs.index_add(0, torch.tensor(found.points), found.dx(step))
        assert gradient(found.weights + change, moved).norm() <= 1e-11
