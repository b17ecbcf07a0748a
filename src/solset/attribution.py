"""The derivative of a goal in all that a solution takes from its data: what each point is worth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from solset.changes import Change
from solset.checks import checked
from solset.errors import Status, bad_value
from solset.linalg import Space
from solset.results import TableResult, computed


@dataclass(frozen=True, eq=False, repr=False)
class Attribution(TableResult):
    """The derivative of a goal in every feature, target and weight of the training points.

    A block of ``k`` goals puts an axis ``k`` in front of every shape below.

    Attributes:
        value: Value of the goal at the trained weights; a tensor ``(k,)`` for a block.
        weights: Derivative in the factor of each point's loss, which is 1 at first, ``(n,)``: a positive one
            raises the goal where the point counts more, and its negative predicts what removing the point
            does. A mean stays a mean: with a larger factor of one point, all others count less. ``None``
            where the loss has no factors of single points.
        features: Derivative in each feature of each point, ``(n, *input)``, in goal units per input unit: a
            positive one raises the goal where the feature grows. ``None`` for whole numbers, such as token
            ids.
        targets: Derivative in each target, ``(n, ...)``, in goal units per target unit: a positive one raises
            the goal where the target grows. ``None`` for class labels.
        decay: Derivative in the weight decay ``λ`` of all weights that decay, in goal units: a
            positive one raises the goal where ``λ`` grows. ``None`` where no weight decays.
        labels: Class of each point, where targets are classes, ``(n,)``; ``None`` elsewhere.
        names: Name of each point; ``None`` where none were given.
        status: Outcome of the solve; ``inconsistent`` where solutions differ in the goal to first order, so
            that it is asked of the nearest one.
        notes: Sentences on what is missing, and on what speaks against the numbers.
    """

    value: float | Tensor
    weights: Tensor | None
    features: Tensor | None
    targets: Tensor | None
    decay: float | Tensor | None = None
    labels: Tensor | None = None
    names: Sequence[str] | None = None
    status: Status = Status.CONVERGED
    notes: tuple[str, ...] = ()

    message = computed(lambda result: "; ".join(result.notes))

    @property
    def headline(self) -> str:
        """Value of the goal, and the point whose removal is predicted to change it most."""
        if isinstance(self.value, Tensor):
            size = "" if self.weights is None else f" by {self.weights.shape[-1]} points"
            return f"{self.status}, {len(self.value)} goals{size}, mean {float(self.value.mean()):.4g}"
        if self.weights is None or not bool((self.weights != 0).any()):
            return f"{self.status}, goal {self.value:.4g}"
        most = int(self.weights.abs().argmax())
        effect = -float(self.weights[most])
        return f"{self.status}, goal {self.value:.4g}; removing point {most} changes it most, by {effect:.3g}"

    @checked
    def predict(self, change: Change) -> float | Tensor:
        """The change of the goal by a change of the data, to first order; ``(k,)`` for a block.

        Args:
            change: Change of features, of factors (those of a removal are -1) or of the common weight
                decay, or a sum of these.

        Raises:
            ValueError: If a derivative that the change needs is missing, or the change has none: new labels
                and new points are no multiple of a small change.

        Cost: one product with the derivative at the points that change; no network is asked.
        """
        asked = change.of_training(self._count, self._space)
        decays = [step for step in asked.decays if not isinstance(step, Mapping)]
        if asked.targets or asked.added or asked.rate or len(decays) < len(asked.decays):
            cure = "Ask for estimate(change), which takes a step of any size."
            expected = "a change of features, factors or the common weight decay"
            raise bad_value("change", expected=expected, got=repr(change), cure=cure)
        total = torch.zeros_like(torch.as_tensor(self.value).reshape(-1), dtype=torch.float64)
        for name, moves in (("weights", asked.factors), ("features", asked.features)):
            if moves:
                slopes = self._slopes(name)[:, list(moves)].double()
                steps = torch.stack([torch.as_tensor(move, dtype=torch.float64) for move in moves.values()])
                total = total.to(slopes.device) + slopes.flatten(1) @ steps.flatten().to(slopes.device)
        for step in decays:
            slopes = self._slopes("decay").double()
            total = total.to(slopes.device) + slopes * step
        return total if isinstance(self.value, Tensor) else float(total)

    @property
    def _count(self) -> int:
        """Number of the training points."""
        parts = [part for part in (self.weights, self.features, self.targets) if part is not None]
        return 0 if not parts else parts[0].shape[int(isinstance(self.value, Tensor))]

    def _slopes(self, name: str) -> Tensor:
        """A derivative with an axis of goals in front; refused where there is none."""
        slopes = getattr(self, name)
        if slopes is None:
            raise bad_value(
                "change",
                expected=f"one that needs no derivative in {name}",
                got=f"an attribution without it ({self.message})",
                cure="Ask for estimate(change), or for an attribution with this derivative.",
            )
        if isinstance(slopes, Tensor):
            return slopes if isinstance(self.value, Tensor) else slopes.unsqueeze(0)
        return torch.tensor([slopes], dtype=torch.float64)

    def _space(self) -> Space:
        """The space of one point's features."""
        slopes = self._slopes("features")
        return Space("dx", tuple(slopes.shape[2:]), slopes.dtype, slopes.device)

    def rows(self) -> list[dict[str, Any]]:
        """Each point with its name and label, the predicted effect of its removal, and its rank.

        ``score`` is the effect, and ``rank`` orders the points by its size; ``feature_norm`` is the norm of
        the derivative in the features. A block has the rows of each goal, with its number.
        """
        if not isinstance(self.value, Tensor):
            return self._rows_of(self.weights, self.features)
        each = range(len(self.value))
        parts = [(None if p is None else p.unbind(0)) for p in (self.weights, self.features)]
        tables = [self._rows_of(*(None if part is None else part[k] for part in parts)) for k in each]
        return [{"goal": k, **row} for k, table in zip(each, tables, strict=True) for row in table]

    def _rows_of(self, weights: Tensor | None, features: Tensor | None) -> list[dict[str, Any]]:
        columns: dict[str, list[Any]] = {}
        if self.names is not None:
            columns["name"] = list(self.names)
        if self.labels is not None:
            columns["label"] = self.labels.tolist()
        if weights is not None:
            columns["score"] = (-weights).tolist()
            order = weights.abs().argsort(descending=True, stable=True)
            columns["rank"] = (order.argsort() + 1).tolist()
        if features is not None:
            columns["feature_norm"] = features.flatten(1).norm(dim=1).tolist()
        count = len(next(iter(columns.values()), []))
        return [{"point": i, **{name: column[i] for name, column in columns.items()}} for i in range(count)]


def require_names(names: Sequence[str] | None, count: int) -> None:
    """Refuses names that are not one for each training point.

    Args:
        names: Names of the points; ``None`` for none.
        count: Number of training points.

    Raises:
        ValueError: If their number is another one.
    """
    if names is not None and len(names) != count:
        cure = "Pass one for each training point."
        raise bad_value("names", expected=f"{count} of them", got=len(names), cure=cure)
