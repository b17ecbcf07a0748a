"""Warm retraining with an optimiser of PyTorch: what a user does today when the data has changed."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from tqdm import trange

from solset.checks import within
from solset.courses import Retrained
from solset.errors import Status, bad_value
from solset.retraining._ends import finish
from solset.risk import EmpiricalRisk


@dataclass(frozen=True)
class WithOptimizer:
    """Epochs of mini-batches from ``w̄`` with a first-order optimiser of ``torch.optim``, in evaluation mode.

    Attributes:
        optimizer: Function from the parameter tensors to an optimiser whose ``step`` needs no closure.
        epochs: Number of passes over the changed data; each costs one full-batch gradient.
        batch_size: Number of points per step.
        seed: Seed of the order of the points.
        progress: Whether to show a progress bar; by default only on a terminal.

    Raises:
        ValueError: If there is no epoch, a batch has no point, or the optimiser needs a closure.

    Cost: a full-batch gradient an epoch; the weights after each epoch are kept.

    Example:
        >>> WithOptimizer(lambda weights: torch.optim.Adam(weights, lr=1e-4), epochs=3).epochs
        3
    """

    optimizer: Callable[[Sequence[Tensor]], torch.optim.Optimizer]
    epochs: int
    batch_size: int = 128
    seed: int = 0
    progress: bool | None = None

    def __post_init__(self) -> None:
        within("epochs", self.epochs, 1, cure="Train for one.")
        within("batch_size", self.batch_size, 1, cure="Leave it out.")

    def run(self, start: EmpiricalRisk, target: Tensor) -> Retrained:  # noqa: ARG002 - part of the interface
        """Where the optimiser goes from the changed risk at ``w̄``; ``target`` is not used."""
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
        hidden = None if self.progress is None else not self.progress
        for epoch in trange(1, self.epochs + 1, desc="retraining", disable=hidden, leave=False):
            for inputs, targets in self._shuffled(start, generator):
                optimizer.zero_grad()
                with torch.enable_grad():
                    # The mean over the batch stands for the mean over the data; a sum is scaled up to it.
                    loss = start.loss(start.forward(leaves, inputs), targets)
                    scale = 1.0 if start.reduction == "mean" else len(start.points) / len(inputs)
                    (scale * loss + start.regularisation(leaves)).backward()
                optimizer.step()
            course[epoch] = start.layout.join([leaf.detach() for leaf in leaves])
        end = replace(start, weights=course[self.epochs])
        return finish(start, end, self.epochs, Status.CONVERGED, course)  # its target is to take all steps

    def _shuffled(self, risk: EmpiricalRisk, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(risk.points), generator=generator).tolist()
        for first in range(0, len(order), self.batch_size):
            yield risk.points[order[first : first + self.batch_size]]
