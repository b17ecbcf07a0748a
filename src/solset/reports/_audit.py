"""An audit of a user's training data: every point ranked by how far it can move the model."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from solset.checks import within
from solset.errors import bad_type, bad_value
from solset.modulus import Audit, audit
from solset.problem import Problem, as_map
from solset.reports._options import Settings, indices, map_option, option, source_option
from solset.reports._run_folder import RunFolder
from solset.reports._stages import stage
from solset.reports._users import map_of


@dataclass(frozen=True)
class AuditSettings(Settings):
    """Settings of ``solset audit``; each field says what it is in its help text."""

    source: str = source_option("a solset.Problem")
    points: tuple[int, ...] = option(
        (),
        flag="--points",
        parse=indices,
        default_help="all points",
        help="Indices of the training points to audit, such as 0,3,7.",
    )
    validation: str = option(
        "",
        flag="--validation",
        help="Function of the same file that returns the inputs and targets of a validation set; "
        "the predicted change of its loss is added to the ranking.",
    )
    layer: str = option(
        "",
        flag="--layer",
        default_help="all weights",
        help="Name pattern of the weights that may move, such as 'fc.*'.",
    )
    joint: Literal["auto", "yes", "no"] = option(
        "auto",
        flag="--joint",
        help="Choice whether the outputs of all points are kept (yes) or those of each point by itself (no); "
        "auto keeps all where a Gram matrix of all rows fits into memory.",
    )
    optimality: str = map_option("move")
    influence: bool = option(
        True,
        flag="--influence/--no-influence",
        help="Column with the feature influence of Koh and Liang, which takes a solve with the Hessian.",
    )
    top: int = option(
        10,
        flag="--top",
        check=partial(within, low=1, cure="Leave it out."),
        help="Number of points shown in figures and tables.",
    )


def load_validation(source: str, name: str) -> tuple[Tensor, Tensor]:
    """What the function ``name`` of a loaded user's file returns: inputs and targets."""
    module = sys.modules[f"solset_user_{Path(source.rpartition(':')[0]).stem}"]
    function = getattr(module, name, None)
    if not callable(function):
        raise bad_value("validation", expected="a function of the file", got=name, cure="Check the name.")
    try:
        returned: Any = function()
    except Exception as error:
        raise bad_value(
            "validation", expected=f"{name}() to run", got=f"{type(error).__name__}: {error}", cure="Call it."
        ) from error
    if not isinstance(returned, Sequence) or [isinstance(part, Tensor) for part in returned] != [True, True]:
        raise bad_type(
            "validation",
            expected="inputs and targets",
            got=type(returned).__name__,
            cure="Return two tensors.",
        )
    return returned[0], returned[1]


def check_audit(problem: Problem, settings: AuditSettings) -> None:
    """Refuses settings that do not fit the problem, before a folder is made."""
    points = problem.check_points(settings.points or None)
    part = problem.restrict(parameters=[settings.layer]) if settings.layer else problem
    asked = as_map(settings.optimality)
    if asked is not None:
        part.graphical_derivative(points=points[:1], optimality=asked)


def run_audit(
    problem: Problem,
    settings: AuditSettings,
    folder: RunFolder,
    *,
    validation: tuple[Tensor, Tensor] | None = None,
    progress: bool = True,
) -> Audit:
    """Audits into a run folder: batches as they are finished, then ranking, directions and maps."""
    result = audit(
        problem,
        points=settings.points or None,
        validation=validation,
        layer=settings.layer or None,
        joint={"auto": None, "yes": True, "no": False}[settings.joint],
        optimality=map_of(settings.optimality),
        influence=settings.influence,
        checkpoint=folder.reserve,
        progress=progress,
    )
    folder.write_csv("ranking.csv", result.rows())
    folder.write_tensors("audit.safetensors", {"directions": result.directions, "maps": result.maps})
    stage(folder, "result", lambda: audit_record(problem, result))
    return result


def audit_record(problem: Problem, result: Audit) -> dict[str, Any]:
    """An audit in the types of JSON, without directions and maps."""
    return {
        "problem": repr(problem),
        "optimality": result.optimality,
        "reason": result.reason,
        "notes": list(result.notes),
        "correlations": result.correlations(),
        "ranking": result.rows(),
    }


def as_images(inputs: Tensor) -> Tensor | None:
    """Inputs as ``(k, height, width)`` or ``(k, height, width, 3)``; ``None`` if they are no images."""
    shape, count = tuple(inputs.shape[1:]), len(inputs)
    values = inputs.detach().to("cpu", torch.float64)
    if len(shape) == 3 and shape[0] in {1, 3}:
        return values[:, 0] if shape[0] == 1 else values.movedim(1, 3)
    if len(shape) == 2:
        return values
    side = round(shape[0] ** 0.5) if len(shape) == 1 else 0
    return values.reshape(count, side, side) if side >= 8 and side * side == shape[0] else None


def as_maps(maps: Tensor) -> Tensor | None:
    """Maps of images as ``(k, height, width)``: colours together, by root of squares."""
    images = as_images(maps)
    return images if images is None or images.ndim == 3 else images.square().sum(dim=3).sqrt()
