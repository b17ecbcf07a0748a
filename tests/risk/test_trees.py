"""Batches of dicts, tuples and several tensors: the numbers are those of dense autograd on the model."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, TensorDataset

import solset
from solset import Move, Problem, SolsetWarning

INF = float("inf")
N, T, WORDS = 6, 4, 7
DECAY = 0.1


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


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


class Pairs(Dataset):
    """Pairs of a tuple of inputs and a label."""

    def __len__(self):
        return N

    def __getitem__(self, i):
        return (IMAGE[i], TABLE[i]), LABELS[i]


class Dicts(Dataset):
    """Dicts with labels, as Hugging Face's data sets give them."""

    def __len__(self):
        return N

    def __getitem__(self, i):
        return {"image": IMAGE[i], "table": TABLE[i], "labels": int(LABELS[i])}


def frame(table: Tensor) -> pd.DataFrame:
    return pd.DataFrame(table.numpy(), columns=["a", "b", "c"])


SOURCES = {
    "tuple": ((IMAGE, TABLE), LABELS),
    "dict": ({"table": TABLE, "image": IMAGE}, LABELS),
    "dict with labels": ({"table": TABLE, "image": IMAGE, "labels": LABELS}, None),
    "dict with the name of the labels": ({"table": TABLE, "image": IMAGE, "class": LABELS}, "class"),
    "arrays": ({"image": IMAGE.numpy(), "table": TABLE.numpy()}, LABELS.numpy()),
    "frame and series": ({"image": IMAGE, "table": frame(TABLE)}, pd.Series(LABELS.numpy())),
    "dataset of triples": (TensorDataset(IMAGE, TABLE, LABELS), None),
    "dataset of nested pairs": (Pairs(), None),
    "dataset of dicts": (Dicts(), None),
    "loader of dicts": (DataLoader(Dicts(), batch_size=2), None),
}


@pytest.mark.parametrize("moves", ["image", "table"])
@pytest.mark.parametrize(("inputs", "targets"), SOURCES.values(), ids=SOURCES)
def test_two_inputs_of_any_source_are_those_of_autograd(inputs, targets, moves):
    model = TwoInputs().double().eval()
    place = "01"[moves == "table"] if isinstance(inputs, tuple | TensorDataset | Pairs) else moves
    problem = Problem(
        model,
        nn.CrossEntropyLoss(),
        inputs,
        targets,
        moves=place,
        weight_decay=DECAY,
        gradient_tol=INF,
        batch_size=4,
    )
    parts = {"image": IMAGE, "table": TABLE}
    dx = torch.zeros_like(parts[moves])
    dx[[3, 1]] = 0.1 * drawn(*dx[[3, 1]].shape, seed=5)
    truth = dense(model, lambda x: functional.cross_entropy(model(**{**parts, moves: x}), LABELS))
    assert problem.input_shape == tuple(dx.shape[1:])
    assert_close(estimated(problem, Move([3, 1], dx[[3, 1]])), truth(parts[moves], dx))


def text_problem(model, **options):
    batch = {"input_ids": IDS, "attention_mask": MASK}
    options = {"outputs": "logits", "weight_decay": DECAY, "gradient_tol": INF, "batch_size": 4} | options
    return Problem(model, nn.CrossEntropyLoss(), batch, LABELS, **options)


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
    scores = solset.scores.removal_scores(
        problem, {"input_ids": IDS[:2], "attention_mask": MASK[:2]}, LABELS[:2]
    )
    assert scores.shape == (2, N)
    with pytest.raises(ValueError, match=r"`moves` must be .*embedding_of"):
        problem.estimate(Move([0], torch.zeros(1, T)))


class Heads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.kinds, self.size = nn.Linear(3, 4), nn.Linear(4, 3), nn.Linear(4, 1)

    def forward(self, x):
        h = self.body(x).tanh()
        return {"kinds": self.kinds(h), "more": (self.size(h),)}


def both(outputs, targets):
    kinds, size = targets
    return functional.cross_entropy(outputs["kinds"], kinds) + (outputs["more"][0] - size).square().mean()


