"""The truth that predictors are judged by: real retraining on changed data."""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from tqdm import tqdm

from solset.changes import Change
from solset.errors import bad_type, bad_value
from solset.goals import Goals, slopes_of
from solset.problem import Problem
from solset.results import Result, computed
from solset.retraining import Method, retrain
from solset.risk import digest, settings_of
from solset.training import Run


@dataclass(frozen=True, eq=False, repr=False)
class Truth(Result):
    """Real changes of goals after retraining on changed data.

    Attributes:
        changes: Change of each goal from each seed, ``(seeds, changes, k)``; the first seed is that of the
            run, on whose model predictors look. Not a number where training failed.
        seeds: Seeds of the retrainings; one 0 for a problem, whose retraining starts at its weights.
        seconds: CPU seconds of one retraining.
        asked: Digest of the weights, the changes and the goals that it belongs to.
        failures: Sentences on retrainings that failed, which say the change and the seed.
    """

    changes: Tensor
    seeds: tuple[int, ...]
    seconds: float
    asked: str = field(repr=False)
    failures: tuple[str, ...] = ()

    @property
    def mean(self) -> Tensor:
        """Mean over the seeds, ``(changes, k)``."""
        return self.changes.mean(dim=0)

    @property
    def is_finite(self) -> Tensor:
        """Whether the change of every goal from every seed is a finite number, ``(changes,)``."""
        return self.changes.isfinite().all(dim=2).all(dim=0)

    message = computed(lambda truth: "; ".join(truth.failures[:3]))

    @property
    def headline(self) -> str:
        """Numbers of seeds, changes and goals."""
        names = zip(self.changes.shape, ("seed", "change", "goal"), strict=True)
        return ", ".join(f"{count} {name}" if count == 1 else f"{count} {name}s" for count, name in names)


def asked_of(trained: Run | Problem, changes: Sequence[Change], goal: Goals) -> str:
    """A digest of trained weights, changes of the data and values of goals: what a truth belongs to.

    Args:
        trained: Run or problem, with its trained weights.
        changes: Changes of the training data.
        goal: One goal, or several as a block.
    """
    weights = trained.weights if isinstance(trained, Run) else trained.weights()
    settings = json.dumps(settings_of(list(changes)), sort_keys=True)
    return (
        f"{digest([weights, value_of(trained, goal)])} {hashlib.sha256(settings.encode()).hexdigest()[:32]}"
    )


def value_of(trained: Run | Problem, goal: Goals, weights: Tensor | None = None) -> Tensor:
    """The values of goals at the trained weights of a run or a problem, or at others of a problem, ``(k,)``.

    Args:
        trained: Run or problem, with its trained weights.
        goal: One goal, or several as a block.
        weights: Weights of the problem at which the goals are asked, flat ``(p,)``.
    """
    if isinstance(trained, Run):
        return torch.as_tensor(trained.value(goal)).double().reshape(-1)
    risk = trained.risk()
    return slopes_of(goal, risk if weights is None else risk.at(weights)).values.double()


def truth_of(
    trained: Run | Problem,
    changes: Sequence[Change],
    goal: Goals,
    *,
    seeds: Sequence[int] = (),
    method: Method | None = None,
    progress: bool | None = None,
) -> Truth:
    """Really trains on every change, from the seed of a run and from others, or from a problem's weights.

    Args:
        trained: Run, whose recipe is run again; or problem, from whose weights ``method`` trains on.
        changes: Changes of the training data.
        goal: One goal, or several as a block.
        seeds: Seeds beside that of the run; none for a problem or the record of a loop.
        method: Way to train a problem again, as for :func:`solset.retrain`; none for a run.
        progress: Whether to show a progress bar; by default only on a terminal.

    Raises:
        TypeError: If a problem comes without a method, or a run with one.
        ValueError: If seeds are asked of a problem or of a loop, a seed stands twice, or no training ended.
            A single one that fails is a sentence in ``failures``.

    Cost: one training for each change and seed, and one more for each seed beside that of the run.
    """
    if isinstance(trained, Problem) == (method is None):
        got = "none for a problem" if method is None else "one for a run, whose recipe is run again"
        cure = "Pass method=Newton() with a problem, for example, and none with a run."
        raise bad_type("method", expected="a way to retrain a problem", got=got, cure=cure)
    runs = [trained, *_from_seeds(trained, seeds)]
    pairs = [(run, change) for run in runs for change in changes]
    hidden, start = None if progress is None else not progress, time.process_time()
    before = [value_of(run, goal) for run in runs]
    seed = trained.training.recipe.seed if isinstance(trained, Run) and trained.training else 0
    values, failures, errors = [], [], []
    for place, (run, change) in enumerate(tqdm(pairs, desc="retraining", disable=hidden, leave=False)):
        try:
            values.append(_after(run, change, goal, method))
        except ValueError as error:  # as where it diverges: what the others say stays
            which, of_seed = place % len(changes), (seed, *seeds)[place // len(changes)]
            failures.append(f"change {which} failed with seed {of_seed}: {str(error).splitlines()[0]}")
            errors.append(error)
            values.append(torch.full_like(before[0], float("nan")))
    if len(errors) == len(pairs):
        raise errors[0]
    seconds = (time.process_time() - start) / len(pairs)
    after = torch.stack(values).reshape(len(runs), len(changes), -1)
    real = after - torch.stack(before).unsqueeze(1)
    return Truth(real, (seed, *seeds), seconds, asked_of(trained, changes, goal), tuple(failures))


def _after(trained: Run | Problem, change: Change, goal: Goals, method: Method | None) -> Tensor:
    """The values of goals after real training on changed data."""
    if isinstance(trained, Run):
        after = trained.value(goal, trained.retrain(change, progress=False).model)
        return torch.as_tensor(after).double().reshape(-1)
    assert method is not None  # noqa: S101 - refused before
    return value_of(trained, goal, retrain(trained, change, method=method).weights)


def _from_seeds(trained: Run | Problem, seeds: Sequence[int]) -> list[Run]:
    """The recipe of a run, run once from each of other seeds."""
    if not seeds:
        return []
    training = trained.training if isinstance(trained, Run) else None
    if training is None:
        got = "a problem" if isinstance(trained, Problem) else "the record of a loop"
        cure = "Leave seeds out, or pass training.run()."
        raise bad_value("seeds", expected="none where no recipe is known", got=got, cure=cure)
    if len({*seeds, training.recipe.seed}) <= len(seeds):
        got = f"{list(seeds)[:10]} beside {training.recipe.seed}, that of the run"
        raise bad_value("seeds", expected="different seeds", got=got, cure="Leave out what stands twice.")
    return [training.with_seed(seed).run(progress=False) for seed in seeds]
