"""Points that move along unit directions, step by step: what the commands ``run`` and ``path`` share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from solset.changes import Change, Move
from solset.errors import bad_value
from solset.problem import AUTO, Optimality, Problem, as_map
from solset.reports._changes import PointSettings
from solset.reports._directions import directions_from_file, loss_directions, random_directions, step_of
from solset.reports._options import (
    map_option,
    option,
    points_option,
    seed_option,
    steps_option,
)
from solset.reports._run_folder import RunFolder
from solset.risk import EmpiricalRisk


@dataclass(frozen=True)
class ChangeSettings(PointSettings):
    """Settings of a command that moves points, or changes whole points; each field says what it is."""

    points: tuple[int, ...] = points_option("that move", default=(), default_help="none")
    direction: str = option(
        "gradient",
        flag="--direction",
        help="Directions in which the points move: gradient (each point moves along the gradient of its own "
        "loss), random, or a safetensors file with the key directions.",
    )
    sizes: tuple[float, ...] = steps_option((0.01,), "the set is estimated for each")
    optimality: str = map_option("are estimated")
    seed: int = seed_option("random directions")

    def moves(self, problem: Problem) -> "Moves":
        """The points that move with their directions; refuses settings that do not fit the problem."""
        points = problem.check_points(self.points)
        inputs = problem.risk().points.features(points)
        return Moves(points, inputs, self.directions(inputs, lambda: loss_directions(problem, points)))

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.points) == self.changes_points:
            raise bad_value(
                "--points",
                expected="given, or one of --remove, --relabel, --reweight and --add in its place",
                got="both" if self.points else "nothing",
                cure="Points that move and points that change as a whole are two runs.",
            )

    def check(self, problem: Problem) -> None:
        """Refuses settings that do not fit the problem, before a run folder is made.

        Cost: one gradient over the moved points.
        """
        change, asked = self.change_kind(problem), as_map(self.optimality)
        if asked is not None:
            problem.derivative(change, optimality=asked)

    def change_kind(self, problem: Problem) -> Change:
        """The change of whole points, or a move of any length of the points that move."""
        if self.changes_points:
            return self.point_changes(problem).whole
        return Move(self.moves(problem).points)

    @property
    def directions_note(self) -> str:
        """The sentence of a page that says how points move."""
        how = "each point moves by the stated percentage of its own norm, in input units after preprocessing"
        return f"Directions: {self.direction}; {how}."

    def directions(self, inputs: Tensor, by_gradient: Callable[[], Tensor]) -> Tensor:
        """Unit directions of points, random or from a file, or those that a gradient gives."""
        if self.direction == "gradient":
            return by_gradient()
        if self.direction == "random":
            return random_directions(inputs.shape, inputs, torch.Generator().manual_seed(self.seed))
        return directions_from_file(Path(self.direction), inputs.shape, inputs)


@dataclass(frozen=True, eq=False)
class Moves:
    """Points that move."""

    points: list[int]  # Indices of the moved points
    inputs: Tensor  # The moved points as they are, ``(|K|, *input)``
    directions: Tensor  # Unit directions in which they move, in the same shape

    def stages(
        self,
        folder: RunFolder,
        name: str,
        sizes: Sequence[float],
        compute: Callable[[Tensor, float], dict[str, Any]],
    ) -> list[dict[str, Any]]:
        """The results of ``compute(dx, size)``, a stage for each size, with its weights beside it."""
        return [
            folder.stage(
                f"{name}_{size:g}",
                lambda size=size: {
                    "size": size,
                    "step_percent": 100 * size,
                    **compute(step_of(self.inputs, self.directions, size), size),
                },
                beside=[f"weights_{size:g}.safetensors"],
            )
            for size in sizes
        ]


def map_of(name: str) -> Optimality:
    """The optimality map of this name, or the word for the automatic choice."""
    return as_map(name) or AUTO


def mean_losses(risk: EmpiricalRisk, moved: Sequence[int]) -> dict[str, float]:
    """The mean loss per example, on the moved points and on all points."""
    losses = risk.losses()
    return {"moved": float(losses[list(moved)].mean()), "all": float(losses.mean())}