@pytest.mark.parametrize("optimality", ["stationary", "gauss_newton"])
def test_trees_of_outputs_and_targets_go_to_the_loss_as_they_are(optimality):
    model, size = Heads().double().eval(), drawn(N, 1, seed=7)
    problem = Problem(model, both, TABLE, (LABELS, size), weight_decay=DECAY, gradient_tol=INF, batch_size=4)
    assert problem.output_count == 4
    dx = 0.1 * drawn(N, 3, seed=8)
    if optimality == "stationary":
        truth = dense(model, lambda x: both(model(x), (LABELS, size)))
        assert_close(estimated(problem, Move(None, dx)), truth(TABLE, dx))
    else:
        assert problem.estimate(Move(None, dx), optimality=optimality).min_norm().status == "converged"


@pytest.mark.parametrize("pick", ["1", 1, "2.kinds"])
def test_an_output_is_picked_by_the_path_that_messages_show(pick):
    class Listed(Heads):
        def forward(self, x):
            returned = super().forward(x)
            return returned["more"], returned["kinds"], returned

    model = Listed().double().eval()
    options = {"parameters": ["body.*", "kinds.*"], "gradient_tol": INF}
    listed = Problem(model, nn.CrossEntropyLoss(), TABLE, LABELS, outputs=pick, **options)
    assert listed.output_count == 3
    with pytest.raises(TypeError, match="outputs='0.0'"):
        Problem(model, nn.CrossEntropyLoss(), TABLE, LABELS, **options)


@pytest.mark.parametrize("pick", ["kinds", lambda returned: returned["kinds"]], ids=["key", "function"])
def test_an_output_is_picked(pick):
    model = Heads().double().eval()
    named = Problem(
        model,
        nn.CrossEntropyLoss(),
        TABLE,
        LABELS,
        outputs=pick,
        parameters=["body.*", "kinds.*"],
        weight_decay=DECAY,
        gradient_tol=INF,
    )
    dx = 0.1 * drawn(N, 3, seed=8)
    names = [name for name, _ in model.named_parameters() if "size" not in name]
    truth = dense(model, lambda x: functional.cross_entropy(model(x)["kinds"], LABELS), names)
    assert_close(estimated(named, Move(None, dx)), truth(TABLE, dx))


class MaskedMean(nn.Module):
    def __init__(self, uses_mask=True) -> None:
        super().__init__()
        self.layer, self.uses_mask = nn.Linear(2, 3), uses_mask

    def forward(self, x, mask):
        mask = mask.unsqueeze(-1).to(x.dtype) if self.uses_mask else torch.ones_like(x[..., :1])
        return (torch.tanh(self.layer(x)) * mask).sum(1) / mask.sum(1)


LENGTHS = (3, 1, 5, 2, 3, 4)


def padded_loader(side="right"):
    sequences = [drawn(length, 2, seed=20 + i) for i, length in enumerate(LENGTHS)]

    def collate(points):
        parts, labels = zip(*points, strict=True)
        pad = lambda parts: nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_side=side)  # noqa: E731
        return {
            "x": pad(parts),
            "mask": pad([torch.ones(len(part)).long() for part in parts]),
            "labels": torch.stack(labels),
        }

    return sequences, DataLoader(list(zip(sequences, LABELS, strict=True)), batch_size=2, collate_fn=collate)


@pytest.mark.parametrize("side", ["right", "left"])
def test_ragged_batches_are_those_of_autograd_on_each_point_alone(side):
    sequences, loader = padded_loader(side)
    model = MaskedMean().double().eval()
    problem = Problem(
        model, nn.CrossEntropyLoss(), loader, weight_decay=DECAY, gradient_tol=INF, batch_size=3
    )
    assert problem.input_shape == (5, 2)
    moved = 0.1 * drawn(2, 2, seed=9)
    own = slice(0, 2) if side == "right" else slice(3, 5)
    dx = torch.zeros(1, 5, 2, dtype=torch.float64)
    dx[0, own] = moved

    def value(x):
        ones = [torch.ones(1, len(part)) for part in sequences]
        parts = [model((x if i == 3 else part).unsqueeze(0), ones[i]) for i, part in enumerate(sequences)]
        return functional.cross_entropy(torch.cat(parts), LABELS)

    assert_close(estimated(problem, Move([3], dx)), dense(model, value)(sequences[3], moved))
    with pytest.raises(ValueError, match=r"`dx` must be zero in the padding .* points \[3\]"):
        problem.estimate(Move([3], torch.ones(1, 5, 2, dtype=torch.float64)))


