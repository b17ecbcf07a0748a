"""The result of an audit: every training point with its numbers, and their order."""

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import scipy
from torch import Tensor

from solset.errors import Status
from solset.modulus._result import Certainty, listed
from solset.results import TableResult, computed
from solset.training import GoalCheck

Column = Literal[
    "modulus",
    "isolated_modulus",
    "validation_change",
    "validation_slope",
    "loss",
    "gradient_norm",
    "feature_influence",
    "memory_perturbation",
]
COLUMNS: tuple[Column, ...] = get_args(Column)


@dataclass(frozen=True, eq=False, repr=False)
class Audit(TableResult):
    """How far each training point, or each candidate, can move the model by one kind of change.

    A column that was not computed is ``None``; ``notes`` say why. ``directions`` and ``maps`` are left out of
    ``to_dict()``.

    Attributes:
        unit: Unit of the score, such as ``"weight units per input unit"``, or ``"weight units"`` where each
            change is made as a whole.
        points: Indices ``K`` of the audited points, in the order of everything below.
        kind: Name of the kind of change, such as ``"Move"``.
        modulus: Joint Lipschitz modulus ``κ_k``, ``(|K|,)``: the change of the weights per unit change of the
            point's features (targets, factor), where all other points keep theirs; for points that join,
            leave or change their class, the length of the largest such change of the weights. Infinite where
            no weights can answer.
        isolated_modulus: Modulus with the point's own constraint alone, ``(|K|,)``, never above the joint.
        validation_change: Predicted change of the validation loss, per unit of the worst perturbation of the
            point, along its direction of larger loss, ``(|K|,)``; where points join, leave or change their
            class, the change by the largest of these, with its sign.
        validation_slope: Largest change of the validation loss that any unit perturbation of the point gives.
        loss: Training loss of each point, ``(|K|,)``.
        gradient_norm: Norm of each point's loss gradient in the weights, ``‖∇_w L_k‖``, ``(|K|,)``.
        feature_influence: Influence of Koh & Liang: the norm of the derivative of the validation loss in the
            point's features, ``(|K|,)``.
        memory_perturbation: Predictive covariance times prediction error (Nickl et al. 2023), ``(|K|,)``.
        directions: Worst unit direction of each point in its coordinates, ``(|K|, *input)`` for features;
            1 at the worst choice where labels are chosen; zero where nothing moves.
        maps: Norm of the weights' change per unit of each single coordinate, or for each choice of a label,
            in the order of the labels.
        optimality: Name of the optimality map.
        reason: Sentence that says why this map was taken.
        certainty: Certainty of each point's modulus, as far as the audit itself verified it by ranks;
            :func:`solset.lipschitz_modulus` of a point verifies more.
        notes: Sentences on premises that do not hold, and on columns left out.
        smoothness: Comparison of the scores of a run with real reruns; ``None`` for a problem.
        fault: Sentences against the derivative of a run; empty where nothing speaks against it.
    """

    kind: str
    unit: str
    points: tuple[int, ...]
    modulus: Tensor | None
    isolated_modulus: Tensor | None
    validation_change: Tensor | None
    validation_slope: Tensor | None
    loss: Tensor
    gradient_norm: Tensor | None
    feature_influence: Tensor | None
    memory_perturbation: Tensor | None
    directions: Tensor = field(repr=False)
    maps: Tensor = field(repr=False)
    optimality: str
    reason: str
    certainty: tuple[Certainty, ...]
    notes: tuple[str, ...] = ()
    smoothness: GoalCheck | None = None
    fault: str = ""

    @property
    def score(self) -> Tensor:
        """The number that ranks points, ``(|K|,)``: the joint modulus, the isolated one, or the slope."""
        numbers = (self.modulus, self.isolated_modulus, self.validation_slope, self.loss)
        return next(column for column in numbers if column is not None)

    @property
    def order(self) -> list[int]:
        """Places in ``points``, most sensitive first; by the isolated modulus where the score is infinite."""
        second = self.score if self.isolated_modulus is None else self.isolated_modulus
        places = second.argsort(descending=True, stable=True)
        return places[self.score[places].argsort(descending=True, stable=True)].tolist()

    @property
    def headline(self) -> str:
        """The points of infinite modulus and the largest finite one, with its certainty."""
        infinite = [self.points[i] for i in self.order if self.score[i].isinf()]
        finite = [i for i in self.order if self.score[i].isfinite()]
        parts = [f"infinite modulus: {listed(sorted(infinite))}"] if infinite else []
        if finite:
            name = "largest finite modulus" if infinite else "largest modulus"
            place = finite[0]
            value, point = float(self.score[place]), self.points[place]
            if self.modulus is None and self.isolated_modulus is None:
                parts.append(f"largest effect on the validation loss {value:.4g} at point {point}")
            else:
                unknown = self.certainty[place] is Certainty.UNKNOWN and self.notes
                why = " (see .notes)" if unknown else ""
                parts.append(f"{name} {value:.4g} at point {point}, {self.certainty[place]}{why}")
        count = "1 point" if len(self.points) == 1 else f"{len(self.points)} points"
        kind = "" if self.kind == "Move" else f", {self.kind}"
        source = "run" if self.optimality == "run" else f"{self.optimality} map"
        return "; ".join([*parts, f"{count}, {source}{kind}"])

    @computed
    def status(self) -> Status:
        """``max_steps`` where a modulus was not reached, ``doubtful`` where scores are contradicted."""
        if bool(self.score.isnan().any()):
            return Status.MAX_STEPS
        is_rough = self.smoothness is not None and self.smoothness.is_rough
        return Status.DOUBTFUL if is_rough or self.fault else Status.CONVERGED

    @computed
    def message(self) -> str:
        """The notes, as one text."""
        return "; ".join(self.notes)

    def rows(self) -> list[dict[str, Any]]:
        """One row for each point, most sensitive first: rank, point, certainty, and every column."""
        columns = {name: getattr(self, name) for name in COLUMNS}
        return [
            {
                "rank": rank,
                "point": self.points[place],
                "certainty": str(self.certainty[place]),
                **{name: None if v is None else float(v[place]) for name, v in columns.items()},
            }
            for rank, place in enumerate(self.order, start=1)
        ]

    def correlations(self) -> dict[str, float]:
        """Spearman's rank correlation of every other column with the score, over points with both numbers."""
        columns = {name: getattr(self, name) for name in COLUMNS}
        return {
            name: spearman(self.score, column)
            for name, column in columns.items()
            if column is not None and column is not self.score and len(column) > 2
        }


def spearman(first: Tensor, second: Tensor) -> float:
    """Spearman's rank correlation; ties share their mean rank, pairs with a number missing are left out.

    Not a number where one of them is constant.

    Args:
        first: One number for each item, ``(n,)``.
        second: Other number for each item, ``(n,)``.

    Example:
        >>> import torch
        >>> round(spearman(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([10.0, 30.0, 20.0])), 6)
        0.5
    """
    has_both = ~(first.isnan() | second.isnan())
    first, second = first[has_both], second[has_both]
    if len(first) < 2 or bool((first == first[0]).all()) or bool((second == second[0]).all()):
        return float("nan")
    ranks = [scipy.stats.rankdata(values.cpu().numpy()) for values in (first, second)]
    return float(np.corrcoef(*ranks)[0, 1])
