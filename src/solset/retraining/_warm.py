"""Warm retraining with an optimiser of PyTorch: what a user does today when the data has changed."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from tqdm import trange

from solset.errors import Status, bad_value
from solset.retraining._retrain import Retrained, finish
from solset.risk import EmpiricalRisk


@dataclass(frozen=True)
class WithOptimizer:
    """Epochs of mini-batches from ``w̄`` with a first-order optimiser of ``torch.optim``, in evaluation mode.

    Attributes:
        optimizer: From the list of parameter tensors to the optimiser, whose ``step`` needs no closure.
        epochs: Passes over the moved data; each costs one full-batch gradient.
        batch_size: Points per step.
        seed: Of the order of the points.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: If there is no epoch, a batch has no point, or the optimiser needs a closure.

    Cost: a full-batch gradient an epoch; the weights after each are kept.

    Example:
        >>> WithOptimizer(lambda weights: torch.optim.Adam(weights, lr=1e-4), epochs=3).epochs
        3
    """

    optimizer: Callable[[Sequence[Tensor]], torch.optim.Optimizer]
    epochs: int
    batch_size: int = 128
    seed: int = 0
    progress: bool = False

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise bad_value("epochs", expected="one or more", got=self.epochs, cure="Train for one.")
        if self.batch_size < 1:
            raise bad_value("batch_size", expected="one or more", got=self.batch_size, cure="Leave it out.")

    def run(self, start: EmpiricalRisk, target: Tensor) -> Retrained:  # noqa: ARG002 - part of the interface
        """Train.

        Args:
            start: The moved risk at ``w̄``.
            target: Outputs to keep; not used.
        """
        leaves = start.leaves()
        optimizer = self.optimizer(leaves)
        if isinstance(optimizer, torch.optim.LBFGS):
            raise bad_value(
                "optimizer",
                expected="one whose step needs no closure",
                got="torch.optim.LBFGS",
                cure="Use solset.retraining.LBFGS.",
            )
        generator = torch.Generator().manual_seed(self.seed)
        course: dict[int, Tensor] = {}
        for epoch in trange(1, self.epochs + 1, desc="retraining", disable=not self.progress, leave=False):
            for inputs, targets in self._shuffled(start, generator):
                optimizer.zero_grad()
                with torch.enable_grad():
                    # The mean over the batch stands for the mean over the data; a sum is scaled up to it.
                    loss = start.loss(start.forward(leaves, inputs), targets)
                    value = self._scale(start, len(inputs)) * loss
                    decay = sum((leaf * leaf).sum() for leaf in leaves)
                    (value + 0.5 * start.weight_decay * decay).backward()
                optimizer.step()
            course[epoch] = start.layout.join([leaf.detach() for leaf in leaves])
        end = replace(start, weights=course[self.epochs])
        is_finite = bool(torch.isfinite(end.weights).all())
        status = Status.MAX_STEPS if is_finite else Status.NONFINITE
        return finish(start, end, self.epochs, status, course)

    def _shuffled(self, risk: EmpiricalRisk, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(risk.points), generator=generator).tolist()
        for first in range(0, len(order), self.batch_size):
            yield risk.points[order[first : first + self.batch_size]]

    @staticmethod
    def _scale(risk: EmpiricalRisk, count: int) -> float:
        return 1.0 if risk.reduction == "mean" else len(risk.points) / count