def test_a_model_whose_outputs_depend_on_the_padding_is_refused():
    _, loader = padded_loader()
    with pytest.raises(ValueError, match="do not depend on the padding"):
        Problem(MaskedMean(uses_mask=False).double().eval(), nn.CrossEntropyLoss(), loader, gradient_tol=INF)


class AutoEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.narrow, self.wide = nn.Linear(3, 2), nn.Linear(2, 3)

    def forward(self, x):
        return self.wide(self.narrow(x).tanh())


def test_the_target_of_an_autoencoder_moves_if_asked_and_is_held_with_a_warning():
    model, dx = AutoEncoder().double().eval(), 0.1 * drawn(N, 3, seed=8)
    options = {"weight_decay": DECAY, "gradient_tol": INF, "batch_size": 4}
    moving = Problem(model, nn.MSELoss(), TABLE, TABLE, target_moves=True, **options)
    with pytest.warns(SolsetWarning, match="target_moves=True"):
        held = Problem(model, nn.MSELoss(), TABLE, TABLE, **options)
    assert_close(
        estimated(moving, Move(None, dx)), dense(model, lambda x: functional.mse_loss(model(x), x))(TABLE, dx)
    )
    assert_close(
        estimated(held, Move(None, dx)),
        dense(model, lambda x: functional.mse_loss(model(x), TABLE))(TABLE, dx),
    )
    with pytest.raises(ValueError, match="`target_moves` must be left out"):
        Problem(model, nn.MSELoss(), TABLE, TABLE + 1.0, target_moves=True, **options)


def regressor(*more: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(3, 1), *more).double().eval()


@pytest.mark.filterwarnings("ignore:Using a target size")
def test_outputs_of_one_column_beside_flat_targets_are_refused_by_name():
    for loss in (
        nn.MSELoss(),
        nn.SmoothL1Loss(),
        lambda o, t: (o - t).square().mean(),
        nn.MSELoss(reduction="sum"),
    ):
        with pytest.raises(ValueError, match=r"every pair of points.*unsqueeze"):
            Problem(regressor(), loss, TABLE, torch.ones(N, dtype=torch.float64), gradient_tol=INF)
    with pytest.raises(TypeError, match=r"`loss` must be .*unsqueeze"):
        Problem(
            regressor(), nn.BCEWithLogitsLoss(), TABLE, torch.ones(N, dtype=torch.float64), gradient_tol=INF
        )


def test_a_loss_that_squeezes_its_outputs_itself_is_taken():
    loss = lambda o, t: functional.mse_loss(o.squeeze(-1), t)  # noqa: E731
    targets = drawn(N, seed=4)
    squeezed = Problem(regressor(), loss, TABLE, targets, gradient_tol=INF)
    assert squeezed.output_count == 1


