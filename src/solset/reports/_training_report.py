"""An audit of a user's training on a page: every point ranked by its effect on a validation loss."""

from collections.abc import Collection, Mapping
from pathlib import Path

from torch import Tensor

from solset.changes import Move, Remove
from solset.errors import bad_value
from solset.modulus import audit
from solset.reports._audit_report import AuditSettings
from solset.reports._options import Settings, options_of
from solset.reports._report import write_report
from solset.reports._report_parts import Finding, Report, Section, Table, columns, sentence
from solset.reports._run_folder import RunFolder
from solset.training import Training

_KINDS = {"move": Move, "remove": Remove}
_ALONE = ("add", "layer", "joint", "optimality")


def training_facts(training: Training) -> Mapping[str, object]:
    """What a resumed audit must share: the recipe in words, and a digest of the data and the first steps."""
    return {"training": repr(training), "data and first steps": training.fingerprint()}


def check_training_settings(settings: AuditSettings) -> None:
    """Refuses what an audit of a training does not know, before a run folder is made."""
    if not settings.validation:
        cure = "Name a function of the file that returns inputs and targets."
        raise bad_value("--validation", expected="given for a Training", got="nothing", cure=cure)
    if settings.change not in _KINDS:
        cure = "Return a Problem for other changes."
        raise bad_value("--change", expected="move or remove for a Training", got=settings.change, cure=cure)
    refuse_of_problems(settings, _ALONE)


def refuse_of_problems(settings: Settings, names: Collection[str]) -> None:
    """Refuses options that are of problems alone, unless they have their default values."""
    for field, said in options_of(type(settings)):
        if field.name in names and (value := getattr(settings, field.name)) != field.default:
            cure = "Leave it out, or return a Problem."
            raise bad_value(said.flag, expected="left out for a Training", got=value, cure=cure)


def training_audit_experiment(
    training: Training, settings: AuditSettings, folder: RunFolder, *, validation: tuple[Tensor, Tensor]
) -> Path:
    """Trains once, audits the run into a folder, and returns the path of the page."""
    run = training.run(checkpoint=folder.reserve("run.safetensors"))
    result = audit(run, _KINDS[settings.change], points=settings.points or None, validation=validation)
    rows = result.rows()
    folder.write_csv("ranking.csv", rows)
    folder.write_tensors("audit.safetensors", {"directions": result.directions, "maps": result.maps})
    record = {"training": repr(training), "run": repr(run), "notes": list(result.notes), "ranking": rows}
    folder.stage("result", lambda: record)
    first = result.order[0]
    what = "its worst unit move" if settings.change == "move" else "its removal"
    heads = {"validation_change": "change of the validation loss", "loss": "loss at the end"}
    ranking = Section(
        "The ranking",
        f"The predicted change of the validation loss by each point, through {what}, at the end of the same "
        f"recipe with the same seed.",
        [
            Table(
                "Points with the largest effect",
                (*columns("d", rank="rank", point="point"), *columns(".3g", **heads)),
                rows[: settings.top],
            ),
            f"{training!r}; {run!r}.",
            "The whole ranking is in ranking.csv; directions are in audit.safetensors.",
            *map(sentence, result.notes),
        ],
    )
    check = result.smoothness
    report = Report(
        "Which points does this training hang on?",
        f"Point {result.points[first]} changes the validation loss most, through {what}.",
        summary=[Finding("largest effect", float(result.score.max()), f"In {result.unit}.")],
        sections=[ranking],
        warnings=(sentence(check.headline),) if check is not None and check.is_rough else (),
    )
    return write_report(folder, report)
