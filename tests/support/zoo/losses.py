"""Losses, each with the number of outputs it needs, its targets, and the targets that outputs fit exactly."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from solset import WholeBatch

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class LossKind:
    """How a loss is made, and which data go with it.

    ``build(model)`` is the loss, which may read the model's weights. ``targets(n)`` are targets that no net
    fits; ``fitted(outputs)`` are those at which the loss's gradient in the outputs is 0. A loss that is not
    taken is refused by name on any model: a function of all outputs together, or one with weights inside.
    """

    build: Callable[[nn.Module], Loss]
    targets: Callable[[int], Tensor]
    outputs: int
    fitted: Callable[[Tensor], Tensor] | None = None
    is_smooth: bool = True
    declared: "Declared | None" = None


@dataclass(frozen=True)
class Declared:
    """The form of a loss that a refusal asks for: ``cure`` is in its message.

    ``form(model, loss)`` is the model, the loss and the options of a problem in this form.
    """

    cure: str
    form: Callable[[nn.Module, Loss], tuple[nn.Module, Loss, dict[str, Any]]]


def real(c: int) -> Callable[[int], Tensor]:
    return lambda n: torch.randn(n, c)


def labels(c: int) -> Callable[[int], Tensor]:
    return lambda n: torch.arange(n)[torch.randperm(n)] % c


def ignored(n: int) -> Tensor:
    y = labels(3)(n)
    y[n // 2] = y[1] = -100
    return y


def rare(n: int) -> Tensor:
    """Labels of which one alone is of class 1."""
    return (torch.arange(n) == n // 2 + 1).long()


def bits(c: int) -> Callable[[int], Tensor]:
    return lambda n: (torch.rand(n, c) < 0.5).to(torch.get_default_dtype())


def shares(n: int) -> Tensor:
    return torch.randn(n, 3).softmax(1)


def same(outputs: Tensor) -> Tensor:
    return outputs.clone()


def soft(outputs: Tensor) -> Tensor:
    return outputs.softmax(1)


def signs(n: int) -> Tensor:
    return 2 * bits(1)(n) - 1


def dice(o: Tensor, t: Tensor) -> Tensor:
    """Soft Dice over the batch: not a mean over points."""
    s = o.sigmoid()
    return 1 - (2 * (s * t).sum() + 1) / (s.square().sum() + t.square().sum() + 1)


def contrast(o: Tensor, t: Tensor) -> Tensor:
    """Contrastive loss of every point with the point of the same label, against all points of the batch."""
    z = o / (1 + o.square().sum(1, keepdim=True)).sqrt()  # no plain normalisation, whose minimum is at zero
    alike = (z @ z.T / 0.5) - 1e3 * torch.eye(len(z), dtype=z.dtype)
    partner = (t[:, None] == t) & ~torch.eye(len(t), dtype=torch.bool)
    each = (alike.log_softmax(1) * partner).sum(1) / partner.sum(1).clamp(min=1)
    return -each.sum() / len(z)


def ranking(o: Tensor, t: Tensor) -> Tensor:
    """A smooth surrogate of one minus the area under the curve."""
    score = o[:, 0]
    return functional.softplus(score[t == 0][:, None] - score[t == 1]).mean()


def focal(o: Tensor, t: Tensor) -> Tensor:
    log = -functional.cross_entropy(o, t, reduction="none")
    return (-(1 - log.exp()).square() * log).mean()


def log_cosh(o: Tensor, t: Tensor) -> Tensor:
    return (o - t + functional.softplus(-2 * (o - t))).mean()


LEAST = 0.3  # variance beside the one that is learned, which a fit of few points drives to zero


def gaussian(o: Tensor, t: Tensor) -> Tensor:
    return 0.5 * (o[:, 1] + ((o[:, 0] - t[:, 0]).square() + LEAST) * (-o[:, 1]).exp()).mean()


def pinball(o: Tensor, t: Tensor) -> Tensor:
    return torch.maximum(0.9 * (t - o), -0.1 * (t - o)).mean()


def weighted(o: Tensor, t: Tensor) -> Tensor:
    """The weighted mean ``Σ wᵢ ℓᵢ / Σ wᵢ``; the last target of a point is its weight."""
    w = t[:, -1]
    return (w * (o - t[:, :-1]).square().sum(1)).sum() / w.sum()


def with_weights(n: int) -> Tensor:
    return torch.cat([torch.randn(n, 2), 0.1 + 3 * torch.rand(n, 1)], dim=1)


class TaskWeights(nn.Module):
    """Squared errors of two tasks, each divided by a variance that is learned."""

    def __init__(self) -> None:
        super().__init__()
        self.s = nn.Parameter(torch.zeros(2))

    def forward(self, o: Tensor, t: Tensor) -> Tensor:
        return ((-self.s).exp() * ((o - t).square() + LEAST) + self.s).mean()


def penalty(size: Callable[[Tensor], Tensor]) -> Callable[[nn.Module], Loss]:
    """A squared error with a penalty on all weights of the model, written inside the loss."""

    def build(model: nn.Module) -> Loss:
        return lambda o, t: functional.mse_loss(o, t) + 0.05 * sum(size(p) for p in model.parameters())

    return build


def beside(size: Callable[[Tensor], Tensor]) -> Declared:
    """The same penalty given beside the squared error."""
    options = {"penalty": lambda named: 0.05 * sum(size(p) for p in named.values())}
    return Declared("penalty=", lambda model, _: (model, nn.MSELoss(), options))


WHOLE = Declared("solset.WholeBatch(loss)", lambda model, loss: (model, WholeBatch(loss), {}))


def root(p: Tensor) -> Tensor:
    """A smooth version of the absolute value."""
    return (p.square() + 1e-2).sqrt().sum()


def quartic(p: Tensor) -> Tensor:
    return p.pow(4).sum()


TASKS = Declared('"loss.*"', lambda model, loss: (model, loss, {"parameters": ["*", "loss.*"]}))


def plain(loss: Loss) -> Callable[[nn.Module], Loss]:
    return lambda _: loss


def weights(*values: float) -> Tensor:
    return torch.tensor(values)


LOSSES: dict[str, LossKind] = {
    "squared error": LossKind(plain(nn.MSELoss()), real(2), 2, same),
    "squared error, sum": LossKind(plain(nn.MSELoss(reduction="sum")), real(2), 2, same),
    "squared error, one output": LossKind(plain(nn.MSELoss()), real(1), 1, same),
    "weighted squared error": LossKind(
        plain(weighted), with_weights, 2, lambda o: torch.cat([o, with_weights(len(o))[:, -1:].to(o)], 1)
    ),
    "squared error in small units": LossKind(
        plain(lambda o, t: 1e-4 * functional.mse_loss(o, t)), real(2), 2, same, is_smooth=False
    ),
    "smooth L1": LossKind(plain(nn.SmoothL1Loss()), real(2), 2, same),
    "Huber": LossKind(plain(nn.HuberLoss(delta=0.5)), real(2), 2, same),
    "log-cosh": LossKind(plain(log_cosh), real(2), 2, same),
    "absolute error": LossKind(plain(nn.L1Loss()), real(2), 2, is_smooth=False),
    "pinball": LossKind(plain(pinball), real(1), 1, is_smooth=False),
    "cross-entropy": LossKind(plain(nn.CrossEntropyLoss()), labels(3), 3),
    "cross-entropy, sum": LossKind(plain(nn.CrossEntropyLoss(reduction="sum")), labels(3), 3),
    "cross-entropy, smoothed": LossKind(plain(nn.CrossEntropyLoss(label_smoothing=0.1)), labels(3), 3),
    "cross-entropy, class weights": LossKind(
        lambda _: lambda o, t: functional.cross_entropy(o, t, weight=weights(1.0, 9.0).to(o)), rare, 2
    ),
    "cross-entropy, ignored targets": LossKind(plain(nn.CrossEntropyLoss()), ignored, 3),
    "cross-entropy, soft targets": LossKind(plain(nn.CrossEntropyLoss()), shares, 3, soft),
    "focal": LossKind(plain(focal), labels(2), 2),
    "binary cross-entropy": LossKind(plain(nn.BCEWithLogitsLoss()), bits(2), 2, Tensor.sigmoid),
    "binary cross-entropy, positive weight": LossKind(
        lambda _: (
            lambda o, t: functional.binary_cross_entropy_with_logits(o, t, pos_weight=weights(3.0).to(o))
        ),
        bits(1),
        1,
    ),
    "soft margin of labels": LossKind(plain(nn.MultiLabelSoftMarginLoss()), bits(2), 2),
    "hinge": LossKind(plain(nn.MultiMarginLoss()), labels(3), 3, is_smooth=False),
    "squared hinge": LossKind(plain(lambda o, t: (1 - o * t).clamp(min=0).square().mean()), signs, 1),
    "Kullback-Leibler": LossKind(
        plain(lambda o, t: functional.kl_div(o.log_softmax(1), t, reduction="batchmean")), shares, 3, soft
    ),
    "Poisson": LossKind(plain(nn.PoissonNLLLoss()), lambda n: torch.poisson(torch.ones(n, 1)), 1, Tensor.exp),
    "Gaussian": LossKind(plain(gaussian), real(1), 2),
    "cosine": LossKind(plain(lambda o, t: 1 - functional.cosine_similarity(o, t).mean()), real(2), 2, same),
    "Dice": LossKind(plain(dice), bits(1), 1, declared=WHOLE),
    "contrastive": LossKind(plain(contrast), lambda n: torch.arange(n) // 2, 2, declared=WHOLE),
    "ranking": LossKind(plain(ranking), labels(2), 1, declared=WHOLE),
    "learned task weights": LossKind(lambda _: TaskWeights(), real(2), 2, declared=TASKS),
    "elastic penalty": LossKind(penalty(root), real(2), 2, declared=beside(root)),
    "quartic penalty": LossKind(penalty(quartic), real(2), 2, declared=beside(quartic)),
}
