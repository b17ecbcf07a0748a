"""Per-sample gradients against plain torch.autograd, one point and one output combination at a time."""

from contextlib import suppress

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from solset.operators import Jacobian, PerSampleGradients
from support.networks import (
    EXACT,
    LINE,
    TABLE,
    Of,
    Row,
    draw,
    error,
    in_place,
    plain_rows,
    risk_of,
    shake,
    tied,
    vit,
)

# Said once a process, by the first convolution of its kind.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")


@pytest.fixture(params=TABLE, ids=lambda row: row.name)
def row(request) -> Row:
    return request.param


def built(row: Row, count: int = 5) -> tuple[nn.Module, Tensor]:
    with torch.random.fork_rng():
        model = row.build()
    return shake(model), draw(count, *row.shape)


def cotangents_for(model: nn.Module, inputs: Tensor, *between: int) -> Tensor:
    with torch.no_grad():
        c = model(inputs[:1]).numel()
    return draw(len(inputs), *between, c, seed=7)


def test_rows_are_those_of_autograd(row):
    model, inputs = built(row)
    cotangents = cotangents_for(model, inputs)
    gradients = PerSampleGradients(risk_of(model, inputs))
    assert error(gradients.rows(inputs, cotangents), plain_rows(model, inputs, cotangents)) <= EXACT
    assert gradients.method == row.method, gradients.reason
    assert ("agrees" in gradients.reason) == (row.method == "layer rules")


def test_several_rows_per_point_are_several_single_rows(row):
    model, inputs = built(row, count=3)
    cotangents = cotangents_for(model, inputs, 4)
    gradients = PerSampleGradients(risk_of(model, inputs))
    single = torch.stack([gradients.rows(inputs, cotangents[:, j]) for j in range(4)], dim=1)
    assert error(gradients.rows(inputs, cotangents), single) <= EXACT


@pytest.mark.parametrize("repeated_size", [0, 10**9], ids=["sweeps", "copies"])
def test_several_rows_by_sweeps_or_by_copies(monkeypatch, repeated_size):
    monkeypatch.setattr("solset.operators._per_sample_routes.REPEATED_SIZE", repeated_size)
    model, inputs = shake(in_place()), draw(4, *LINE)
    cotangents = cotangents_for(model, inputs, 3)
    found = PerSampleGradients(risk_of(model, inputs)).rows(inputs, cotangents)
    for j in range(3):
        assert error(found[:, j], plain_rows(model, inputs, cotangents[:, j])) <= EXACT


def test_the_batch_does_not_matter(row):
    model, inputs = built(row)
    cotangents = cotangents_for(model, inputs)
    gradients = PerSampleGradients(risk_of(model, inputs))
    whole = gradients.rows(inputs, cotangents)
    for size in (1, 2, 4):
        pairs = zip(inputs.split(size), cotangents.split(size), strict=True)
        assert error(torch.cat([gradients.rows(x, u) for x, u in pairs]), whole) <= EXACT


def test_the_chunk_does_not_matter(row, monkeypatch):
    model, inputs = built(row)
    cotangents = cotangents_for(model, inputs)
    monkeypatch.setattr("solset.operators._per_sample_routes.CHUNK_BYTES", 1)
    found = PerSampleGradients(risk_of(model, inputs)).rows(inputs, cotangents)
    assert error(found, plain_rows(model, inputs, cotangents)) <= EXACT


def test_a_choice_of_parameters(row):
    model, inputs = built(row)
    names = [name for name, _ in model.named_parameters()]
    for chosen in {names[0], names[-1]}:
        cotangents = cotangents_for(model, inputs)
        found = PerSampleGradients(risk_of(model, inputs, [chosen])).rows(inputs, cotangents)
        assert error(found, plain_rows(model, inputs, cotangents, [chosen])) <= EXACT


def test_frozen_parameters_have_no_columns():
    model, inputs = shake(vit()), draw(3, 1, 4, 4)
    model.patch.requires_grad_(False)
    model.norm.requires_grad_(False)
    patterns = ["token", "positions", "mix.*", "scale", "head.*"]
    gradients = PerSampleGradients(risk_of(model, inputs, patterns))
    cotangents = cotangents_for(model, inputs)
    assert error(gradients.rows(inputs, cotangents), plain_rows(model, inputs, cotangents, patterns)) <= EXACT
    assert gradients.method == "layer rules"


def test_other_weights_than_the_model_has():
    model, inputs = shake(tied()), draw(3, 3)
    risk = risk_of(model, inputs)
    moved = risk.at(2.0 * risk.weights)
    cotangents = cotangents_for(model, inputs)
    found = PerSampleGradients(moved).rows(inputs, cotangents)
    with torch.no_grad():
        for value in model.parameters():
            value.mul_(2.0)
    assert error(found, plain_rows(model, inputs, cotangents)) <= EXACT


