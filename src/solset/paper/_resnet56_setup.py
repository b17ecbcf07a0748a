"""What the experiment starts from: settings, images, the pre-trained network."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import CrossEntropyLoss
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from solset.derivatives import GraphicalDerivative
from solset.errors import bad_value
from solset.operators import InformativeRows
from solset.paper._cifar import CIFAR10
from solset.paper._resnet import ResNet
from solset.problem import Problem
from solset.reports._directions import unit
from solset.reports._options import check_seed
from solset.reports._run_folder import RunFolder
from solset.risk import EmpiricalRisk


@dataclass(frozen=True)
class ResNet56Settings:
    """What the experiment is asked to do.

    Attributes:
        seed: Of the choice of points and of the samples.
        points: Training images, the first of the file.
        moved: How many move, one experiment for each number.
        sizes: Steps as fractions of each moved image's norm, after preprocessing.
        tol: Accuracy to which rows of the Jacobian may be left out.
        samples: Elements drawn from each estimated set.
        paper_steps: LSMR iterations on the Hessian of the moved points, the paper's way.
        retraining_size: The step at which real retraining is run.
        retraining_gradients: How long, in gradients; 0 for not at all.
        figure_moved: How many move in the landscape; 0 for no landscape.
        figure_size: By how much.
        resolution: Grid points along each axis of the landscape.
        batch_size: Images per sweep.
        memory_gigabytes: For rows and graphs each.
    """

    seed: int = 0
    points: int = 1000
    moved: tuple[int, ...] = (1, 10)
    sizes: tuple[float, ...] = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
    tol: float = 3e-3
    samples: int = 2
    paper_steps: int = 60
    retraining_size: float = 0.01
    retraining_gradients: int = 20
    figure_moved: int = 500
    figure_size: float = 0.005
    resolution: int = 17
    batch_size: int = 50
    memory_gigabytes: float = 3.0

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if not self.moved or min(self.moved) < 1 or max(self.moved) > self.points:
            raise bad_value(
                "moved", expected=f"numbers in 1..{self.points}", got=self.moved, cure="Move fewer images."
            )
        if not 0 <= self.figure_moved <= self.points:
            raise bad_value(
                "figure", expected=f"in 0..{self.points}", got=self.figure_moved, cure="0 leaves it out."
            )
        least = {"resolution": 2, "retraining_gradients": 0, "samples": 1, "paper_steps": 1, "batch_size": 1}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise bad_value(name, expected=f"{low} or more", got=getattr(self, name), cure="Raise it.")
        if not 0 < self.memory_gigabytes < float("inf"):
            raise bad_value(
                "memory", expected="positive and finite", got=self.memory_gigabytes, cure="Use 3."
            )
        if not self.sizes or min(self.sizes) <= 0:
            raise bad_value("sizes", expected="positive steps", got=self.sizes, cure="0.01 means 1 %.")
        if len({f"{size:g}" for size in self.sizes}) < len(self.sizes):
            raise bad_value(
                "sizes", expected="steps that differ in six digits", got=self.sizes, cure="Name each once."
            )


class TrainedResNet56:
    """The trained point, its data, and what every part of the experiment asks of them.

    Args:
        settings: What to do.
        folder: Where stages are kept.
        model: The pre-trained network in evaluation mode.
        data: Images with labels, at least as many as points.
        progress: Whether to show progress bars.
    """

    def __init__(
        self,
        settings: ResNet56Settings,
        folder: RunFolder,
        model: ResNet,
        data: CIFAR10,
        *,
        progress: bool = True,
    ) -> None:
        self.settings, self.folder, self.model, self.progress = settings, folder, model, progress
        if len(data.labels) < settings.points:
            raise bad_value(
                "data",
                expected=f"{settings.points} images or more",
                got=len(data.labels),
                cure="Use fewer --points, or a file with more images.",
            )
        self.data = data.part(0, settings.points)
        generator = torch.Generator().manual_seed(settings.seed)
        self.order = torch.randperm(settings.points, generator=generator).tolist()

    @cached_property
    def problem(self) -> Problem:
        """The trained point; its leftover gradient is reported, not warned of."""
        return Problem(
            self.model,
            CrossEntropyLoss(),
            self.data.inputs,
            self.data.labels,
            batch_size=self.settings.batch_size,
            memory_budget=int(self.settings.memory_gigabytes * 1e9),
            spill_folder=self.folder.path,
            gradient_tol=float("inf"),
        )

    @cached_property
    def clean(self) -> Tensor:
        """The outputs of the trained network on the clean images, ``(n, 10)``."""
        return self.problem.risk().outputs()

    def facts(self) -> dict[str, Any]:
        """Of the trained point: sizes, loss, and how far from stationary it is."""
        problem = self.problem
        losses = cross_entropy(self.clean, self.data.labels, reduction="none")
        return {
            "points": problem.point_count,
            "weights": len(problem.weights()),
            "norm": float(problem.weights().norm()),
            "gradient_norm": float(problem.gradient().norm()),
            "loss": float(losses.mean()),
            "right": int((self.clean.argmax(1) == self.data.labels).sum()),
            "fit": problem.fit,
        }

    def derivative(self, moved: list[int]) -> GraphicalDerivative:
        """The graphical derivative for these points, on the rows that carry it; prints its plan."""
        rows = InformativeRows(tol=self.settings.tol)
        found = self.problem.graphical_derivative(points=moved, optimality="interpolating", rows=rows)
        if not found.plan:
            raise bad_value(
                "moved",
                expected="images whose rows fit a Gram matrix",
                got=f"{len(moved)}: {found.reason}",
                cure="Move fewer images, or raise --memory.",
            )
        tqdm.write(f"{len(moved)} moved: {found.plan}")
        return found

    def directions(self, moved: list[int]) -> Tensor:
        """Unit directions: each image's own loss gradient."""
        return unit(self.problem.risk().select(moved).input_gradients())

    def losses(self, risk: EmpiricalRisk, moved: list[int]) -> dict[str, float]:
        """Mean losses on the moved points and on all, and how far the outputs went from the clean ones."""
        outputs = risk.outputs()
        found = cross_entropy(outputs, self.data.labels, reduction="none")
        change = outputs - self.clean
        return {
            "moved": float(found[moved].mean()),
            "all": float(found.mean()),
            "output_change_moved": float(change[moved].norm()),
            "output_change": float(change.norm()),
        }
