"""Models and data of users that are odd but legal: right, or refused by name."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional

from cases.conftest import situation
from solset import Move, Problem
from support.zoo.judgement import NAMED


class Scaled(nn.Module):
    """A linear map times the exponential of a weight without dimension, as CLIP has it."""

    def __init__(self):
        super().__init__()
        self.linear, self.log_scale = nn.Linear(3, 2), nn.Parameter(torch.tensor(0.5))

    def forward(self, x):
        return self.log_scale.exp() * self.linear(x)


@pytest.mark.parametrize("optimality", ["auto", "stationary", "gauss_newton", "interpolating"])
def test_a_weight_without_dimension_is_right_in_every_map(optimality):
    seen = situation(Scaled(), nn.MSELoss(), torch.randn(2, 3), torch.zeros(2, 2), [0, 1], is_fitted=True)
    assert seen.error(seen.ask(optimality=optimality)) < 1e-6


@pytest.mark.parametrize("squeeze", [lambda: nn.Flatten(0), lambda: nn.Unflatten(1, (1,))])
def test_outputs_and_targets_without_a_second_axis_are_right(squeeze):
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1), squeeze())
    x, is_flat = torch.randn(20, 3), isinstance(model[-1], nn.Flatten)
    y = (torch.rand(20) < 0.5).double()
    seen = situation(model, nn.BCEWithLogitsLoss(), x, y if is_flat else y[:, None], [1, 5])
    assert seen.error(seen.ask()) < 1e-6


@pytest.mark.filterwarnings("ignore:Using a target size")
def test_flat_targets_beside_outputs_of_one_column_are_refused_by_name():
    """They broadcast to a square of errors, which no user means."""
    with pytest.raises((TypeError, ValueError), match=NAMED):
        Problem(nn.Linear(3, 1).eval(), nn.MSELoss(), torch.randn(6, 3), torch.randn(6))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda m: torch.compile(m, backend="eager"),
        lambda m: torch.jit.trace(m, torch.randn(2, 3)),
        nn.DataParallel,
        lambda m: copy.deepcopy(m).to(torch.bfloat16),
        lambda m: copy.deepcopy(m).half(),
    ],
)
def test_wrapped_models_and_half_precision_are_right_or_refused_by_name(wrap):
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # PyTorch's own, of tracing
        wrapped = wrap(model)
    dtype = next(wrapped.parameters()).dtype
    x = torch.randn(4, 3).to(dtype)
    seen = situation(model, nn.MSELoss(), x.double(), torch.zeros(4, 2), [0, 2], is_fitted=True)
    try:
        problem = Problem(wrapped, nn.MSELoss(), x, seen.training.targets.to(dtype))
        change = problem.estimate(Move([0, 2], seen.dx.to(dtype))).min_norm().value - problem.weights()
    except (TypeError, ValueError) as error:
        if not NAMED.match(str(error)):
            raise
    else:
        assert float((change.double() - seen.change).norm() / seen.change.norm()) < 1e-6


def test_a_traced_graph_module_is_a_model():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    graph = torch.fx.symbolic_trace(model)
    seen = situation(graph, nn.MSELoss(), torch.randn(4, 3), torch.zeros(4, 2), [0, 2], is_fitted=True)
    assert seen.error(seen.ask()) < 1e-6


class WritesInPlace(nn.Module):
    """Clamps its inputs in place and counts its calls."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return self.linear(x.clamp_(-9.0, 9.0).mul_(0.5))


def test_a_model_that_writes_in_place_is_right_and_left_as_it_was():
    model, x = WritesInPlace().eval(), torch.randn(4, 3)
    seen = situation(copy.deepcopy(model), nn.MSELoss(), x.clone(), torch.zeros(4, 3), [1], is_fitted=True)
    before, targets = x.clone(), model(x.clone()).detach()
    calls = float(model.calls)
    problem = Problem(model, nn.MSELoss(), x, targets)
    change = problem.estimate(Move([1], seen.dx)).min_norm().value - problem.weights()
    assert torch.equal(x, before)
    assert float(model.calls) == calls
    assert float(change.norm()) > 0


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
@pytest.mark.parametrize("norm", [nn.utils.weight_norm, nn.utils.spectral_norm])
def test_an_old_normalised_layer_can_still_be_copied_afterwards(norm):
    model = nn.Sequential(norm(nn.Linear(3, 8)), nn.Tanh(), nn.Linear(8, 2)).eval()
    x = torch.randn(4, 3)
    with torch.no_grad():
        targets = model(x)
    problem = Problem(model, nn.MSELoss(), x, targets)
    copy.deepcopy(model)
    estimate = problem.estimate(Move(None, 0.01 * torch.randn(4, 3))).min_norm()
    assert torch.isfinite(estimate.apply_to(model)(x)).all()


@pytest.mark.parametrize(
    "inputs",
    [
        torch.randn(3, 1).T.expand(2, 3).double(),  # two equal points
        torch.randn(2, 3, dtype=torch.float64, requires_grad=True),
    ],
)
def test_views_and_inputs_that_require_grad_are_taken(inputs):
    model = nn.Linear(3, 2).eval()
    problem = Problem(model, nn.MSELoss(), inputs, model(inputs).detach(), weight_decay=0.0)
    assert torch.isfinite(problem.estimate(Move(None, torch.zeros(2, 3))).min_norm().value).all()


def test_dropout_that_does_not_follow_the_mode_is_refused_by_name():
    class Random(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 8)

        def forward(self, x):
            return functional.dropout(self.linear(x), 0.3)

    with pytest.raises(ValueError, match=NAMED):
        Problem(Random().eval(), nn.MSELoss(), torch.randn(4, 3), torch.zeros(4, 8))


def test_complex_weights_are_refused_by_name():
    class Complex(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.randn(3, 2, dtype=torch.complex128))

        def forward(self, x):
            return (x.to(torch.complex128) @ self.w).abs()

    with pytest.raises((TypeError, ValueError), match=NAMED):
        Problem(Complex().eval(), nn.MSELoss(), torch.randn(4, 3), torch.zeros(4, 2))


class TwoInputs(nn.Module):
    """A table and an image, or token ids with a mask."""

    def __init__(self):
        super().__init__()
        self.words, self.table, self.out = nn.Embedding(9, 3), nn.Linear(2, 3), nn.Linear(3, 3)

    def forward(self, ids, mask, table):
        words = (self.words(ids) * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return {"logits": self.out((words + self.table(table)).tanh())}


def test_a_dict_of_ids_masks_and_a_table_moves_its_table_alone():
    model, n = TwoInputs().eval(), 12
    ids, table = torch.randint(9, (n, 4)), torch.randn(n, 2)
    mask = (torch.arange(4) < torch.randint(1, 5, (n, 1))).long()

    class OfTable(nn.Module):  # the same model as a function of the table, for the oracle
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, x):
            return self.inner(ids, mask, x)["logits"]

    seen = situation(OfTable(), nn.CrossEntropyLoss(), table, torch.arange(n) % 3, [2, 7])
    batch = {"ids": ids, "mask": mask, "table": table, "labels": torch.arange(n) % 3}
    problem = Problem(
        model, nn.CrossEntropyLoss(), batch, "labels", moves="table", outputs="logits", weight_decay=1e-2
    )
    change = problem.estimate(Move([2, 7], seen.dx)).min_norm().value - problem.weights()
    assert float((change - seen.change).norm() / seen.change.norm()) < 1e-5
