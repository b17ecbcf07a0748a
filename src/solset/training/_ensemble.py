"""The same recipe from several seeds: what the data do to a training, beside what chance does to it."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf, nan, sqrt
from typing import Any

import torch
from torch import Tensor, nn

from solset.changes import Change
from solset.checks import checked
from solset.errors import SolsetWarning, Status, bad_type, bad_value
from solset.goals import Goals
from solset.results import Result, TableResult, computed
from solset.sets import PointCloud, excess, pompeiu_hausdorff
from solset.training._instead import OF_ENSEMBLE
from solset.training._results import RunAttribution
from solset.training._run import Run

MISSED = 0.5  # relative error of predicted outputs from which on they are in doubt
CERTAIN = 2.0  # standard errors from 0 at which the sign of a mean is believed


@dataclass(frozen=True, eq=False, repr=False)
class SeedAttribution(TableResult):
    """What each training point is worth for a goal, over the seeds of a recipe.

    Attributes:
        mean: Mean over seeds of the derivative in each point's factor, ``(n,)``; its negative predicts what
            removing the point does to the goal.
        standard_error: Standard error of that mean, ``(n,)``.
        agreement: Share of the seeds whose derivative has the sign of the mean, ``(n,)``.
        per_seed: Attribution of each seed's run.
    """

    mean: Tensor
    standard_error: Tensor
    agreement: Tensor
    per_seed: tuple[RunAttribution, ...]

    @property
    def is_noise(self) -> Tensor:
        """Whether the mean lies within two standard errors of 0, for each point, ``(n,)``."""
        return self.mean.abs() <= CERTAIN * self.standard_error

    @computed
    def status(self) -> Status:
        """``doubtful`` where real reruns contradict the scores of a seed."""
        return Status.DOUBTFUL if self._doubted else Status.CONVERGED

    @computed
    def message(self) -> str:
        """How many seeds are in doubt, the first reason, and how many points are noise."""
        seeds = len(self.per_seed)
        texts = [f"{len(self._doubted)} of {seeds} seeds: {self._doubted[0]}"] if self._doubted else []
        if bool(self.is_noise.any()):
            texts.append(
                f"the sign is not stable over {seeds} seeds for {int(self.is_noise.sum())} of "
                f"{len(self.mean)} points: their means lie within two standard errors of 0"
            )
        return "; ".join(texts)

    @property
    def _doubted(self) -> list[str]:
        return [one.message for one in self.per_seed if one.status is Status.DOUBTFUL]

    @property
    def headline(self) -> str:
        """The number of seeds, and how many points have a sign that can be believed."""
        stable, count = int((~self.is_noise).sum()), len(self.mean)
        return f"{len(self.per_seed)} seeds; the sign is stable for {stable} of {count} points"

    def rows(self) -> list[dict[str, Any]]:
        """Each point with the predicted effect of its removal, its rank, and how sure it is."""
        rank = self.mean.abs().argsort(descending=True).argsort() + 1
        names = ("removal", "standard_error", "agreement", "rank", "is_noise")
        parts = (-self.mean, self.standard_error, self.agreement, rank, self.is_noise)
        columns = zip(*(part.tolist() for part in parts), strict=True)
        return [{"point": i, **dict(zip(names, row, strict=True))} for i, row in enumerate(columns)]


@dataclass(frozen=True, eq=False, repr=False)
class CloudChange(Result):
    """The set of what a recipe can end with, over seeds, before and after a change of the data.

    Weights of different seeds cannot be compared, since hidden units may be exchanged; outputs can. Each
    element of a cloud is what the model of one seed says of the stated inputs.

    Attributes:
        before: Outputs on the data before the change, one row for each seed.
        predicted: Outputs of the predicted weights and running statistics.
        real: Outputs after real reruns; ``None`` if they were not asked for.
    """

    before: PointCloud
    predicted: PointCloud
    real: PointCloud | None

    @property
    def signal_to_noise(self) -> float:
        """How far the change moves a seed's outputs, in mean distances of two seeds before the change.

        The real change, where it is known, else the predicted one. Below 1, another seed changes more.
        """
        after = self.predicted if self.real is None else self.real
        moved = torch.linalg.vector_norm(after.points - self.before.points, dim=1).mean()
        between = torch.pdist(self.before.points).mean()
        return float(moved / between) if float(between) > 0 else inf

    def excesses(self) -> dict[str, float]:
        """The excess of each cloud over the others, by name, such as ``"real over before"``."""
        clouds = self._clouds()
        return {
            f"{one} over {other}": excess(clouds[one], clouds[other]).value
            for one in clouds
            for other in clouds
            if one != other
        }

    def distances(self) -> dict[str, float]:
        """The Pompeiu–Hausdorff distance of each pair of clouds, by name, such as ``"before to real"``."""
        clouds = self._clouds()
        names = list(clouds)
        return {
            f"{one} to {other}": pompeiu_hausdorff(clouds[one], clouds[other]).value
            for place, one in enumerate(names)
            for other in names[place + 1 :]
        }

    def _clouds(self) -> dict[str, PointCloud]:
        clouds = {"before": self.before, "predicted": self.predicted}
        return clouds if self.real is None else {**clouds, "real": self.real}

    @property
    def error(self) -> float:
        """Relative error of the predicted change of all outputs; not a number where nothing ran again."""
        if self.real is None:
            return nan
        gap, change = self.predicted.points - self.real.points, self.real.points - self.before.points
        return float(gap.norm()) / max(float(change.norm()), float(torch.finfo(gap.dtype).tiny))

    @computed
    def status(self) -> Status:
        """``doubtful`` where the prediction misses the real change by more than half of it."""
        return Status.DOUBTFUL if self.error > MISSED else Status.CONVERGED

    @computed
    def message(self) -> str:
        """How far the prediction is from real reruns, or that none was made."""
        if self.real is None:
            return "whether the prediction holds was not asked: nothing ran again with verify=False"
        return f"the predicted outputs miss {self.error:.2g} of their real change"

    @property
    def headline(self) -> str:
        """The distances of the clouds, and the size of the change beside that of chance."""
        distances = ", ".join(f"{name} {value:.3g}" for name, value in self.distances().items())
        return f"{len(self.before.points)} seeds; {distances}; signal to noise {self.signal_to_noise:.2g}"


@dataclass(frozen=True, eq=False, repr=False)
class Ensemble(TableResult):
    """One recipe, run once from each of several seeds.

    Attributes:
        runs: Run of each seed.
        seeds: Seed of each run.
    """

    runs: tuple[Run, ...]
    seeds: tuple[int, ...]
    asked_by = OF_ENSEMBLE

    @checked
    def attribute(self, goal: Goals, *, verify: bool = True, progress: bool | None = None) -> SeedAttribution:
        """The derivative of a goal in each point's factor: mean, standard error and agreement over seeds.

        Args:
            goal: Function of the trained module, in evaluation mode, that returns one number; or one of
                :mod:`solset.goals` with one value.
            verify: Whether the scores of each seed are compared with two real reruns.
            progress: Whether to show progress bars; by default only on a terminal.

        Raises:
            ValueError: If the goal has several values, or the loss is no sum over points, so that points
                have no factors.

        Warns:
            SolsetWarning: If reruns contradict the scores of a seed, or entries of the weights have no
                derivative; said once for all seeds.

        Cost: about five trainings for each seed; three without the reruns.
        """
        with said_once(len(self.runs)):
            single = tuple(run.attribute(goal, verify=verify, progress=progress) for run in self.runs)
        if isinstance(single[0].value, Tensor):
            raise bad_value(
                "goal",
                expected="a goal with one value",
                got=f"one of {len(single[0].value)}",
                cure="Ask for their mean, or ask for the goals one at a time.",
            )
        factors = [attribution.weights for attribution in single if attribution.weights is not None]
        if len(factors) < len(single):
            raise bad_value(
                "loss",
                expected="a mean over the points of a batch",
                got="one in which points have no factors",
                cure="Ask the single runs: run.attribute(goal).features.",
            )
        stacked = torch.stack(factors)
        mean = stacked.mean(dim=0)
        agreement = (stacked.sign() == mean.sign()).to(stacked).mean(dim=0)
        return SeedAttribution(mean, stacked.std(dim=0) / sqrt(len(single)), agreement, single)

    @checked
    def estimate(
        self,
        change: Change,
        inputs: Any = None,
        *,
        outputs: Callable[[nn.Module, Any], Tensor] | None = None,
        verify: bool = True,
        progress: bool | None = None,
    ) -> CloudChange:
        """The outputs of all seeds on some inputs before and after a change of the data, predicted and real.

        Args:
            change: Change of the training data.
            inputs: Inputs whose outputs stand for a model, such as held-out points; by default those of the
                training points.
            outputs: Function of a module and the inputs that returns a tensor; by default the call of the
                training itself.
            verify: Whether the recipe is really run again for each seed, beside the prediction.
            progress: Whether to show progress bars; by default only on a terminal.

        Warns:
            SolsetWarning: If the predicted outputs miss the real ones by more than half of their change.

        Cost: about four trainings for each seed; three without the reruns.
        """
        before, predicted, real = [], [], []
        with said_once(len(self.runs)):
            for run in self.runs:
                ask = run.outputs if outputs is None else outputs
                before.append(_flat(ask, run.model, inputs))
                estimate = run.estimate(change, verify=False, progress=progress)
                predicted.append(_flat(ask, estimate.apply_to(run.model), inputs))
                if verify:
                    real.append(_flat(ask, run.retrain(change, progress=progress).model, inputs))
        result = CloudChange(
            PointCloud(torch.stack(before)),
            PointCloud(torch.stack(predicted)),
            PointCloud(torch.stack(real)) if verify else None,
        )
        if result.status is Status.DOUBTFUL:
            warnings.warn(result.message, SolsetWarning, stacklevel=3)
        return result

    @property
    def headline(self) -> str:
        """Number of seeds, and the smallest and the largest loss of a last batch."""
        losses = [run.losses[-1] for run in self.runs]
        ends = " to ".join(dict.fromkeys([f"{min(losses):.3g}", f"{max(losses):.3g}"]))
        return f"{len(self.runs)} seeds, last loss of a batch {ends}"

    @computed
    def message(self) -> str:
        """The runs that diverged, by their seeds."""
        pairs = zip(self.seeds, self.runs, strict=True)
        return "; ".join(f"seed {seed}: {run.message}" for seed, run in pairs if run.message)

    def rows(self) -> list[dict[str, Any]]:
        """One row for each seed: the number of steps, and the loss of the first and of the last batch."""
        return [
            {"seed": seed, "steps": len(run.losses), "first_loss": run.losses[0], "last_loss": run.losses[-1]}
            for seed, run in zip(self.seeds, self.runs, strict=True)
        ]


@contextmanager
def said_once(count: int) -> Iterator[None]:
    """A context in which the seeds of an ensemble warn of the same thing once, with the number of seeds."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        yield
    of_solset = [str(one.message) for one in told if issubclass(one.category, SolsetWarning)]
    if of_solset:
        first = of_solset[0]
        many = f"{len(of_solset)} of {count} seeds warn, the first of them: {first}"
        warnings.warn(many if count > 1 else first, SolsetWarning, stacklevel=5)
    for text, category in {(str(one.message), one.category) for one in told}:
        if not issubclass(category, SolsetWarning):
            warnings.warn(text, category, stacklevel=5)


def checked_seeds(seeds: Sequence[int]) -> tuple[int, ...]:
    """The seeds of an ensemble, which are different and at least two.

    Raises:
        ValueError: If there are fewer than two, or one stands twice.
    """
    if not isinstance(seeds, Sequence):
        raise bad_type(
            "seeds", expected="a sequence of seeds", got=repr(seeds), cure="Pass range(8), for example."
        )
    numbers = tuple(int(seed) for seed in seeds)
    if len(numbers) < 2 or len(set(numbers)) < len(numbers):
        raise bad_value(
            "seeds",
            expected="at least two different seeds",
            got=f"{list(numbers)[:10]}",
            cure="Pass range(8), for example; one seed alone is training.run().",
        )
    return numbers


def _flat(ask: Callable[[nn.Module, Any], Tensor], model: nn.Module, inputs: Any) -> Tensor:
    with torch.no_grad():
        return ask(model.eval(), inputs).reshape(-1).double()
