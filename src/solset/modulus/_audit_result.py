"""The answer of an audit: every training point with its numbers, and their order."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from scipy.stats import rankdata
from torch import Tensor

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


@dataclass(frozen=True)
class Audit:
    """How much each training point can move the model, and by which features.

    A column that was not computed is ``None``; ``notes`` say why.

    Attributes:
        points: ``K``, the points audited, in the order of everything below.
        modulus: Joint Lipschitz modulus ``κ_k``, ``(|K|,)``: the change of the weights per unit change of the
            point's features, where all other points keep theirs. Infinite where no weights can answer.
        isolated_modulus: The same with the point's own constraint alone; never above the joint one.
        validation_change: Predicted change of the validation loss, per unit of the worst perturbation of the
            point, along its direction of larger loss.
        validation_slope: Largest change of the validation loss that any unit perturbation of the point gives.
        loss: Of each point.
        gradient_norm: ``‖∇_w L_k‖``.
        feature_influence: Koh & Liang's: the norm of the derivative of the validation loss in the features.
        memory_perturbation: Predictive covariance times prediction error (Nickl et al. 2023).
        directions: The worst unit direction of each point, ``(|K|, *input)``; zero where nothing moves.
        maps: Norm of the weights' change per unit of each single feature, ``(|K|, *input)``.
        optimality: The optimality map.
        reason: Why this map.
        notes: Premises that do not hold, and columns left out.
    """

    points: tuple[int, ...]
    modulus: Tensor | None
    isolated_modulus: Tensor | None
    validation_change: Tensor | None
    validation_slope: Tensor | None
    loss: Tensor
    gradient_norm: Tensor
    feature_influence: Tensor | None
    memory_perturbation: Tensor | None
    directions: Tensor
    maps: Tensor
    optimality: str
    reason: str
    notes: tuple[str, ...] = ()

    @property
    def score(self) -> Tensor:
        """What points are ranked by: the joint modulus, else the isolated one, ``(|K|,)``."""
        found = self.modulus if self.modulus is not None else self.isolated_modulus
        return self.loss if found is None else found

    @property
    def order(self) -> list[int]:
        """Places in ``points``, most sensitive first."""
        return self.score.argsort(descending=True, stable=True).tolist()

    def ranking(self) -> list[dict[str, float | int | None]]:
        """One row for each point, most sensitive first: rank, point, and every column."""
        rows: list[dict[str, float | int | None]] = []
        columns = {name: getattr(self, name) for name in COLUMNS}
        for rank, place in enumerate(self.order, start=1):
            row: dict[str, float | int | None] = {"rank": rank, "point": self.points[place]}
            row |= {name: None if v is None else float(v[place]) for name, v in columns.items()}
            rows.append(row)
        return rows

    def correlations(self) -> dict[str, float]:
        """Spearman's rank correlation of every other column with the score, over points with both numbers."""
        found = {}
        for name in COLUMNS:
            column = getattr(self, name)
            if column is not None and column is not self.score and len(column) > 2:
                found[name] = spearman(self.score, column)
        return found


def spearman(first: Tensor, second: Tensor) -> float:
    """Spearman's rank correlation; ties share their mean rank, pairs with a number missing are left out.

    Not a number where one of them is constant.

    Args:
        first: ``(n,)``.
        second: ``(n,)``.

    Example:
        >>> import torch
        >>> round(spearman(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([10.0, 30.0, 20.0])), 6)
        0.5
    """
    known = ~(first.isnan() | second.isnan())
    first, second = first[known], second[known]
    if len(first) < 2 or bool((first == first[0]).all()) or bool((second == second[0]).all()):
        return float("nan")
    ranks = [rankdata(values.cpu().numpy()) for values in (first, second)]
    return float(np.corrcoef(*ranks)[0, 1])
