"""Scores of a run are compared with real reruns, and say so where these contradict them."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from solset import Move, Remove, SolsetWarning, Training, audit
from solset.errors import Status
from solset.poisoning import Budget, poison_training
from solset.training import Run

SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=5e-4)
ADAMW = partial(torch.optim.AdamW, lr=3e-3, weight_decay=1e-2)
ROUGH = "not differentiable at this scale"


def images(n: int = 150, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Small noisy images of three classes that overlap."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(n) % 3
    noise = torch.rand(n, 12, generator=generator, dtype=dtype)
    return 0.8 * noise + 0.3 * nn.functional.one_hot(y, 3).repeat(1, 4), y


def recipe(activation: type[nn.Module], optimizer: object, dtype: torch.dtype = torch.float32) -> Training:
    x, y = images(dtype=dtype)

    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(12, 32), activation(), nn.Linear(32, 3)).to(dtype)

    return Training(
        make, nn.CrossEntropyLoss(), x[:100], y[:100], optimizer=optimizer, epochs=10, batch_size=20
    )


def trained(*parts: object) -> Run:
    return recipe(*parts).run()


def held_out(model: nn.Module) -> Tensor:
    dtype = next(model.parameters()).dtype
    x, y = images(dtype=dtype)
    return nn.functional.cross_entropy(model(x[100:]), y[100:])


@pytest.mark.parametrize(("optimizer", "with_features"), [(SGD, True), (SGD, False), (ADAMW, True)])
def test_scores_of_rectifiers_are_doubtful_and_those_of_tanh_hold(optimizer, with_features):
    with pytest.warns(SolsetWarning, match=ROUGH):
        rough = trained(nn.ReLU, optimizer).attribute(held_out, features=with_features)
    assert rough.status is Status.DOUBTFUL
    assert rough.smoothness.disagreement > 0.2
    assert rough.smoothness.status is Status.DOUBTFUL
    assert ROUGH in rough.smoothness.message
    assert ROUGH in rough.message
    assert "doubtful" in repr(rough)
    smooth = trained(nn.Tanh, optimizer).attribute(held_out, features=with_features)
    assert smooth.status is smooth.smoothness.status is Status.CONVERGED
    assert smooth.smoothness.message == ""
    assert max(*smooth.smoothness.errors, smooth.smoothness.disagreement) < 0.1
    assert "the scores predict real reruns" in smooth.message


def test_numbers_are_those_of_two_real_reruns():
    run = trained(nn.Tanh, SGD, torch.float64)
    worth = run.attribute(held_out)
    x = images(dtype=torch.float64)[0][:100]
    top = (worth.features * x).abs().sum(dim=1).argsort(descending=True)[:10].tolist()
    dx = 0.01 * x[top].abs() * worth.features[top].sign()
    reruns = [run.retrain(Move(top, dx), scale=scale) for scale in (1.0, 0.5)]
    real = torch.stack([held_out(rerun.model) for rerun in reruns]).detach() - worth.value
    torch.testing.assert_close(worth.smoothness.real, real)
    predicted = (worth.features[top] * dx).sum()
    torch.testing.assert_close(worth.smoothness.predicted, torch.stack([predicted, predicted / 2]))
    first, second = (rerun.change for rerun in reruns)
    assert worth.smoothness.disagreement == pytest.approx(float((first - 2 * second).norm() / first.norm()))
    assert run.value(held_out, reruns[0].model) == pytest.approx(float(held_out(reruns[0].model).detach()))


def test_a_block_has_one_verdict_and_a_goal_that_nothing_moves_holds():
    run = trained(nn.Tanh, SGD, torch.float64)
    block = run.attribute([held_out, lambda model: model(images(dtype=torch.float64)[0][:3])[:, 0]])
    assert block.smoothness.real.shape == (2, 4)
    assert block.smoothness.errors[0] < 0.1
    assert "changes of the goals have the lengths" in block.message
    still = run.attribute(lambda model: sum(value.sum() for value in model.parameters()) * 0.0)
    assert still.smoothness.errors == (0.0, 0.0)
    assert still.status is Status.CONVERGED
    assert "was not asked" in run.attribute(held_out, verify=False).message


def test_audit_and_poisoning_of_a_run_take_the_verdict():
    x, y = images()
    with pytest.warns(SolsetWarning, match=ROUGH):
        rough = audit(trained(nn.ReLU, SGD), Remove, validation=(x[100:], y[100:]))
    assert rough.status is Status.DOUBTFUL
    assert ROUGH in rough.message
    assert audit(trained(nn.Tanh, SGD), validation=(x[100:], y[100:])).status is Status.CONVERGED
    with pytest.warns(SolsetWarning, match=ROUGH):
        design = poison_training(recipe(nn.ReLU, SGD), held_out, Budget([1, 2], 0.1), seeds=(0,), rounds=1)
    assert design.status is Status.DOUBTFUL
    assert "rest on a derivative that does not hold" in design.message


class Narrow(nn.Module):
    """A net whose first feature has to lie near 1: there is no number a hundredth away from it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        """Outputs ``(n, 3)``."""
        away = inputs[:, :1] - 1.0
        return self.layer(inputs.clone()) * (1.0 + away + (1e-5 - away.square()).sqrt())


def test_scores_are_doubtful_where_the_reruns_diverge():
    x, y = images()
    x[:, 0] = 1.0
    run = Training(
        Narrow, nn.CrossEntropyLoss(), x[:100], y[:100], optimizer=SGD, epochs=2, batch_size=20
    ).run()
    with pytest.warns(SolsetWarning, match="where training fails"):
        worth = run.attribute(lambda model: nn.functional.cross_entropy(model(x[100:]), y[100:]))
    assert worth.status is Status.DOUBTFUL
    assert bool(torch.isfinite(worth.weights).all())
