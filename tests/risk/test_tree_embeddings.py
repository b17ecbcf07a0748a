"""Token ids, whose embeddings move: the numbers are those of dense autograd on the model."""

import pytest
import torch
from torch import nn
from torch.nn import functional

import solset
from solset import Move, Problem
from support.trees import (
    DECAY,
    IDS,
    INF,
    LABELS,
    MASK,
    WORDS,
    N,
    T,
    assert_close,
    dense,
    drawn,
    estimated,
    text_model,
    text_problem,
)

pytestmark = pytest.mark.usefixtures("seeded")


@pytest.mark.parametrize("name", ["input_ids", "words", None])
def test_moved_embeddings_are_those_of_autograd(name):
    model = text_model()
    problem = text_problem(model, moves=solset.embedding_of(name))
    assert problem.input_shape == (T, 2)

    def value(displacement):
        embedded = model.words(IDS) + displacement
        return functional.cross_entropy(model(attention_mask=MASK, inputs_embeds=embedded).logits, LABELS)

    dx = torch.zeros(N, T, 2, dtype=torch.float64)
    dx[[0, 4]] = 0.1 * drawn(2, T, 2)
    truth = dense(model, value)
    assert_close(estimated(problem, Move([4, 0], dx[[4, 0]])), truth(torch.zeros_like(dx), dx))


def test_a_batch_in_which_nothing_can_move_has_scores_but_no_moves():
    model = text_model()
    problem = text_problem(model)
    goal = solset.goals.PointLosses({"input_ids": IDS[:2], "attention_mask": MASK[:2]}, LABELS[:2])
    assert problem.attribute(goal).weights.shape == (2, N)
    with pytest.raises(ValueError, match=r"`moves` must be .*embedding_of"):
        problem.estimate(Move([0], torch.zeros(1, T)))


def test_a_share_of_a_displacement_that_is_zero_is_refused():
    from solset.reports._directions import step_of

    problem = text_problem(text_model(), moves=solset.embedding_of())
    features = problem.risk().points.features([0, 1])
    with pytest.raises(ValueError, match="`size` must be a share of features that are not zero"):
        step_of(features, torch.ones_like(features), 0.01)


class TiedWithScale(nn.Module):
    """A language model whose output layer is its embedding, with a learned scale."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.out = nn.Embedding(WORDS, 2), nn.Linear(2, WORDS, bias=False)
        self.out.weight = self.words.weight
        self.scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, input_ids, shift=None):
        embedded = self.words(input_ids) if shift is None else self.words(input_ids) + shift
        return {"logits": self.scale.exp() * self.out(embedded.tanh().cumsum(1))}


def next_words(logits, ids):
    return functional.cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:])


@pytest.mark.parametrize("optimality", ["stationary", "gauss_newton"])
def test_tied_and_scalar_weights_in_dict_batches_are_those_of_autograd(optimality):
    model = TiedWithScale().double().eval()
    options = {"outputs": "logits", "weight_decay": DECAY, "gradient_tol": INF, "batch_size": 4}
    problem = Problem(model, next_words, {"input_ids": IDS}, IDS, moves=solset.embedding_of(), **options)
    dx = torch.zeros(N, T, 2, dtype=torch.float64)
    dx[2] = 0.1 * drawn(T, 2)
    change = Move([2], dx[2:3])
    if optimality == "gauss_newton":
        assert problem.estimate(change, optimality=optimality).min_norm().status == "converged"
        return
    truth = dense(model, lambda shift: next_words(model(IDS, shift)["logits"], IDS))
    assert_close(estimated(problem, change), truth(torch.zeros_like(dx), dx))
