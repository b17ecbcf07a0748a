"""What a run says: where it ends after a change of the data, and what each point is worth for a goal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch
from torch import Tensor, nn

from solset.attribution import Attribution
from solset.errors import Status
from solset.results import Result, WeightsResult, computed
from solset.training._divergence import explosion
from solset.training._verdict import GoalCheck

NOT_ASKED = "whether training is smooth was not asked; run.smoothness(change) tells"


@dataclass(frozen=True, eq=False, repr=False)
class Smoothness(Result):
    """How well the derivative of a training predicts real reruns along one change of the data.

    Attributes:
        scales: Parts of the change to which training was really run again.
        errors: Relative error ``‖real - predicted‖ / ‖real‖`` of the change of the weights at each scale.
        holds_to: Largest scale from which on downwards every error is at most ``tolerance``; 0 if none is.
        tolerance: Relative error up to which the derivative is said to hold.
        is_falling: Whether the error falls with the scale, as it does where training is smooth.
    """

    scales: tuple[float, ...]
    errors: tuple[float, ...]
    holds_to: float
    tolerance: float
    is_falling: bool

    @computed
    def status(self) -> Status:
        """``doubtful`` where the derivative does not hold at the whole change."""
        return Status.CONVERGED if self.holds_to >= max(self.scales) else Status.DOUBTFUL

    @computed
    def message(self) -> str:
        """The verdict where it is a doubt."""
        return self.verdict if self.status is Status.DOUBTFUL else ""

    @property
    def verdict(self) -> str:
        """One sentence: whether training is differentiable at this scale."""
        if self.status is Status.CONVERGED:
            return "training is differentiable at this scale"
        if self.holds_to > 0:
            return f"the derivative holds up to {self.holds_to:.3g} of this change"
        if self.is_falling:
            return "the change is too large for the derivative: its error falls with the scale"
        return "training is not differentiable at this scale"

    @property
    def headline(self) -> str:
        """The verdict, and the error of the largest rerun."""
        errors = ", ".join(f"{e:.2g} at {s:.3g}" for s, e in zip(self.scales, self.errors, strict=True))
        return f"{self.verdict}; relative error {errors}"


def smoothness_of(
    direction: Tensor, scales: tuple[float, ...], reals: Sequence[Tensor], tolerance: float
) -> Smoothness:
    """How well a derivative along a change predicts real changes of the weights.

    Args:
        direction: Change of the weights by the derivative, for the whole change, ``(p,)``.
        scales: Parts of the change to which training was really run again, from large to small.
        reals: Real change of the weights at each of these parts.
        tolerance: Relative error up to which the derivative is said to hold.
    """
    errors = []
    for scale, real in zip(scales, reals, strict=True):
        length = float(real.norm())
        errors.append(float((real - scale * direction).norm()) / length if length else 0.0)
    holding = [scale for i, scale in enumerate(scales) if max(errors[i:]) <= tolerance]
    is_falling = all(after <= 0.7 * before for before, after in pairwise(errors))
    return Smoothness(scales, tuple(errors), max(holding, default=0.0), tolerance, is_falling)


@dataclass(frozen=True)
class RecipeKinks:
    """Where the rule of the optimizer has no derivative: weights whose gradient was zero up to some step.

    Adam divides by the root of the mean squared gradient, so that any change which wakes such a weight,
    however small, moves it by a whole step. Its share is left out of derivatives.

    Attributes:
        entries: Number of such entries of each parameter, by name.
        features: Indices, in a flat input, of the features that are zero in every point.
    """

    entries: Mapping[str, int]
    features: tuple[int, ...]

    def __bool__(self) -> bool:
        return bool(self.entries)

    def __str__(self) -> str:
        named = ", ".join(f"{count} of {name}" for name, count in self.entries.items())
        first = ", ".join(map(str, self.features[:20])) + (", …" if len(self.features) > 20 else "")
        silent = f" (features {first} are 0 in every point)" if self.features else ""
        return (
            f"the optimizer's rule has no derivative in {named}, whose gradient was zero up to some step"
            f"{silent}: a change that wakes them earlier moves them by a whole step; their share is left out"
        )


def sentences(fault: str, kinks: RecipeKinks, check: GoalCheck | None = None) -> tuple[str, ...]:
    """What speaks against the derivative of a run, in sentences.

    Args:
        fault: Sentences against the derivative of single steps; empty where nothing speaks against it.
        kinks: Weights in which the rule of the optimizer has no derivative.
        check: Comparison with real reruns; ``None`` if there is none.
    """
    rough = check.headline if check is not None and check.is_rough else ""
    return tuple(text for text in (rough, fault, str(kinks) if kinks else "") if text)


@dataclass(frozen=True, eq=False, repr=False)
class RunEstimate(WeightsResult):
    """Where the same recipe would have ended on changed data, by the derivative of the run.

    Attributes:
        weights: Weights at the end, ``(p,)``, in ``named_parameters`` order.
        change: Difference to the weights of the run, ``(p,)``.
        buffers: Running statistics at the end, by name; only those that training moves.
        smoothness: Comparison with real reruns; ``None`` if it was not asked for.
        kinks: Weights in which the rule of the optimizer has no derivative.
        shapes: Shape of each trained parameter, by name.
        fault: Sentences against the derivative of single steps, such as that second derivatives are wrong or
            that the replay computes another loss than training; empty where nothing speaks against it.
    """

    weights: Tensor
    change: Tensor
    buffers: Mapping[str, Tensor] = field(repr=False)
    smoothness: Smoothness | None
    kinks: RecipeKinks
    shapes: Mapping[str, torch.Size] = field(repr=False)
    fault: str = ""

    @computed
    def status(self) -> Status:
        """``doubtful`` where real reruns or single steps contradict the derivative."""
        if not bool(torch.isfinite(self.weights).all()):
            return Status.NONFINITE
        return Status.DOUBTFUL if self.fault or _is_off(self.smoothness) else Status.CONVERGED

    message = computed(lambda result: _warned(result))

    @property
    def headline(self) -> str:
        """The length of the change, and how far training is smooth."""
        smooth = "smoothness not measured" if self.smoothness is None else self.smoothness.headline
        return f"‖w - w_T‖ = {float(self.change.norm()):.4g}; {smooth}"

    def _named_weights(self) -> tuple[Tensor, Mapping[str, torch.Size]]:
        return self.weights, self.shapes

    def apply_to(self, model: nn.Module) -> nn.Module:
        """A deep copy of ``model`` with the new weights and running statistics.

        Args:
            model: Module with the parameter names of the run, such as ``run.model``.

        Raises:
            ValueError: If a parameter is missing in the model or has another shape.
        """
        changed = super().apply_to(model)
        buffers = dict(changed.named_buffers())
        with torch.no_grad():
            for name, value in self.buffers.items():
                buffers[name].copy_(value)
        return changed


def _warned(result: RunEstimate) -> str:
    parts = list(sentences(result.fault, result.kinks))
    if result.smoothness is not None and _is_off(result.smoothness):
        parts.insert(0, result.smoothness.headline)
    return "; ".join(parts)


def _is_off(measured: Smoothness | None) -> bool:
    """Whether the derivative does not hold at the whole change."""
    return measured is not None and measured.status is Status.DOUBTFUL


@dataclass(frozen=True, eq=False, repr=False)
class Rerun(WeightsResult):
    """Where the same recipe really ended on changed data.

    Attributes:
        weights: Weights at the end, ``(p,)``, in ``named_parameters`` order.
        change: Difference to the weights of the run on the data before, ``(p,)``.
        model: Trained module, in evaluation mode.
        losses: Loss of each step's batch.
        shapes: Shape of each trained parameter, by name.
    """

    weights: Tensor
    change: Tensor
    model: nn.Module = field(repr=False)
    losses: tuple[float, ...] = field(repr=False)
    shapes: Mapping[str, torch.Size] = field(repr=False)

    message = computed(lambda result: explosion(result.losses))

    @property
    def headline(self) -> str:
        """Number of steps, and distance from the weights of the run."""
        return f"{len(self.losses)} steps, ‖w - w_T‖ = {float(self.change.norm()):.4g}"

    def _named_weights(self) -> tuple[Tensor, Mapping[str, torch.Size]]:
        return self.weights, self.shapes


def retraining(model: nn.Module, losses: Sequence[float], before: Tensor) -> Rerun:
    """The result of a real rerun.

    Args:
        model: Trained module of the rerun.
        losses: Loss of each step's batch.
        before: Weights at the end of the run on the data before, ``(p,)``.
    """
    named = {name: value.detach() for name, value in model.named_parameters() if value.requires_grad}
    end = torch.cat([value.reshape(-1) for value in named.values()])
    shapes = {name: value.shape for name, value in named.items()}
    return Rerun(end, end - before, model.eval(), tuple(losses), shapes)


@dataclass(frozen=True, eq=False, repr=False)
class RunAttribution(Attribution):
    """The derivative of a goal in everything that a training took from its data.

    Attributes:
        initial: Derivative in the initial weights, ``(p,)``.
        learning_rate: Derivative in a relative change of the learning rate of every step, in goal units:
            times 0.1 it predicts what a rate higher by a tenth does. ``None`` for optimizers whose step is
            not linear in it.
        kinks: Weights in which the rule of the optimizer has no derivative.
        fault: Sentences against the derivative of single steps, as in :class:`RunEstimate`.
        smoothness: Comparison of the scores with real reruns; ``None`` if it was not asked for, or
            points have no scores.
    """

    initial: Tensor = field(kw_only=True)
    learning_rate: float | Tensor | None = field(kw_only=True)
    kinks: RecipeKinks = field(kw_only=True)
    fault: str = field(default="", kw_only=True)
    smoothness: GoalCheck | None = field(default=None, kw_only=True)


def verified(worth: RunAttribution, check: GoalCheck | None) -> RunAttribution:
    """An attribution with its comparison with real reruns, whose verdict is its status.

    Args:
        worth: Attribution before the comparison.
        check: Comparison, or ``None`` where points have no scores.
    """
    told = "no score was tried by a rerun, since points have none" if check is None else check.headline
    others = [note for note in worth.notes if note != NOT_ASKED]
    notes = (*others, told) if worth.fault else (told, *others)  # what speaks against the scores comes first
    status = Status.DOUBTFUL if check is not None and check.is_rough else worth.status
    return replace(worth, notes=notes, status=status, smoothness=check)
