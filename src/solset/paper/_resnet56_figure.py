"""Figure 4: many points move; elements of the estimated set on the filter-normalised landscape."""

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from solset.errors import bad_value
from solset.landscapes import Landscape, filter_normalised, landscape
from solset.landscapes._filter_norms import filter_length
from solset.paper._resnet56_setup import TrainedResNet56
from solset.reports._directions import step_of

ALONG = (-1.0, -0.5, 0.5, 1.0)  # where other elements of the set lie on the kernel direction
BEYOND = (-0.6, 3.0)  # what the landscape shows along the minimum-norm change, in its lengths
ACROSS = 2.5  # and along the kernel direction, to both sides
KERNEL_LENGTH = 3.0  # of the kernel direction, in lengths of the minimum-norm change


class LandscapeFigure:
    """The moved points, the set they give, and the loss around it."""

    def __init__(self, run: TrainedResNet56) -> None:
        self.run = run
        self.points = run.order[: run.settings.figure_moved]

    @cached_property
    def dx(self) -> Tensor:
        """Each point along its own loss gradient."""
        inputs = self.run.data.inputs[self.points]
        return step_of(inputs, self.run.directions(self.points), self.run.settings.figure_size)

    @cached_property
    def changes(self) -> dict[str, Tensor]:
        """The minimum-norm element of the set and a direction that stays in it."""
        return self.run.folder.tensor_stage("figure_changes", self._changes)

    @cached_property
    def elements(self) -> Tensor:
        """Other elements of the set, as weights."""
        base = self.run.problem.weights() + self.changes["change"]
        return torch.stack([base + t * self.changes["kernel"] for t in ALONG])

    @cached_property
    def landscape(self) -> Landscape:
        """The loss of the moved data in the plane of the two; each finished row is kept."""
        weights, change = self.run.problem.weights(), self.changes["change"]
        return landscape(
            self.run.problem,
            {"Δw": change, "kernel direction": self.changes["kernel"]},
            risk=self.run.problem.risk().move(self.points, self.dx),
            subsets={"the moved points": self.points},
            marks={
                "trained weights": weights,
                "minimum-norm solution": weights + change,
                "sampled solutions": self.elements,
            },
            ranges=[self._range(change, *BEYOND), self._range(self.changes["kernel"], -ACROSS, ACROSS)],
            resolution=self.run.settings.resolution,
            checkpoint=self.run.folder.reserve("landscape_rows.safetensors"),
            progress=self.run.progress,
        )

    def _range(self, direction: Tensor, start: float, stop: float) -> tuple[float, float]:
        """So many times the direction, in the landscape's unit: relative changes of the filters."""
        unit = filter_length(self.run.problem.risk(), direction, has_biases=False)
        return start * unit, stop * unit

    def numbers(self) -> dict[str, Any]:
        """What the report says of it."""
        run, change = self.run, self.changes["change"]
        weights = run.problem.weights()
        risk = run.problem.risk().move(self.points, self.dx)
        rows, rank, residual = self.changes["facts"].tolist()
        return {
            "size": run.settings.figure_size,
            "moved": len(self.points),
            "rows": int(rows),
            "rank": int(rank),
            "residual": residual,
            "relative_change": float(change.norm() / weights.norm()),
            "kernel_ratio": float(self.changes["kernel"].norm() / change.norm()),
            "trained": run.losses(risk, self.points),
            "estimate": run.losses(risk.at(weights + change), self.points),
            "elements": [run.losses(risk.at(w), self.points) for w in self.elements],
            "landscape": self.landscape.to_dict(),
        }

    def _changes(self) -> dict[str, Tensor]:
        run = self.run
        derivative = run.derivative(self.points)
        answer = derivative(self.dx)
        change = answer.min_norm().value
        generator = torch.Generator().manual_seed(run.settings.seed + 2)
        random = filter_normalised(run.problem, torch.randn(change.shape, generator=generator))
        kernel = answer.directions(random.unsqueeze(1))[:, 0]
        kernel = kernel * (KERNEL_LENGTH * change.norm() / kernel.norm())
        check, rank = derivative.check, derivative.rank
        if check is None or rank is None:
            raise bad_value("figure", expected="images that move", got="none", cure="Give a step.")
        facts = torch.tensor([check.rows, rank, check.residual], dtype=torch.float64)
        return {"change": change, "kernel": kernel, "facts": facts}
