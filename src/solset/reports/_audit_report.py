"""An audit of a user's training data: every point ranked by how far it can move the model, on a page."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from solset.changes import Add, Change, Move, Relabel, Remove, Reweight
from solset.checks import within
from solset.errors import bad_value
from solset.modulus import Audit, audit
from solset.plotting import moduli_of, modulus_axis, sensitivity_maps, sorted_values
from solset.problem import Problem, as_map
from solset.reports._changes import new_points
from solset.reports._moves import map_of
from solset.reports._options import Settings, map_option, option, points_option, source_option
from solset.reports._report import write_report
from solset.reports._report_parts import (
    Column,
    Finding,
    Picture,
    Report,
    Section,
    Table,
    as_images,
    as_maps,
    columns,
    leftover_gradient,
    sentence,
)
from solset.reports._run_folder import RunFolder

_HEADS = {
    "modulus": "joint modulus",
    "isolated_modulus": "isolated modulus",
    "validation_change": "validation loss, worst unit step",
    "validation_slope": "validation loss, steepest unit step",
    "loss": "loss",
    "gradient_norm": "gradient norm",
    "feature_influence": "feature influence",
    "memory_perturbation": "memory perturbation",
}
_PEERS = _HEADS | {
    "validation_change": "predicted change of the validation loss",
    "validation_slope": "steepest change of the validation loss",
    "feature_influence": "feature influence (Koh & Liang)",
    "memory_perturbation": "memory perturbation (Nickl et al.)",
}


@dataclass(frozen=True)
class _Words:
    """What a page says of one kind of change."""

    question: str  # Sentence that the page answers, with the number of points as ``{count}``
    meaning: str  # Sentences that say what the numbers are
    point: str = "Point"  # Word for one of the points

    def is_modulus(self, result: Audit) -> bool:
        """Whether the numbers are per unit of a change that may be small."""
        return "per" in result.unit


_WHOLE = "The number of a point is how far the nearest solution moves, as one Newton step on the changed risk predicts it: "
_WORDS = {
    "Move": _Words(
        "If one of {count} training points were changed a little, how far could the network move, and by which features?",
        "The modulus of a point is how far the nearest solution moves per unit change of its features, in the worst direction: joint, where all other training points keep their outputs; isolated, where only its own output is a constraint. The isolated value is never above the joint one.",
    ),
    "Relabel": _Words(
        "If one of {count} training points had another target, how far could the network move?",
        "The number of a point is how far the nearest solution moves per unit change of its target; for class labels, how far it moves, as one Newton step predicts it, for the label that moves it most.",
    ),
    "Reweight": _Words(
        "If one of {count} training points counted a little more or less, how far could the network move?",
        "The modulus of a point is how far the nearest solution moves per unit change of the relative factor of its loss, which is 1 as trained.",
    ),
    "Remove": _Words(
        "If one of {count} training points had not been there, how far would the network have moved?",
        _WHOLE + "without the point, and with all others.",
    ),
    "Add": _Words(
        "If one of {count} candidates had been there, how far would the network have moved?",
        _WHOLE + "with the candidate beside all training points.",
        "Candidate",
    ),
}


@dataclass(frozen=True)
class AuditSettings(Settings):
    """Settings of ``solset audit``; each field says what it is in its help text."""

    source: str = source_option("a solset.Problem or a solset.Training")
    points: tuple[int, ...] = points_option("to audit", default=(), default_help="all points")
    change: Literal["move", "relabel", "reweight", "remove"] = option(
        "move",
        flag="--change",
        help="Kind of change of each point: its features move, its target changes, its weight changes, or it "
        "is left out.",
    )
    add: str = option(
        "",
        flag="--add",
        help="File (.npz or .safetensors) with the arrays x and y of candidates, which are ranked in the place "
        "of the training points, by how far each would move the model if it joined.",
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

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.add and (self.points or self.change != "move"):
            got = "--points" if self.points else "--change"
            cure = "Candidates and training points are two runs."
            raise bad_value("--add", expected="given without --points and --change", got=got, cure=cure)

    def kind(self, problem: Problem) -> type[Change] | Change:
        """The kind of change that was asked for, with the candidates that a file holds."""
        if self.add:
            return Add(*new_points(self.add, problem))
        return {"move": Move, "relabel": Relabel, "reweight": Reweight, "remove": Remove}[self.change]

    def check(self, problem: Problem) -> None:
        """Refuses settings that do not fit the problem, before a run folder is made."""
        points = problem.check_points(self.points or None)
        self.kind(problem)
        part = problem.restrict(parameters=[self.layer]) if self.layer else problem
        asked = as_map(self.optimality)
        if asked is not None:
            part.derivative(points=points[:1], optimality=asked)


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
        settings.kind(problem),
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


def audit_experiment(
    problem: Problem,
    settings: AuditSettings,
    folder: RunFolder,
    *,
    validation: tuple[Tensor, Tensor] | None = None,
) -> Path:
    """Audits a user's problem into a folder and returns the path of the page."""
    result = run_audit(problem, settings, folder, validation=validation)
    draw_audit(problem, result, folder, top=settings.top)
    asked, count, first = _WORDS[result.kind], len(result.points), result.order[0]
    most = f"{result.points[first]} moves it most, by {float(result.score[first]):.3g} {result.unit}"
    report = Report(
        "Which training points move this network most?",
        f"{asked.question.format(count=count)} {asked.point} {most}.",
        summary=[
            Finding(
                "largest modulus" if asked.is_modulus(result) else "largest change",
                float(result.score.max()),
                f"That of {asked.point.lower()} {result.points[first]}, in {result.unit}.",
            ),
            Finding("median", float(result.score.median()), "Half of the points move the network less."),
            Finding(
                "points without a finite number",
                int(result.score.isinf().sum()),
                "No change of the weights answers some change of these points; the notes say why.",
                "d",
            ),
        ],
        sections=audit_sections(result, folder, top=settings.top),
        warnings=leftover_gradient(problem),
    )
    return write_report(folder, report)


