"""An audit as a page."""

from pathlib import Path

from torch import Tensor

from solset.modulus import Audit
from solset.plotting import ranking_bars, sensitivity_maps, sorted_values
from solset.problem import Problem
from solset.reports._audit import AuditSettings, as_images, as_maps, run_audit
from solset.reports._report import write_report
from solset.reports._report_parts import Column, Finding, Picture, Report, Section, Table
from solset.reports._run_folder import RunFolder

NAMES = {"modulus": "joint", "isolated_modulus": "isolated"}
UNIT = "Lipschitz modulus, weight units per input unit"


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
    score = float(result.score.max())
    return write_report(
        folder,
        Report(
            title="Which training points move this network most?",
            question=f"If one of {len(result.points)} training points were changed a little, how far could the network move, and by which features?",
            summary=(
                Finding(
                    "largest modulus",
                    score,
                    f"Of point {result.points[result.order[0]]}: weight units per input unit.",
                ),
                Finding(
                    "median modulus",
                    float(result.score.median()),
                    "Half of the points move the network less.",
                ),
                Finding(
                    "points of infinite modulus",
                    int(result.score.isinf().sum()),
                    "No change of the weights answers some perturbation of them: duplicates, or too few weights.",
                    "d",
                ),
            ),
            sections=audit_sections(result, folder, top=settings.top),
            settings=folder.settings,
            versions=folder.versions,
        ),
    )


def draw_audit(problem: Problem, result: Audit, folder: RunFolder, *, top: int) -> None:
    """Writes the figures: bars of the top points, all points sorted, and maps where inputs are images."""
    first = result.order[:top]
    columns = {
        text: getattr(result, name) for name, text in NAMES.items() if getattr(result, name) is not None
    }
    labels = [f"point {result.points[place]}" for place in first]
    bars = {text: values[first].tolist() for text, values in columns.items()}
    folder.write_figure("ranking", ranking_bars(labels, bars, xlabel=UNIT))
    whole = {text: values.tolist() for text, values in columns.items()}
    folder.write_figure(
        "distribution", sorted_values(whole, xlabel="points, most sensitive first", ylabel=UNIT)
    )
    for name, places in (("most", first), ("least", result.order[::-1][:top])):
        _draw_maps(problem, result, folder, name, places)


def audit_sections(result: Audit, folder: RunFolder, *, top: int) -> tuple[Section, ...]:
    """The parts of a page that show an audit."""
    sections = [
        Section(
            "The ranking",
            "The modulus of a point is how far the nearest solution moves per unit change of its features, in the worst direction: joint, where all other training points keep their outputs; isolated, where only its own output is a constraint. The isolated value is never above the joint one.",
            figures=(
                Picture(
                    "ranking",
                    f"The {min(top, len(result.points))} most sensitive points.",
                    "Horizontal bars of moduli.",
                ),
                Picture(
                    "distribution", "All points, each kind sorted by itself.", "Falling curves of moduli."
                ),
            ),
            table=_table(result, top),
            notes=(
                f"Optimality map: {result.optimality}, because {result.reason}.",
                "The whole ranking is in ranking.csv; worst directions and maps in audit.safetensors.",
                *(f"{text[0].upper()}{text[1:]}." for text in result.notes),
            ),
        ),
        _peers(result),
    ]
    if folder.has("maps_most.png"):
        sections.append(
            Section(
                "By which pixels",
                "How far the weights go per unit change of each single pixel; colours are taken together. Each map has a scale of its own, written below it.",
                figures=(
                    Picture("maps_most", "The most sensitive images.", "Images above maps of their pixels."),
                    Picture(
                        "maps_least", "The least sensitive images.", "Images above maps of their pixels."
                    ),
                ),
            )
        )
    return tuple(sections)


def _table(result: Audit, top: int) -> Table:
    columns = [Column("rank", "rank", "d"), Column("point", "point", "d")]
    heads = {
        "modulus": "joint modulus",
        "isolated_modulus": "isolated modulus",
        "validation_change": "validation loss, worst unit step",
        "validation_slope": "validation loss, steepest unit step",
        "loss": "loss",
        "gradient_norm": "gradient norm",
        "feature_influence": "feature influence",
        "memory_perturbation": "memory perturbation",
    }
    columns += [Column(n, text, ".3g") for n, text in heads.items() if getattr(result, n) is not None]
    return Table("Most sensitive points", tuple(columns), result.rows()[:top])


def _peers(result: Audit) -> Section:
    names = {
        "isolated_modulus": "isolated modulus",
        "validation_change": "predicted change of the validation loss",
        "validation_slope": "steepest change of the validation loss",
        "loss": "loss",
        "gradient_norm": "gradient norm",
        "feature_influence": "feature influence (Koh & Liang)",
        "memory_perturbation": "memory perturbation (Nickl et al.)",
    }
    rows = [{"name": names[key], "value": value} for key, value in result.correlations().items()]
    return Section(
        "What others rank by",
        "Spearman's rank correlation of each column with the modulus: 1 where the orders agree, about 0 where they have nothing to do with each other.",
        table=Table(
            "Rank correlations", (Column("name", "column", ""), Column("value", "correlation", ".2f")), rows
        ),
        notes=(
            "At a point fitted to zero residual loss, gradient norm and memory perturbation are rounding noise, and so is their order.",
        ),
    )


def _draw_maps(problem: Problem, result: Audit, folder: RunFolder, name: str, places: list[int]) -> None:
    chosen = [result.points[place] for place in places]
    images = as_images(problem.risk().points.features(chosen))
    maps = as_maps(result.maps[places])
    if images is None or maps is None:
        return
    captions = [
        f"{point}: {float(result.score[place]):.3g}" for point, place in zip(chosen, places, strict=True)
    ]
    folder.write_figure(f"maps_{name}", sensitivity_maps(images.numpy(), maps.cpu().numpy(), captions))
