"""An audit as a page."""

from pathlib import Path

from torch import Tensor

from solset.modulus import Audit
from solset.plotting import sensitivity_maps, sorted_values
from solset.problem import Problem
from solset.reports._audit import AuditSettings, run_audit
from solset.reports._images import as_images, as_maps
from solset.reports._report import write_report
from solset.reports._report_parts import Column, Finding, Picture, Report, Section, Table
from solset.reports._run_folder import RunFolder

_UNIT = "Lipschitz modulus, weight units per input unit"
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
    report = Report(
        "Which training points move this network most?",
        f"If one of {len(result.points)} training points were changed a little, how far could the network move, and by which features?",
        summary=(
            Finding(
                "largest modulus",
                float(result.score.max()),
                f"It is that of point {result.points[result.order[0]]}, in weight units per input unit.",
            ),
            Finding(
                "median modulus", float(result.score.median()), "Half of the points move the network less."
            ),
            Finding(
                "points of infinite modulus",
                int(result.score.isinf().sum()),
                "No change of the weights answers some perturbation of them; the notes say what was found.",
                "d",
            ),
        ),
        sections=audit_sections(result, folder, top=settings.top),
    )
    return write_report(folder, report)


def draw_audit(problem: Problem, result: Audit, folder: RunFolder, *, top: int) -> None:
    """Writes the figures: bars of the top points, all points sorted, and maps where inputs are images."""
    folder.write_figure("ranking", result.plot(top=top))
    columns = {"joint": result.modulus, "isolated": result.isolated_modulus}
    whole = {name: values.tolist() for name, values in columns.items() if values is not None}
    sorted_points = sorted_values(whole, xlabel="points, most sensitive first", ylabel=_UNIT)
    folder.write_figure("distribution", sorted_points)
    for name, places in (("most", result.order[:top]), ("least", result.order[::-1][:top])):
        chosen = [result.points[place] for place in places]
        images, maps = as_images(problem.risk().points.features(chosen)), as_maps(result.maps[places])
        if images is not None and maps is not None:
            scores = zip(chosen, result.score[places].tolist(), strict=True)
            captions = [f"{point}: {score:.3g}" for point, score in scores]
            folder.write_figure(f"maps_{name}", sensitivity_maps(images.numpy(), maps.numpy(), captions))


def audit_sections(result: Audit, folder: RunFolder, *, top: int) -> tuple[Section, ...]:
    """The parts of a page that show an audit."""
    shown = min(top, len(result.points))
    columns = [Column(name, name, "d") for name in ("rank", "point")]
    columns += [
        Column(name, head, ".3g") for name, head in _HEADS.items() if getattr(result, name) is not None
    ]
    ranking = Section(
        "The ranking",
        "The modulus of a point is how far the nearest solution moves per unit change of its features, in the worst direction: joint, where all other training points keep their outputs; isolated, where only its own output is a constraint. The isolated value is never above the joint one.",
        figures=(
            Picture("ranking", f"The {shown} most sensitive points.", "Horizontal bars of moduli."),
            Picture("distribution", "All points, each kind sorted by itself.", "Falling curves of moduli."),
        ),
        table=Table("Most sensitive points", tuple(columns), result.rows()[:top]),
        notes=(
            f"Optimality map: {result.optimality}, because {result.reason}.",
            "The whole ranking is in ranking.csv; worst directions and maps in audit.safetensors.",
            *(f"{text[0].upper()}{text[1:]}." for text in result.notes),
        ),
    )
    peers = Section(
        "What others rank by",
        "Spearman's rank correlation of each column with the modulus: 1 where the orders agree, about 0 where they have nothing to do with each other.",
        table=Table(
            "Rank correlations",
            (Column("name", "column"), Column("value", "correlation", ".2f")),
            [{"name": _PEERS[key], "value": value} for key, value in result.correlations().items()],
        ),
        notes=(
            "At a point fitted to zero residual loss, gradient norm and memory perturbation are rounding noise, and so is their order.",
        ),
    )
    if not folder.has("maps_most.png"):
        return ranking, peers
    alt = "Images above maps of their pixels."
    pixels = Section(
        "By which pixels",
        "How far the weights go per unit change of each single pixel; colours are taken together. Each map has a scale of its own, written below it.",
        figures=(
            Picture("maps_most", "The most sensitive images.", alt),
            Picture("maps_least", "The least sensitive images.", alt),
        ),
    )
    return ranking, peers, pixels
