"""An audit of a user's training data: every point ranked by how far it can move the model."""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from torch import Tensor

from solset.checks import within
from solset.modulus import Audit, audit
from solset.problem import Problem, as_map
from solset.reports._moves import map_of
from solset.reports._options import Settings, map_option, option, points_option, source_option
from solset.reports._run_folder import RunFolder


@dataclass(frozen=True)
class AuditSettings(Settings):
    """Settings of ``solset audit``; each field says what it is in its help text."""

    source: str = source_option("a solset.Problem")
    points: tuple[int, ...] = points_option("to audit", default=(), default_help="all points")
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

    def check(self, problem: Problem) -> None:
        """Refuses settings that do not fit the problem, before a run folder is made."""
        points = problem.check_points(self.points or None)
        part = problem.restrict(parameters=[self.layer]) if self.layer else problem
        asked = as_map(self.optimality)
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
    folder.stage("result", lambda: _record(problem, result))
    return result


def _record(problem: Problem, result: Audit) -> dict[str, Any]:
    """An audit in the types of JSON, without directions and maps."""
    return {
        "problem": repr(problem),
        "optimality": result.optimality,
        "reason": result.reason,
        "notes": list(result.notes),
        "correlations": result.correlations(),
        "ranking": result.rows(),
    }
