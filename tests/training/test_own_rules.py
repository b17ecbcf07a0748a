"""Optimizers of the user's own, and rules of torch.optim with slots that few others have."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from solset import Move, Reweight, SolsetWarning, Training
from solset.errors import Status
from solset.training import Run

F64 = torch.float64
X = torch.randn(14, 4, dtype=F64, generator=torch.Generator().manual_seed(0))
Y = torch.arange(14) % 3
DX = torch.randn(2, 4, dtype=F64, generator=torch.Generator().manual_seed(1))
MOVE = Move([1, 6], DX)


def make() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3)).double()


def by_layer(kind: type) -> type:
    """An optimizer that gives the gradient of each parameter the norm 1, which couples its entries."""

    class ByLayer(kind):
        def step(self, closure=None):
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.grad = parameter.grad / (parameter.grad.norm() + 1e-3)
            return super().step(closure)

    return ByLayer


class Tempered(torch.optim.SGD):
    """Steps in the mean length of the gradients so far: a slot that is no tensor like its parameter."""

    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                length = state.get("length", torch.ones((), dtype=parameter.dtype))
                state["length"] = 0.5 * length + 0.5 * parameter.grad.norm()
                parameter.grad = parameter.grad / state["length"]
        return super().step(closure)


RULES = {
    "AdamW by layer": partial(by_layer(torch.optim.AdamW), lr=1e-2, eps=1e-2),
    "Adam by layer": partial(by_layer(torch.optim.Adam), lr=1e-2, eps=1e-2),
    "SGD with a length": partial(Tempered, lr=0.1, momentum=0.9),
    "ASGD that averages": partial(torch.optim.ASGD, lr=0.05, t0=3, weight_decay=1e-2),
}


def run_of(optimizer) -> Run:
    return Training(make, nn.CrossEntropyLoss(), X, Y, optimizer=optimizer, epochs=2, batch_size=5).run()


@pytest.mark.parametrize("optimizer", RULES.values(), ids=RULES)
def test_its_derivative_is_that_of_reruns(optimizer):
    run = run_of(optimizer)
    tangent = run.estimate(MOVE, verify=False).change
    ends = [run.retrain(MOVE, scale=sign * 1e-4, progress=False).weights for sign in (1, -1)]
    real = (ends[0] - ends[1]) / 2e-4
    assert float((tangent - real).norm() / real.norm()) < 1e-6
    direction = torch.randn(len(tangent), dtype=F64, generator=torch.Generator().manual_seed(2))

    def goal(model: nn.Module) -> Tensor:
        return torch.cat([value.reshape(-1) for value in model.parameters()]) @ direction

    features = run.attribute(goal, verify=False).features
    assert float((features[[1, 6]] * DX).sum()) == pytest.approx(float(tangent @ direction), rel=1e-10)


class Outside(torch.optim.SGD):
    """A rule that leaves PyTorch."""

    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.as_tensor(parameter.grad.numpy().clip(-0.1, 0.1))
        return super().step(closure)


def test_a_rule_without_derivative_is_named_and_not_the_model():
    run = run_of(partial(Outside, lr=0.1))
    for ask in (lambda: run.estimate(MOVE), lambda: run.attribute(lambda model: model(X).square().sum())):
        with pytest.raises(TypeError, match="`optimizer`.*differentiate.*numpy"):
            ask()


def test_sparse_gradients_of_an_embedding_give_what_dense_ones_give(tmp_path):
    words = torch.randint(0, 7, (14, 3), generator=torch.Generator().manual_seed(2))

    def run_with(*, sparse: bool) -> Run:
        def words_in() -> nn.Module:
            return nn.Sequential(nn.Embedding(7, 4, sparse=sparse), nn.Flatten(), nn.Linear(12, 3)).double()

        recipe = {"optimizer": partial(torch.optim.SGD, lr=0.1, momentum=0.9), "epochs": 2, "batch_size": 5}
        return Training(words_in, nn.CrossEntropyLoss(), words, Y, **recipe).run(
            memory_budget=1, folder=tmp_path / str(sparse)
        )

    runs = [run_with(sparse=sparse) for sparse in (True, False)]
    assert torch.allclose(runs[0].weights, runs[1].weights, rtol=0, atol=1e-14)
    changes = [run.estimate(Reweight([1, 4], 0.5), verify=False).change for run in runs]
    assert torch.allclose(*changes, rtol=1e-9, atol=1e-12)


class Unseen(torch.optim.SGD):
    """Shrinks large weights after each step, where autograd does not see it."""

    def step(self, closure=None):
        loss = super().step(closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.data.sub_(0.05 * parameter.data * parameter.data.abs())
        return loss


def test_rule_that_autograd_does_not_see_is_doubtful():
    run = run_of(partial(Unseen, lr=0.1))
    words = r"derivative of the optimizer's rule is wrong: by autograd it is \d+% off"
    with pytest.warns(SolsetWarning, match=words):
        assert run.estimate(MOVE, verify=False).status is Status.DOUBTFUL
    with pytest.warns(SolsetWarning, match=words):
        worth = run.attribute(lambda model: model(X).square().mean())
    assert worth.status is Status.DOUBTFUL


@pytest.mark.parametrize("optimizer", RULES.values(), ids=RULES)
def test_rule_that_autograd_sees_is_not_doubted(optimizer):
    assert run_of(optimizer).estimate(MOVE, verify=False).fault == ""
