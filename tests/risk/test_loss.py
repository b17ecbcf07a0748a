"""A loss is a mean or a sum over all points, weighted or not, of outputs and targets alone, or refused."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from solset import Problem

N, PROBED = 40, [0, 6, 11, 17, 22, 28, 33, 39]  # the probe of a few points looks at these
RARE = 20


def problem(loss, targets: torch.Tensor) -> Problem:
    generator = torch.Generator().manual_seed(0)
    model = nn.Linear(3, 3).double().eval()
    inputs = torch.randn(N, 3, generator=generator, dtype=torch.float64)
    return Problem(model, loss, inputs, targets, gradient_tol=100.0)


def labels() -> torch.Tensor:
    """One class everywhere, another at a single point that the probe does not meet."""
    targets = torch.zeros(N, dtype=torch.long)
    targets[RARE] = 1
    return targets


def weighted_mean(outputs, targets):
    return functional.cross_entropy(outputs, targets, torch.tensor([1.0, 10.0, 1.0], dtype=torch.float64))


def ignoring(outputs, targets):
    return functional.cross_entropy(outputs, targets.where(targets != 1, -100), ignore_index=-100)


def with_a_batch_term(outputs, targets):
    return (
        functional.cross_entropy(outputs, targets)
        + 0.1 * outputs.where(targets[:, None] == 1, 0).mean().square()
    )


def test_what_a_few_points_do_not_show_is_refused_on_all():
    assert not set(PROBED) & {RARE}
    with pytest.raises(ValueError, match="`loss` must be a mean or a sum over points, on every point"):
        problem(with_a_batch_term, labels())


@pytest.mark.parametrize("loss", [weighted_mean, ignoring])
def test_weights_that_a_few_points_do_not_show_are_seen_on_all(loss):
    built = problem(loss, labels())
    outputs = built.risk().forward(
        built.risk().layout.split(built.weights()), built.risk().points[range(N)][0]
    )
    assert built.risk().value() == pytest.approx(float(loss(outputs, labels())), rel=1e-12)


def test_a_penalty_on_weights_inside_the_loss_is_refused():
    weight = nn.Parameter(torch.ones(3, dtype=torch.float64))
    with pytest.raises(ValueError, match="outputs and targets alone; got one that depends on tensors"):
        problem(lambda o, t: functional.cross_entropy(o, t) + 0.1 * weight.square().sum(), labels())


def test_weights_of_the_loss_that_are_held_are_no_obstacle():
    temperature = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))
    assert (
        problem(lambda o, t: functional.cross_entropy(o / temperature.detach(), t), labels()).point_count == N
    )


@pytest.mark.parametrize(
    "loss",
    [
        functional.cross_entropy,
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 10.0, 1.0], dtype=torch.float64), reduction="sum"),
        nn.CrossEntropyLoss(label_smoothing=0.1),
        nn.MultiMarginLoss(),
        lambda o, t: functional.nll_loss(o.log_softmax(dim=1), t) if len(o) else o.sum(),
    ],
)
def test_plain_means_and_sums_are_taken(loss):
    assert problem(loss, labels()).risk().reduction in {"mean", "sum"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_confident_fit_is_no_obstacle(dtype):
    """Losses of 1e-12 and less are rounding, which differs between one point and many."""
    targets = (torch.arange(64) % 3).repeat(2)
    outputs = 60.0 * nn.functional.one_hot(targets, 3).to(dtype)
    model = nn.Linear(3, 3, bias=False).to(dtype).eval()
    with torch.no_grad():
        model.weight.copy_(torch.eye(3))
    assert Problem(model, nn.CrossEntropyLoss(), outputs, targets).risk().reduction == "mean"


def test_a_loss_that_drops_the_axis_of_the_points_is_refused():
    def squeezing(outputs, targets):
        return functional.binary_cross_entropy_with_logits(outputs.squeeze(), targets)

    model = nn.Linear(3, 1).double().eval()
    with pytest.raises(TypeError, match="takes a single point too; got ValueError"):
        Problem(model, squeezing, torch.ones(4, 3).double(), torch.ones(4).double(), gradient_tol=100.0)


def test_a_loss_that_is_not_finite_on_single_points_is_told_how_it_is_declared():
    """A mean over pairs of a positive and a negative has no pair in one point."""
    model, x, y = nn.Linear(2, 1).eval(), torch.randn(6, 2), torch.arange(6) % 2

    def ranking(outputs, targets):
        score = outputs[:, 0]
        return functional.softplus(score[targets == 0][:, None] - score[targets == 1]).mean()

    with pytest.raises(ValueError, match=r"not finite for points \[0, 1, 2, 3, 4\] one by one.*WholeBatch"):
        Problem(model, ranking, x, y, gradient_tol=float("inf"))