def draw_audit(problem: Problem, result: Audit, folder: RunFolder, *, top: int) -> None:
    """Writes the figures: marks of the top points, all points sorted, and maps where inputs are images."""
    folder.write_figure("ranking", result.plot(top=top))
    whole = {name: values.tolist() for name, values in moduli_of(result).items()}
    sorted_points = sorted_values(whole, xlabel="points, most sensitive first", ylabel=modulus_axis(result))
    folder.write_figure("distribution", sorted_points)
    if result.kind != "Move":
        return
    for name, places in (("most", result.order[:top]), ("least", result.order[::-1][:top])):
        chosen = [result.points[place] for place in places]
        images, maps = as_images(problem.risk().points.features(chosen)), as_maps(result.maps[places])
        if images is not None and maps is not None:
            scores = zip(chosen, result.score[places].tolist(), strict=True)
            captions = [f"{point}: {score:.3g}" for point, score in scores]
            folder.write_figure(f"maps_{name}", sensitivity_maps(images.numpy(), maps.numpy(), captions))


def audit_sections(result: Audit, folder: RunFolder, *, top: int) -> tuple[Section, ...]:
    """The parts of a page that show an audit."""
    sections = (_ranking(result, top), _peers(result))
    return (*sections, _pixels()) if folder.has("maps_most.png") else sections


def _ranking(result: Audit, top: int) -> Section:
    heads = {name: head for name, head in _HEADS.items() if getattr(result, name) is not None}
    if not _WORDS[result.kind].is_modulus(result):
        heads["modulus"] = "change of the weights"
    return Section(
        "The ranking",
        _WORDS[result.kind].meaning,
        [
            Picture(
                "ranking",
                f"The {min(top, len(result.points))} most sensitive points.",
                "Moduli of the top points as marks, one row each.",
            ),
            Picture("distribution", "All points, each kind sorted by itself.", "Falling curves of moduli."),
            Table(
                "Most sensitive points",
                (*columns("d", rank="rank", point="point"), *columns(".3g", **heads)),
                result.rows()[:top],
            ),
            f"Optimality map: {result.optimality}, because {result.reason}.",
            "The whole ranking is in ranking.csv; worst directions and maps are in audit.safetensors.",
            *map(sentence, result.notes),
        ],
    )


def _peers(result: Audit) -> Section:
    return Section(
        "What others rank by",
        "Spearman's rank correlation of each column with the modulus: 1 where the orders agree, about 0 where they have nothing to do with each other.",
        [
            Table(
                "Rank correlations",
                (Column("name", "column"), Column("value", "correlation", ".2f")),
                [{"name": _PEERS[key], "value": value} for key, value in result.correlations().items()],
            ),
            "At a point fitted to zero residual, loss, gradient norm and memory perturbation are rounding noise, and so is their order.",
        ],
    )


def _pixels() -> Section:
    alt = "Images above maps of their pixels."
    return Section(
        "By which pixels",
        "How far the weights go per unit change of each single pixel; colours are taken together. Each map has its own scale, which is written below it.",
        [
            Picture("maps_most", "The most sensitive images.", alt),
            Picture("maps_least", "The least sensitive images.", alt),
        ],
    )