class Ring(nn.Module):
    """A graph of which each point is a node, with its edges built in."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.register_buffer("neighbour", torch.arange(1, N + 1) % N)

    def forward(self, x):
        return self.layer(x) + self.layer(x)[self.neighbour]


REFUSED = {
    "two tensors of real numbers": (
        lambda: Problem(TwoInputs().double().eval(), nn.CrossEntropyLoss(), (IMAGE, TABLE), LABELS),
        ValueError,
        r"`moves` must be .*\['0', '1'\]",
    ),
    "a tensor that is not there": (
        lambda: text_problem(text_model(), moves="pixels"),
        ValueError,
        "attention_mask",
    ),
    "token ids": (
        lambda: text_problem(text_model(), moves="input_ids"),
        TypeError,
        r"embedding_of\('input_ids'\)",
    ),
    "an embedding that is not there": (
        lambda: text_problem(text_model(), moves=solset.embedding_of("nowhere")),
        ValueError,
        r"\['places', 'words'\]",
    ),
    "an output that is not there": (
        lambda: text_problem(text_model(), outputs="scores"),
        ValueError,
        "`outputs` must be .*'scores'",
    ),
    "outputs that the loss does not take": (
        lambda: Problem(Heads().double().eval(), nn.CrossEntropyLoss(), TABLE, LABELS),
        TypeError,
        "outputs='kinds'",
    ),
    "an object as output": (lambda: text_problem(text_model(), outputs=None), TypeError, "SimpleNamespace"),
    "a dict without labels": (
        lambda: Problem(text_model(), nn.CrossEntropyLoss(), {"input_ids": IDS}),
        ValueError,
        'targets="labels"',
    ),
    "an input that the model does not take": (
        lambda: Problem(
            nn.Linear(3, 3).double().eval(),
            nn.CrossEntropyLoss(),
            TensorDataset(TABLE, drawn(N), LABELS),
            moves="0",
        ),
        TypeError,
        "`model` must be a module that takes",
    ),
    "edges that all nodes share": (
        lambda: Problem(
            TwoInputs().double().eval(), nn.CrossEntropyLoss(), (TABLE, torch.zeros(2, 9).long()), LABELS
        ),
        ValueError,
        "buffer of the module",
    ),
    "points of different shapes": (
        lambda: Problem(
            nn.Linear(2, 3).double().eval(),
            nn.CrossEntropyLoss(),
            [(drawn(2, 2), LABELS[0]), (drawn(3, 2), LABELS[1])],
        ),
        ValueError,
        "collate_fn pads",
    ),
    "texts": (
        lambda: Problem(text_model(), nn.CrossEntropyLoss(), [("a", 0), ("b", 1)]),
        TypeError,
        "Turn texts into token ids",
    ),
    "objects": (
        lambda: Problem(text_model(), nn.CrossEntropyLoss(), [(object(), 0), (object(), 1)]),
        ValueError,
        "and makes tensors",
    ),
    "nodes of one graph": (
        lambda: Problem(Ring().double().eval(), nn.CrossEntropyLoss(), TABLE, LABELS),
        ValueError,
        "nodes of a graph",
    ),
    "whole targets beside outputs of one column": (
        lambda: Problem(regressor(), lambda o, t: (o - t).square().mean(), TABLE, LABELS),
        ValueError,
        "every pair of points",
    ),
    "a column of texts": (
        lambda: Problem(
            nn.Linear(1, 3).double().eval(),
            nn.CrossEntropyLoss(),
            pd.DataFrame({"town": list("abcdef")}),
            LABELS,
        ),
        TypeError,
        "Encode categories",
    ),
    "numbers that the dtype does not hold": (
        lambda: (
            text_problem(text_model().float(), weight_decay=DECAY)
            .risk()
            .points.rows({"input_ids": IDS + 2**24, "attention_mask": MASK}, torch.zeros(0))
        ),
        ValueError,
        "holds exactly",
    ),
}


@pytest.mark.parametrize(("call", "error", "says"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_right_is_refused_by_name(call, error, says):
    with pytest.raises(error, match=says):
        call()


def graphs(points):
    nodes = torch.cat([x for x, _ in points])
    return nodes, torch.stack([y for _, y in points])


def test_graphs_with_a_row_per_node_are_refused_by_name():
    data = [(drawn(i + 1, 3, seed=i), LABELS[i]) for i in range(N)]
    loader = DataLoader(data, batch_size=2, collate_fn=graphs)
    with pytest.raises(ValueError, match="nodes of a graph"):
        Problem(nn.Linear(3, 3).double().eval(), nn.CrossEntropyLoss(), loader)


def test_arrays_are_read_in_the_dtype_of_the_model():
    model = nn.Linear(3, 3).eval()
    problem = Problem(
        model, nn.CrossEntropyLoss(), TABLE.numpy(), LABELS.numpy().astype(np.int64), gradient_tol=INF
    )
    assert problem.risk().points[[0]][0].dtype == torch.float32


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
