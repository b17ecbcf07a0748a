"""Embeddings whose gradients PyTorch changes, or whose weights it writes to, are plain functions."""

import pytest
import torch
from torch import Tensor, nn

from solset import Move, Problem

IDS = torch.tensor([0, 1, 2, 3, 4, 0, 1, 2])


class Tokens(nn.Module):
    """A token's vector times a feature, and a linear layer."""

    def __init__(self, embedding: nn.Module) -> None:
        super().__init__()
        self.embedding = embedding
        self.head = nn.Linear(3, 2, dtype=torch.float64)

    def forward(self, ids: Tensor, features: Tensor) -> Tensor:
        tokens = self.embedding(ids if isinstance(self.embedding, nn.Embedding) else ids.unsqueeze(1))
        return self.head(torch.cat([tokens * features[:, :1], features[:, 1:]], 1))


def _problem(embedding: nn.Module) -> Problem:
    source = torch.Generator().manual_seed(0)
    features = torch.randn(8, 2, generator=source, dtype=torch.float64)
    targets = torch.randn(8, 2, generator=source, dtype=torch.float64)
    torch.manual_seed(0)
    model = Tokens(embedding.double()).double()
    for value in model.parameters():
        nn.init.normal_(value, std=0.5)
    return Problem(model.eval(), nn.MSELoss(), (IDS, features), targets, weight_decay=0.1, gradient_tol=10.0)


def _change(problem: Problem) -> Tensor:
    move = Move([0, 1], torch.full((2, 2), 1e-3, dtype=torch.float64))
    return problem.estimate(move, optimality="stationary").min_norm().value - problem.weights()


@pytest.mark.parametrize("option", ["sparse", "scale_grad_by_freq"])
@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_options_of_training_do_not_change_the_risk(kind: type[nn.Module], option: str) -> None:
    plain = _problem(kind(5, 2))
    other = _problem(kind(5, 2, **{option: True}))
    assert torch.allclose(other.gradient(), plain.gradient(), atol=1e-14)
    if kind is nn.Embedding:  # a bag has no second derivative, and warns of differences
        assert torch.allclose(_change(other), _change(plain), atol=1e-12)


def test_the_row_of_the_filling_token_is_held() -> None:
    change = _change(_problem(nn.Embedding(5, 2, padding_idx=0)))
    assert (
        float(change[:2].abs().max()) == 0.0
    )  # points 0 and 5 have this token, and differences would see it
    assert float(change[2:].abs().max()) > 1e-6


def test_rows_at_their_largest_length_turn_and_no_more() -> None:
    problem = _problem(nn.Embedding(5, 2, max_norm=0.2))
    model = problem.risk().model
    before = model.embedding.weight.detach().clone()  # type: ignore[union-attr]
    assert float(before.norm(dim=1).max()) > 0.2
    rows = problem.weights()[:10].reshape(5, 2)
    lengths = rows.norm(dim=1)
    losses = problem.risk().loss_gradient[:10].reshape(5, 2)
    radial = (losses * rows).sum(1)[lengths > 0.2]
    assert float(radial.abs().max()) < 1e-12
    assert torch.equal(model.embedding.weight, before)  # type: ignore[union-attr]
