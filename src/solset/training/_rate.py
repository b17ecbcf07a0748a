"""The learning rate of a training, as a change of its recipe."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from solset.changes import Change, TrainingChange
from solset.checks import within
from solset.errors import bad_type
from solset.linalg import Space


@dataclass(frozen=True, eq=False)
class LearningRate(Change):
    """The learning rate of every step changes: ``η_t`` becomes ``(1 + ε) η_t``, whatever the schedule.

    Only a training has a learning rate. The solutions of a problem do not depend on one.

    Attributes:
        change: Relative change ``ε`` of the rate, at least -1; 0.1 raises every rate by a tenth.

    Example:
        >>> LearningRate(0.1)
        LearningRate(0.1)
    """

    change: float = 1.0

    def __post_init__(self) -> None:
        within("change", self.change, -1.0, cure="Use 0.1 to raise every rate by a tenth.")

    def of_training(self, count: int, features: Callable[[], Space]) -> TrainingChange:  # noqa: ARG002
        """The change of every step's rate; arguments as for every change."""
        return TrainingChange(rate=float(self.change))

    def _refuse(self, risk: object, memory_budget: int = 0) -> NoReturn:  # noqa: ARG002 - as for a change of data
        raise bad_type(
            "change",
            expected="a change of the data of a problem, whose solutions depend on no learning rate",
            got="LearningRate",
            cure="Ask a Training, such as training.run().estimate(LearningRate(0.1)).",
        )

    chosen = of_gradient = of_outputs = space = direction = applied_to = _refuse

    def __repr__(self) -> str:
        return f"LearningRate({self.change:g})"
