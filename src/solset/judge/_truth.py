"""The truth that predictors are judged by: real retraining on changed data."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from solset.changes import Change
from solset.errors import bad_type, bad_value
from solset.goals import Goals, slopes_of
from solset.problem import Problem
from solset.retraining import Method, retrain
from solset.training import Run


@dataclass(frozen=True, eq=False)
class Truth:
    """Real changes of goals after retraining on changed data.

    Attributes:
        changes: Change of each goal from each seed, ``(seeds, changes, k)``; the first seed is that of the
            run, on whose model predictors look.
        seeds: Seeds of the retrainings; one 0 for a problem, whose retraining starts at its weights.
        seconds: CPU seconds of one retraining.
    """

    changes: Tensor
    seeds: tuple[int, ...]
    seconds: float

    @property
    def mean(self) -> Tensor:
        """Mean over the seeds, ``(changes, k)``."""
        return self.changes.mean(dim=0)


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
        ValueError: If seeds are asked of a problem or of a loop, or a seed stands twice.

    Cost: one training for each change and seed, and one more for each seed beside that of the run.
    """
    if isinstance(trained, Problem) == (method is None):
        got = "none for a problem" if method is None else "one for a run, whose recipe is run again"
        cure = "Pass method=Newton() with a problem, for example, and none with a run."
        raise bad_type("method", expected="a way to retrain a problem", got=got, cure=cure)
    runs = [trained, *_from_seeds(trained, seeds)]
    pairs = [(run, change) for run in runs for change in changes]
    hidden, start = None if progress is None else not progress, time.process_time()
    values = []
    for run, change in tqdm(pairs, desc="retraining", disable=hidden, leave=False):
        if isinstance(run, Run):
            after = run.value(goal, run.retrain(change, progress=False).model)
        else:
            after = value_of(run, goal, retrain(run, change, method=method).weights)  # type: ignore[arg-type]
        values.append(torch.as_tensor(after).double().reshape(-1))
    seconds = (time.process_time() - start) / len(pairs)
    before = torch.stack([value_of(run, goal) for run in runs])
    after = torch.stack(values).reshape(len(runs), len(changes), -1)
    seed = trained.training.recipe.seed if isinstance(trained, Run) and trained.training else 0
    return Truth(after - before.unsqueeze(1), (seed, *seeds), seconds)


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
