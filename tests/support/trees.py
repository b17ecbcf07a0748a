"""Small models and batches of several tensors, and dense autograd on them."""

from types import SimpleNamespace

import torch
from torch import Tensor, nn

from solset import Move, Problem

INF = float("inf")
N, T, WORDS = 6, 4, 7
DECAY = 0.1


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


IDS = torch.randint(1, WORDS, (N, T), generator=torch.Generator().manual_seed(1))
MASK = (torch.arange(T) < torch.tensor([4, 2, 3, 4, 1, 3]).unsqueeze(1)).long()
LABELS = torch.tensor([0, 1, 2, 0, 1, 1])
IMAGE, TABLE = drawn(N, 1, 2, 2, seed=2), drawn(N, 3, seed=3)


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image, self.table, self.out = nn.Linear(4, 3), nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, image, table):
        return self.out((self.image(image.flatten(1)) + self.table(table)).tanh())


class Transformer(nn.Module):
    """A small text classifier with the interface of Hugging Face's."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, 2), nn.Embedding(T, 2)
        self.mix, self.out = nn.Linear(2, 2), nn.Linear(2, 3)

    def forward(self, input_ids=None, attention_mask=None, inputs_embeds=None):
        embedded = self.words(input_ids) if inputs_embeds is None else inputs_embeds
        h = embedded + self.places(torch.arange(embedded.shape[1]))
        scores = (h @ self.mix(h).mT).masked_fill(attention_mask.unsqueeze(1) == 0, -1e9)
        h = h + scores.softmax(-1) @ h
        m = attention_mask.unsqueeze(-1).to(h.dtype)
        return SimpleNamespace(logits=self.out(torch.tanh((h * m).sum(1) / m.sum(1))), hidden_states=None)


def text_model() -> Transformer:
    return Transformer().double().eval()


def text_problem(model, **options):
    batch = {"input_ids": IDS, "attention_mask": MASK}
    options = {"outputs": "logits", "weight_decay": DECAY, "gradient_tol": INF, "batch_size": 4} | options
    return Problem(model, nn.CrossEntropyLoss(), batch, LABELS, **options)


class Heads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.kinds, self.size = nn.Linear(3, 4), nn.Linear(4, 3), nn.Linear(4, 1)

    def forward(self, x):
        h = self.body(x).tanh()
        return {"kinds": self.kinds(h), "more": (self.size(h),)}


def regressor(*more: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(3, 1), *more).double().eval()


def dense(model, value, names=None):
    """``-H⁻¹ B`` for a function ``value(δ)`` of features that move, by dense autograd on the module."""
    parameters = [p for name, p in model.named_parameters() if names is None or name in names]

    def change(features: Tensor, dx: Tensor) -> Tensor:
        leaf = features.clone().requires_grad_()
        risk = value(leaf) + DECAY / 2 * sum(p.square().sum() for p in parameters)
        slopes = torch.autograd.grad(risk, parameters, create_graph=True, allow_unused=True)
        flat = torch.cat(
            [
                (torch.zeros_like(p) if s is None else s).reshape(-1)
                for s, p in zip(slopes, parameters, strict=True)
            ]
        )
        rows = [
            torch.autograd.grad(
                g, [*parameters, leaf], retain_graph=True, allow_unused=True, materialize_grads=True
            )
            if g.requires_grad
            else [torch.zeros_like(t) for t in [*parameters, leaf]]
            for g in flat
        ]
        hessian = torch.stack([torch.cat([part.reshape(-1) for part in row[:-1]]) for row in rows])
        mixed = torch.stack([row[-1].reshape(-1) for row in rows])
        return -torch.linalg.solve(hessian, mixed @ dx.reshape(-1))

    return change


def estimated(problem: Problem, change: Move) -> Tensor:
    return problem.estimate(change, optimality="stationary").min_norm().value - problem.weights()


def assert_close(value: Tensor, expected: Tensor) -> None:
    assert float((value - expected).norm() / expected.norm()) <= 1e-8
