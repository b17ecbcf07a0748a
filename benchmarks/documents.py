"""A Transformer with dropout on made sentences: what training without a document does to test losses.

30 documents of ten sentences each, all of one class, DistilBERT from a configuration, AdamW whose rate warms
up for a tenth of the steps. The effect of a removal is predicted by one replay of the run for the mean test
loss, and compared with the same recipe run again without the document. The noise ceiling is the correlation
of the real effects from different seeds.
"""

import time
import warnings
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from benchmarks.everyday_models import Everyday, everyday
from benchmarks.tables import table
from solset import Remove, Training

SIZE, SEEDS = 10, 6
NAME = "DistilBERT, sentences"


def run() -> dict[str, float]:
    """Prints the correlations of predicted and real effects of removing each document, and returns them."""
    case = next((case for case in everyday(60) if case.name == NAME), None)
    if case is None:
        return {}
    order = case.train[1].argsort(stable=True)  # so that a document is of one class
    case = replace(case, train=(case.train[0][order], case.train[1][order]))
    documents = torch.arange(len(order)).split(SIZE)
    real, predicted, seconds = [], [], []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # how far a derivative holds is what is studied
        for seed in range(SEEDS):
            effects, scores, price = _of_seed(case, seed, documents)
            real.append(effects)
            predicted.append(scores)
            seconds.append(price)
    results = _correlations(torch.stack(real), torch.stack(predicted))
    results["price of an adjoint, in trainings"] = sum(seconds) / SEEDS
    print(f"{len(documents)} documents of {SIZE} sentences, {SEEDS} seeds, AdamW with warm-up, dropout 0.1")
    print(
        table(["prediction of the mean test loss", "number"], [[n, f"{v:.3f}"] for n, v in results.items()])
    )
    return results


def _training(case: Everyday, seed: int) -> Training:
    """The recipe of the case with a rate that warms up, step by step."""
    warm = case.epochs * case.steps_of_epoch // 10
    return Training(
        case.make,
        case.loss,
        *case.train,
        optimizer=partial(torch.optim.AdamW, lr=case.rate, weight_decay=1e-2),
        epochs=case.epochs,
        batch_size=case.batch_size,
        schedule=partial(_warm_up, steps=warm),
        schedule_each="step",
        seed=seed,
    )


def _warm_up(optimizer: Optimizer, steps: int) -> LRScheduler:
    return LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / steps))


def _of_seed(case: Everyday, seed: int, documents: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, float]:
    """Real and predicted effects of removing each document, and the price of the replay in trainings."""
    training = _training(case, seed)

    def goal(model: nn.Module) -> Tensor:
        return case.loss(model(case.test[0]), case.test[1])

    start = time.process_time()
    trained = training.run(progress=False)
    middle = time.process_time()
    worth = torch.as_tensor(trained.attribute(goal, features=False, verify=False, progress=False).weights)
    price = (time.process_time() - middle) / (middle - start)
    with torch.no_grad():
        before = float(goal(trained.model))
        ends = [trained.retrain(Remove(points.tolist()), progress=False).model for points in documents]
        real = torch.tensor([float(goal(end)) - before for end in ends])
    return real, -torch.stack([worth[points].sum() for points in documents]), price


def _correlations(real: Tensor, predicted: Tensor) -> dict[str, float]:
    """Correlations over documents; ``real`` and ``predicted`` are ``(seeds, documents)``."""
    half = len(real) // 2

    def agreement(a: Tensor, b: Tensor) -> float:
        return float(torch.corrcoef(torch.stack([a, b]))[0, 1])

    def pairs(a: Tensor, b: Tensor) -> float:
        each = [agreement(a[i], b[j]) for i in range(len(a)) for j in range(len(b)) if i != j]
        return sum(each) / len(each)

    same = [agreement(one, other) for one, other in zip(predicted, real, strict=True)]
    return {
        "adjoint of a run, its own reruns": sum(same) / len(same),
        "adjoint of a run, reruns of another seed": pairs(predicted, real),
        "ceiling: reruns of one seed, of another": pairs(real, real),
        "mean adjoint, mean reruns of the same seeds": agreement(predicted.mean(0), real.mean(0)),
        "mean adjoint of three seeds, mean reruns of three others": agreement(
            predicted[:half].mean(0), real[half:].mean(0)
        ),
        "ceiling: mean reruns of three seeds, of three others": agreement(
            real[:half].mean(0), real[half:].mean(0)
        ),
    }
