"""Inner products of a point's own rows, without writing them, against rows written by plain autograd."""

import pytest
import torch

from solset.operators import PerSampleGradients
from support.networks import EXACT, TABLE, Row, draw, plain_rows, risk_of, shake

# Said once a process, by the first convolution of its kind.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_squares_products_and_input_rows_are_those_of_autograd(row: Row) -> None:
    with torch.random.fork_rng():
        model = row.build()
    model, inputs = shake(model), draw(4, *row.shape)
    with torch.no_grad():
        c = model(inputs[:1]).numel()
    cotangents = draw(4, 3, c, seed=7)
    risk = risk_of(model, inputs)
    vector = draw(risk.layout.size, seed=8)
    found = PerSampleGradients(risk).squares(inputs, cotangents, vector)
    rows = torch.stack([plain_rows(model, inputs, cotangents[:, j]) for j in range(3)], dim=1)
    expected = rows @ rows.mT
    assert float((found.gram - expected).norm()) <= EXACT * float(expected.norm())
    assert float((found.pushed - rows @ vector).norm()) <= EXACT * float((rows @ vector).norm())
    leaf = inputs.clone().requires_grad_()
    outputs = model(leaf).flatten(1)
    for j in range(3):
        if not outputs.requires_grad:
            break
        (by_input,) = torch.autograd.grad(
            (outputs * cotangents[:, j]).sum(),
            leaf,
            retain_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
        difference = found.by_inputs[:, j] - by_input.flatten(1)
        assert float(difference.norm()) <= EXACT * max(float(by_input.norm()), 1e-300)
