"""A user's recipe on changed data: the prediction of the run beside the same recipe really run again."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from solset.changes import Add, Change, Move
from solset.errors import bad_value
from solset.reports._changes import named_points, stored_arrays
from solset.reports._directions import step_of, unit
from solset.reports._report import write_report
from solset.reports._report_parts import Finding, Report, Section, Table, columns, sentence
from solset.reports._run_folder import RunFolder
from solset.reports._training_report import refuse_of_problems
from solset.reports._users_report import UserSettings
from solset.training import Run, Training

_ALONE = ("samples", "optimality")
_COLUMNS = (
    *columns(change="change"),
    *columns(".3g", predicted="change of the weights: predicted", real="really", error="relative error"),
    *columns(".4g", before="loss: before", after="predicted", loss="really"),
)


def check_run_settings(training: Training, settings: UserSettings) -> None:
    """Refuses options that a training does not know, and changes that do not fit, before anything runs."""
    refuse_of_problems(settings, _ALONE)
    if settings.changes_points:
        training.on(point_change(training, settings))
    else:
        training.features(settings.points)


def point_change(training: Training, settings: UserSettings) -> Change:
    """The change of whole points that the options ask for."""
    targets, added = partial(_targets, training), lambda: Add(*map(Tensor.numpy, stored_arrays(settings.add)))
    return settings.changes(targets, added).whole


def _targets(training: Training, points: list[int], values: list[float]) -> Tensor:
    """Numbers as targets of some points in the form of those of training."""
    old = training.targets(points)
    is_label = not old.is_floating_point()
    if old.numel() != len(values) or (is_label and any(value != int(value) for value in values)):
        expected = (
            "class labels, as trained with" if is_label else "left out where a target is several numbers"
        )
        cure = "Call run.estimate(solset.Relabel(points, targets)) in Python."
        raise bad_value("--relabel", expected=expected, got=values[:5], cure=cure)
    return torch.tensor(values, dtype=torch.float64).to(old).reshape(old.shape)


def training_run_experiment(training: Training, settings: UserSettings, folder: RunFolder) -> Path:
    """Trains once, predicts and repeats the recipe on changed data, and returns the path of the page."""
    run = training.run(checkpoint=folder.reserve("run.safetensors"))
    rows = [
        folder.stage(name, lambda name=name, change=change: _row(run, name, change, settings, folder))
        for name, change in _changes(training, run, settings).items()
    ]
    folder.write_csv("changes.csv", rows)
    last = rows[-1]
    what = (
        settings.sentence_part
        if settings.changes_points
        else f"{named_points(settings.points)} {last['change']}"
    )
    report = Report(
        "Where would this training have ended?",
        f"With {what}, the same recipe with the same seed ends {last['real']:.3g} from its weights; the "
        f"derivative of the run predicts {last['predicted']:.3g}.",
        summary=[
            Finding(
                "change of the weights", last["real"], "Its length after the recipe was really run again."
            ),
            Finding(
                "relative error",
                last["error"],
                "Distance from the predicted change of the weights to the real one, over its length.",
            ),
        ],
        sections=[
            Section(
                "Prediction and truth",
                "The loss is the mean over all training points as they were, before the change, at the "
                "predicted weights, and after the recipe was really run again.",
                [Table("Changes", _COLUMNS, rows), f"{training!r}; {run!r}."],
            )
        ],
        warnings=tuple(dict.fromkeys(sentence(row["message"]) for row in rows if row["message"])),
    )
    return write_report(folder, report)


def _percent(name: str) -> str:
    """The size in the name of a stage, in percent."""
    return f"{100 * float(name.removeprefix('size_')):g} %"


def _changes(training: Training, run: Run, settings: UserSettings) -> Mapping[str, Change]:
    """The changes that are asked for, by the names of their stages."""
    if settings.changes_points:
        return {"change": point_change(training, settings)}
    points = list(settings.points)
    inputs = training.features(points)
    directions = settings.directions(inputs, lambda: unit(run.input_gradients(points)))
    return {f"size_{size:g}": Move(points, step_of(inputs, directions, size)) for size in settings.sizes}


def _row(run: Run, name: str, change: Change, settings: UserSettings, folder: RunFolder) -> dict[str, Any]:
    """One change: the weights and losses that are predicted, and those of a real rerun."""
    estimate, real = run.estimate(change, progress=False), run.retrain(change, progress=False)
    weights = {"trained": run.weights, "predicted": estimate.weights, "real": real.weights}
    folder.write_tensors(f"weights_{name}.safetensors", weights)
    length = float(real.change.norm())
    models = (None, estimate.apply_to(run.model), real.model)
    before, after, loss = (float(run.point_losses(model).mean()) for model in models)
    return {
        "change": settings.sentence_part if settings.changes_points else f"moved by {_percent(name)}",
        "predicted": float(estimate.change.norm()),
        "real": length,
        "error": float((estimate.change - real.change).norm()) / length if length else 0.0,
        "before": before,
        "after": after,
        "loss": loss,
        "status": str(estimate.status),
        "message": estimate.message,
    }
