"""Four everyday trainings: AdamW on mini-batches, stopped after a few epochs."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from typing import Any

import torch
from sklearn.datasets import load_diabetes, load_digits
from torch import Tensor, nn
from torch.nn.functional import pad

from solset import Training


@dataclass(frozen=True)
class Everyday:
    """A model with its data and the recipe that trains it.

    Attributes:
        name: Name of the row in the tables.
        make: Function that makes the model before training.
        loss: Mean loss over points.
        train: Inputs and targets of the training points.
        test: Inputs and targets of the points whose losses are explained.
        epochs: Number of passes after which training stops.
        rate: Learning rate of AdamW.
        augment: Function that changes the inputs of a batch at random; ``None`` for none.
    """

    name: str
    make: Callable[[], nn.Module]
    loss: nn.Module
    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    epochs: int
    rate: float = 1e-3
    augment: Callable[[Any], Any] | None = None
    batch_size: int = 32

    @property
    def steps_of_epoch(self) -> int:
        """Number of batches in one pass."""
        return -(-len(self.train[0]) // self.batch_size)

    def training(self, seed: int = 0, epochs: int | None = None) -> Training:
        """The recipe from a seed, as long as asked for.

        Args:
            seed: Seed of initial weights, batches, augmentation and dropout.
            epochs: Number of passes; those of the recipe by default.
        """
        return Training(
            self.make,
            self.loss,
            *self.train,
            optimizer=partial(torch.optim.AdamW, lr=self.rate, weight_decay=1e-2),
            epochs=self.epochs if epochs is None else epochs,
            batch_size=self.batch_size,
            augment=self.augment,
            seed=seed,
        )


def everyday(tests: int) -> list[Everyday]:
    """The four cases; that of a library which is not installed is left out with a line that says so.

    Args:
        tests: Number of test points whose losses are explained, at most 60.
    """
    cases = (_diabetes(), _convolutions(), _sentences(), _digits())
    return [
        replace(case, test=(case.test[0][:tests], case.test[1][:tests])) for case in cases if case is not None
    ]


def _diabetes() -> Everyday:
    """Regression of 10 columns on 330 patients."""
    inputs, targets = load_diabetes(return_X_y=True)
    x = torch.tensor(inputs, dtype=torch.float32)
    y = torch.tensor(targets, dtype=torch.float32).unsqueeze(1)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    train, test = order[:330], order[330:]
    x, y = (x - x[train].mean(0)) / x[train].std(0), (y - y[train].mean()) / y[train].std()

    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1))

    return Everyday("MLP, diabetes", make, nn.MSELoss(), (x[train], y[train]), (x[test], y[test]), epochs=30)


def _images(count: int, tests: int = 60) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    train, test = order[:count], order[count : count + tests]
    return (x[train], y[train]), (x[test], y[test])


def _digits() -> Everyday:
    train, test = _images(600)

    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    return Everyday("MLP, digits", make, nn.CrossEntropyLoss(), train, test, epochs=10, rate=2e-3)


def shifted(images: Tensor) -> Tensor:
    """Images moved by up to one pixel, each batch alike."""
    row, column = (int(torch.randint(0, 3, ())) for _ in range(2))
    return pad(images, (1, 1, 1, 1))[..., row : row + 8, column : column + 8]


def _convolutions() -> Everyday:
    train, test = ((x.reshape(-1, 1, 8, 8), y) for x, y in _images(500))

    def make() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, padding=1, stride=2),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(256, 10),
        )

    loss = nn.CrossEntropyLoss()
    return Everyday(
        "CNN with BatchNorm, digits", make, loss, train, test, epochs=6, augment=shifted, rate=3e-3
    )


class Sentences(nn.Module):
    """DistilBERT with two layers and a head; token ids in, logits out."""

    def __init__(self) -> None:
        super().__init__()
        transformers = import_module("transformers")  # an optional library
        config = transformers.DistilBertConfig(
            vocab_size=WORDS,
            max_position_embeddings=LENGTH,
            n_layers=2,
            dim=32,
            n_heads=2,
            hidden_dim=64,
            num_labels=3,
            attn_implementation="eager",
        )
        self.network = transformers.DistilBertForSequenceClassification(config)

    def forward(self, ids: Tensor) -> Tensor:
        """The logits of each sentence."""
        return self.network(input_ids=ids).logits


WORDS, LENGTH = 40, 12


def _sentences() -> Everyday | None:
    """Sentences of 12 words out of 40; those of each class have more of its own ten words."""
    try:
        import_module("transformers.models.distilbert.modeling_distilbert")
    except (ImportError, RuntimeError) as error:
        print(f"DistilBERT: left out, transformers cannot be imported ({str(error)[:60]})\n")
        return None
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(0, 3, (360,), generator=generator)
    ids = torch.randint(0, WORDS, (360, LENGTH), generator=generator)
    ours = 10 * y.unsqueeze(1) + torch.randint(0, 10, ids.shape, generator=generator)
    x = torch.where(torch.rand(ids.shape, generator=generator) < 0.35, ours, ids)
    loss = nn.CrossEntropyLoss()
    return Everyday(
        "DistilBERT, sentences", Sentences, loss, (x[:300], y[:300]), (x[300:], y[300:]), epochs=12
    )