def test_one_point_is_enough_to_compare():
    model, inputs = shake(nn.Sequential(nn.Linear(3, 2), nn.Tanh())), draw(1, 3)
    gradients = PerSampleGradients(risk_of(model, inputs))
    assert error(gradients.rows(inputs, draw(1, 2)), plain_rows(model, inputs, draw(1, 2))) <= EXACT
    assert gradients.method == "layer rules"


def test_a_pass_that_turns_elsewhere_later_is_still_right():
    def turn(m, x):
        if len(x) == 4:
            return functional.linear(x, m.f.weight * 1.0)
        return m.f(x)

    model, inputs = shake(Of(turn, f=nn.Linear(3, 2, bias=False))), draw(4, 3)
    gradients = PerSampleGradients(risk_of(model, inputs))
    assert gradients.method == "layer rules"
    assert error(gradients.rows(inputs, draw(4, 2)), plain_rows(model, inputs, draw(4, 2))) <= EXACT
    assert gradients.method == "torch.func"
    assert "no rule" in gradients.reason


def test_float32_agrees_to_float32(row):
    model, inputs = built(row)
    cotangents = cotangents_for(model, inputs)
    expected = plain_rows(model, inputs, cotangents)
    gradients = PerSampleGradients(risk_of(model.float(), inputs.float()))
    found = gradients.rows(inputs.float(), cotangents.float())
    assert found.dtype == torch.float32
    assert error(found.double(), expected) <= 1e3 * torch.finfo(torch.float32).eps
    assert (gradients.method == "layer rules") == (row.method == "layer rules"), gradients.reason


HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def traces(model: nn.Module) -> list:
    """Everything about a model that a capture could leave behind."""
    modules = [(sorted(vars(m)), m.training, *(len(getattr(m, h)) for h in HOOKS)) for m in model.modules()]
    values = [(id(v), v._version, v.requires_grad, v.grad, sorted(vars(v))) for v in model.parameters()]
    return [modules, values, [(id(v), v._version) for v in model.buffers()]]


def test_the_model_is_left_as_it_was(row):
    model, inputs = built(row)
    cotangents = cotangents_for(model, inputs)
    kept, before, state = inputs.clone(), traces(model), torch.get_rng_state()
    PerSampleGradients(risk_of(model, inputs)).rows(inputs, cotangents)
    assert traces(model) == before
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(inputs, kept)


@pytest.mark.parametrize("calls", [0, 1, 2, 5], ids=lambda calls: f"after {calls} calls")
def test_the_model_is_left_as_it_was_after_an_error(calls):
    left = [calls]

    def fail(m, x):
        hidden = m.first(x).relu_()
        left[0] -= 1
        if left[0] < 0:
            raise ZeroDivisionError
        return m.second(hidden)

    model = shake(Of(fail, first=nn.Linear(3, 4), second=nn.Linear(4, 2)))
    before, state = traces(model), torch.get_rng_state()
    gradients = PerSampleGradients(risk_of(model, draw(3, 3)))
    for _ in range(calls):
        with suppress(ZeroDivisionError):
            gradients.rows(draw(3, 3), draw(3, 2))
    with pytest.raises(ZeroDivisionError):
        gradients.rows(draw(3, 3), draw(3, 2))
    assert traces(model) == before
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.overrides._get_current_function_mode() is None


def test_the_rows_of_a_jacobian_use_it():
    model, inputs = shake(tied()), draw(4, 3)
    jacobian = Jacobian(risk_of(model, inputs))
    units = [torch.eye(2, dtype=torch.float64)[[j]].expand(4, 2) for j in range(2)]
    expected = torch.stack([plain_rows(model, inputs, u) for u in units], dim=1).flatten(0, 1)
    assert error(jacobian.rows(1, 6), expected[1:6]) <= EXACT
    assert jacobian.per_sample.method == "layer rules"


@pytest.mark.parametrize("shape", [(3,), (2, 2), (3, 5), (3, 4, 5)])
def test_refuses_cotangents_of_another_shape(shape):
    model, inputs = shake(nn.Linear(3, 2)), draw(3, 3)
    with pytest.raises(ValueError, match="cotangents"):
        PerSampleGradients(risk_of(model, inputs)).rows(inputs, draw(*shape))


def test_a_batch_for_a_budget_grows_with_it():
    gradients = PerSampleGradients(risk_of(shake(nn.Linear(30, 20)), draw(3, 30)))
    row = 8 * (30 * 20 + 20)
    assert gradients.batch_for(1) == 1
    assert 30 <= gradients.batch_for(100 * row) <= 50
    assert 3 <= gradients.batch_for(100 * row, cotangents=10) <= 5
