"""The derivative of a goal in all that a solution takes from its data: what each point is worth."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from solset.errors import Status, bad_value
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
