"""The whole of section 5.2, stage by stage."""

from functools import cached_property
from typing import Any

from tqdm import tqdm

from solset.paper._resnet56_figure import LandscapeFigure
from solset.paper._resnet56_moved import MovedPoints
from solset.paper._resnet56_setup import TrainedResNet56


class ResNet56Run:
    """Everything that is computed from the trained point."""

    def __init__(self, start: TrainedResNet56) -> None:
        self.start, self.settings, self.folder = start, start.settings, start.folder

    @cached_property
    def figure(self) -> LandscapeFigure | None:
        """The landscape, if it is asked for."""
        return LandscapeFigure(self.start) if self.settings.figure_moved else None

    def numbers(self) -> dict[str, Any]:
        """Everything the report shows, computed or read back stage by stage."""
        result: dict[str, Any] = {
            "tol": self.settings.tol,
            "setup": self.folder.stage("setup", self.start.facts),
        }
        parts = tqdm(self.settings.moved, desc="moved points", disable=None if self.start.progress else True)
        result["moved"] = {str(count): MovedPoints(self.start, count).numbers() for count in parts}
        if self.figure is not None:
            result["figure"] = self.folder.stage("figure", self.figure.numbers)
        self.folder.write_json("result.json", result)
        return result
