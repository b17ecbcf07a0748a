"""The loss of outputs that are known already is that of the network that gave them."""

import pytest
import torch

from solset.risk import fit_at, losses_at, output_shape, slopes_at


def test_losses_are_those_of_the_risk(case):
    risk = case.risk(batch_size=4)
    torch.testing.assert_close(losses_at(risk, risk.outputs()), risk.losses())


def test_slopes_pulled_back_are_the_gradient(case):
    risk = case.risk(batch_size=4)
    inputs, _ = risk.points[range(len(risk.points))]
    slopes = slopes_at(risk, risk.outputs())
    leaves = risk.leaves()
    with torch.enable_grad():
        outputs = risk.forward(leaves, inputs).flatten(1)
    found = risk.layout.join(torch.autograd.grad(outputs, leaves, slopes))
    torch.testing.assert_close(found, risk.gradient())


def test_the_fit_does_not_depend_on_the_reduction_or_the_batches(case):
    risks = [case.risk(batch_size=size) for size in (1, 4, 6)]
    fits = [fit_at(risk, risk.outputs()) for risk in risks]
    assert fits[0] == pytest.approx(fits[1]) == pytest.approx(fits[2]) == pytest.approx(case.problem().fit)


def test_the_shape_of_one_points_outputs(case):
    assert output_shape(case.risk())[-1] in {2, 3}
