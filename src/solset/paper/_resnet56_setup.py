"""What the experiment starts from: settings, images, the pre-trained network."""

from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import CrossEntropyLoss
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from solset.checks import positive, within
from solset.derivatives import GraphicalDerivative
from solset.errors import bad_value
from solset.operators import InformativeRows
from solset.paper._data import CIFAR10
from solset.paper._resnet import ResNet
from solset.problem import Problem
from solset.reports import RunFolder, Settings, integers, option, path_of, seed_option, steps_option, unit
from solset.risk import EmpiricalRisk


def _file_option(flag: str, size: str, text: str) -> Any:
    """The field for a public file, which is downloaded where no path is given."""
    default = f"a download of {size} to the cache folder, with its hash checked"
    return option(None, flag=flag, parse=path_of, is_recorded=False, default_help=default, help=text)


@dataclass(frozen=True)
class ResNet56Settings(Settings):
    """Settings of ``solset resnet56``; each field says what it is in its help text."""

    seed: int = seed_option("the choice of points and the samples")
    data: Path | None = _file_option(
        "--data",
        "170 MB",
        "CIFAR-10: the archive cifar-10-python.tar.gz, its unpacked folder, or an .npz file with images and "
        "labels.",
    )
    weights: Path | None = _file_option(
        "--weights", "3.5 MB", "Checkpoint of the trained network: the public file resnet56-4bfd9763.th."
    )
    points: int = option(
        1000, flag="--points", help="Number of training images in the problem, the first of the file."
    )
    moved: tuple[int, ...] = option(
        (1, 10),
        flag="--moved",
        parse=partial(integers, expected="numbers such as 1,10", cure="Say how many move."),
        help="Numbers of images that move, such as 1,10; one experiment for each number.",
    )
    sizes: tuple[float, ...] = steps_option(
        (0.002, 0.005, 0.01, 0.02, 0.05, 0.1), "norms are taken after preprocessing"
    )
    tol: float = option(3e-3, help="Accuracy to which rows of the Jacobian may be left out.")
    samples: int = option(
        2, check=partial(within, low=1), help="Number of elements drawn from each estimated set."
    )
    paper_steps: int = option(
        60,
        check=partial(within, low=1),
        help="Number of LSMR iterations on the Hessian of the moved points, the paper's way.",
    )
    retraining_size: float = option(0.01, help="Step at which real retraining is run, as a fraction.")
    retraining_gradients: int = option(
        20,
        flag="--retraining",
        check=partial(within, low=0),
        help="Length of each real warm retraining, in gradients of the risk; 0 for no retraining.",
    )
    figure_moved: int = option(
        500, flag="--figure", help="Number of images that move in the landscape; 0 for no landscape."
    )
    figure_size: float = option(0.005, help="Step by which images move in the landscape, as a fraction.")
    resolution: int = option(
        17,
        flag="--resolution",
        check=partial(within, low=2),
        help="Number of grid points along each axis of the landscape.",
    )
    batch_size: int = option(50, check=partial(within, low=1), help="Number of images in one batch.")
    memory_gigabytes: float = option(
        3.0,
        flag="--memory",
        check=partial(positive, cure="Use 3."),
        help="Memory for rows of the Jacobian in gigabytes, and the same again for graphs that are kept; "
        "rows that do not fit go to the run folder.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.moved or min(self.moved) < 1 or max(self.moved) > self.points:
            raise bad_value(
                "moved", expected=f"numbers in 1..{self.points}", got=self.moved, cure="Move fewer images."
            )
        within("figure_moved", self.figure_moved, 0, self.points, cure="0 leaves it out.")


class TrainedResNet56:
    """The trained point, its data, and what every part of the experiment asks of them."""

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
        """The graphical derivative for these points, on the rows that carry it; prints its plan.

        A problem of its own takes no rows from earlier questions, which an interrupted run did not ask: then
        its last digits would differ.
        """
        rows, problem = InformativeRows(tol=self.settings.tol), self.problem.with_model(self.model)
        derivative = problem.derivative(points=moved, optimality="interpolating", rows=rows)
        if not derivative.plan:
            raise bad_value(
                "moved",
                expected="images whose rows fit a Gram matrix",
                got=f"{len(moved)}: {derivative.reason}",
                cure="Move fewer images, or raise --memory.",
            )
        tqdm.write(f"{len(moved)} moved: {derivative.plan}")
        return derivative

    def directions(self, moved: list[int]) -> Tensor:
        """Unit directions: each image's own loss gradient."""
        return unit(self.problem.risk().select(moved).input_gradients())

    def losses(self, risk: EmpiricalRisk, moved: list[int]) -> dict[str, float]:
        """Mean losses on the moved points and on all, and how far the outputs went from the clean ones."""
        outputs = risk.outputs()
        losses = cross_entropy(outputs, self.data.labels, reduction="none")
        change = outputs - self.clean
        return {
            "moved": float(losses[moved].mean()),
            "all": float(losses.mean()),
            "output_change_moved": float(change[moved].norm()),
            "output_change": float(change.norm()),
        }
