"""The whole of section 5.2, stage by stage, and its page: the paper's figures beside ours."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from tqdm import tqdm

from solset.paper._data import to_pixels
from solset.paper._resnet56_parts import LandscapeFigure, MovedPoints
from solset.paper._resnet56_setup import TrainedResNet56
from solset.plotting import error_against_step, image_grid, landscape_contour, landscape_surface
from solset.reports import STEP, Column, Finding, Picture, Report, Section, Table, columns, write_report

Numbers = Mapping[str, Any]
Rows = list[dict[str, object]]

# Tables 1 and 3 of the paper: loss on the moved points at the trained weights, and at its estimate.
PAPER_MOVED = {1: (0.0041, 1.9e-5), 10: (0.0045, 6.2e-5)}
PAPER_STEPS = {0.005: (0.15, 0.005), 0.01: (1.19, 0.3), 0.02: (3.35, 1.9)}
PAPER_BESIDE = 0.002  # the step of ours that Table 1 is set beside


def table_1_rows(numbers: Numbers) -> Rows:
    """Each number of moved points at the three smallest steps."""
    rows: Rows = []
    for count, part in numbers["moved"].items():
        for row in sorted(part["sizes"], key=lambda row: row["size"])[:3]:
            paper = PAPER_MOVED.get(int(count)) if row["size"] == PAPER_BESIDE else None
            rows.append(
                {
                    "moved": int(count),
                    "step_percent": 100 * row["size"],
                    "trained": row["trained"]["moved"],
                    "estimate": row["estimate"]["moved"],
                    "all": row["estimate"]["all"],
                    "clean": part["clean"]["all"],
                    "paper_trained": paper[0] if paper else None,
                    "paper_estimate": paper[1] if paper else None,
                }
            )
    return rows


def retraining_rows(numbers: Numbers) -> Rows:
    """Estimate and retraining of each number of moved points."""
    rows: Rows = []
    for count, part in numbers["moved"].items():
        for name, ended in part.get("retraining", {}).items():
            if name in {"size", "trained"}:
                continue
            rows.append(
                {
                    "moved": int(count),
                    "method": name,
                    "gradients": ended.get("gradients"),
                    "relative_change": ended["relative_change"],
                    "cosine": ended.get("cosine"),
                    "loss_moved": ended["moved"],
                    "loss_all": ended["all"],
                    "output_change": ended["output_change"],
                }
            )
    return rows


def step_rows(numbers: Numbers) -> Rows:
    """Every step for the largest number of moved points."""
    count = max(numbers["moved"], key=int)
    rows: Rows = []
    for row in numbers["moved"][count]["sizes"]:
        paper = PAPER_STEPS.get(row["size"]) if int(count) == 10 else None
        rows.append(
            {
                "step_percent": 100 * row["size"],
                "perturbation": row["perturbation"],
                "distance": row["distance"],
                "sampled_distance": row["sampled_distance"],
                "relative_change": row["relative_change"],
                "trained": row["trained"]["moved"],
                "estimate": row["estimate"]["moved"],
                "samples": max((s["moved"] for s in row["samples"]), default=None),
                "all": row["estimate"]["all"],
                "change_moved": row["estimate"]["output_change_moved"],
                "change_all": row["estimate"]["output_change"],
                "paper_way": row["paper_way"]["moved"],
                "paper_way_all": row["paper_way"]["all"],
                "paper_trained": paper[0] if paper else None,
                "paper_estimate": paper[1] if paper else None,
            }
        )
    return rows


def accuracy_rows(numbers: Numbers) -> Rows:
    """The rows in use and what leaving the others out cost."""
    return [{"moved": int(count), **part["check"]} for count, part in numbers["moved"].items()]


def limit_rows(numbers: Numbers) -> Rows:
    """What the first order leaves out, for the largest number of moved points."""
    part = numbers["moved"][max(numbers["moved"], key=int)]
    return [{"step_percent": 100 * row["size"], **row["beyond_first_order"]} for row in part["sizes"]]


_COUNT = Column("moved", "images moved", "d")
_TABLE_1 = (
    *(_COUNT, STEP),
    *columns(".2g", trained="at w̄", estimate="estimated", all="estimated, all images"),
    *columns(
        ".2g", clean="clean, all images", paper_trained="paper: at w̄", paper_estimate="paper: estimated"
    ),
)
_TABLE_2 = (
    *(_COUNT, Column("method", "method"), Column("gradients", "gradients", "d")),
    *columns(".2g", relative_change="relative change", cosine="cosine with the estimate"),
    *columns(".2g", loss_moved="loss, moved", loss_all="loss, all"),
    Column("output_change", "‖f − f̄‖", ".3g"),
)
_TABLE_3 = (
    STEP,
    *columns(".2g", trained="moved: at w̄", estimate="moved: estimated", samples="moved: worst sample"),
    Column("all", "all: estimated", ".2g"),
    *columns(".3g", change_moved="‖f − f̄‖ moved", change_all="‖f − f̄‖ all"),
    *columns(".2g", paper_way="moved: paper's way", paper_way_all="all: paper's way"),
    *(Column("paper_trained", "paper: at w̄", ".3g"), Column("paper_estimate", "paper: estimated", ".2g")),
)
_LIMITS = (
    *(STEP, Column("linear", "‖J_x Δx‖", ".3g")),
    *columns(".2g", inputs="inputs alone", weights="weights alone", mixed="both together"),
)
_ACCURACY = (
    _COUNT,
    *columns(".0f", rows="rows in use", all_rows="of", rank="numerical rank"),
    *columns(".2g", discarded="trace left out", residual="residual, all rows"),
    *columns(".2g", moved_residual="moved images", unit_residual="unweighted"),
)


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


def resnet56_experiment(run: ResNet56Run) -> Path:
    """Runs what is not done yet and writes figures, tables and the page; returns the page's path."""
    numbers, folder = run.numbers(), run.folder
    tables = {
        "table_1": table_1_rows(numbers),
        "table_2": retraining_rows(numbers),
        "table_3": step_rows(numbers),
        "accuracy": accuracy_rows(numbers),
        "limits": limit_rows(numbers),
    }
    for name, rows in tables.items():
        if rows:
            folder.write_csv(f"{name}.csv", rows)
    _draw(run, numbers)
    return write_report(folder, _report(run, numbers, tables))


def _most(numbers: Numbers) -> Numbers:
    return numbers["moved"][max(numbers["moved"], key=int)]


def _draw(run: ResNet56Run, numbers: Numbers) -> None:
    folder, sizes = run.folder, _most(numbers)["sizes"]
    percent, clean = [100 * row["size"] for row in sizes], _most(numbers)["clean"]["all"]
    shown = {
        "moved: trained": ("trained", "moved"),
        "moved: estimate": ("estimate", "moved"),
        "moved: paper's way": ("paper_way", "moved"),
        "all: estimate": ("estimate", "all"),
    }
    curves = {text: (percent, [row[at][part] for row in sizes]) for text, (at, part) in shown.items()}
    curves["all: clean"] = (percent, [clean] * len(percent))
    losses = error_against_step(curves, ylabel="mean cross-entropy on the moved data")
    folder.write_figure("losses", losses)
    count = max(run.settings.moved)
    part = MovedPoints(run.start, count)
    few, size = part.points[:5], max(run.settings.sizes)
    images = run.start.data.inputs[few]
    before, after = (to_pixels(x).movedim(1, -1).numpy() for x in (images, images + size * part.unit[:5]))
    captions = [run.start.data.classes[int(label)] for label in run.start.data.labels[few]]
    folder.write_figure("moved_images", image_grid(before, after, captions))
    if run.figure is not None:
        landscape = run.figure.landscape
        title = f"Mean loss of {run.settings.points} images, {run.settings.figure_moved} of them moved"
        folder.write_figure("surface", landscape_surface(landscape, title=title))
        folder.write_figure("contour", landscape_contour(landscape, title=title))


def _report(run: ResNet56Run, numbers: Numbers, tables: Mapping[str, list[dict[str, object]]]) -> Report:
    setup, most = numbers["setup"], _most(numbers)
    count = len(most["points"])
    shown = next((row for row in most["sizes"] if row["size"] == 0.01), most["sizes"][0])
    sections = [
        _start_section(run, setup, count),
        _table_1_section(tables["table_1"]),
        _step_section(tables["table_3"], count, most["clean"]["all"]),
        _limit_section(tables["limits"], count),
        _accuracy_section(tables["accuracy"]),
    ]
    if tables["table_2"]:
        sections.insert(2, _retraining_section(run, tables["table_2"]))
    if "figure" in numbers:
        sections.append(_figure_section(numbers["figure"]))
    return Report(
        "ResNet56 on CIFAR-10: where would the weights have gone?",
        f"If {count} of {setup['points']:,} training images had been slightly different, which weights would fit them and all the others, without retraining?",
        summary=_summary(shown, count, setup["points"], most["clean"]["all"]),
        sections=sections,
        warnings=_warnings(numbers),
    )


def _summary(shown: Numbers, count: int, points: int, clean: float) -> list[Finding]:
    """The numbers at one size of the step, of ``count`` moved images among all points."""
    return [
        Finding(
            "loss on the moved images, trained",
            shown["trained"]["moved"],
            f"{count} images, each moved by {100 * shown['size']:g} % of its norm along its own loss gradient.",
            ".2g",
        ),
        Finding(
            "at the estimate",
            shown["estimate"]["moved"],
            "Mean cross-entropy at the minimum-norm element of the estimated set, one linear step.",
            ".2g",
        ),
        Finding(
            f"on all {points:,} images",
            shown["estimate"]["all"],
            f"The mean loss at the same weights; for the trained network on the clean images it is {clean:.2g}.",
            ".2g",
        ),
        Finding(
            "relative change of the weights",
            shown["relative_change"],
            "Ratio ‖Δw‖ / ‖w̄‖ on the rows in use: a lower bound on the relative distance of Algorithm 1.",
            ".2g",
        ),
    ]


def _warnings(numbers: Numbers) -> list[str]:
    setup = numbers["setup"]
    warnings = [
        f"The public weights are not a stationary point of these {setup['points']:,} images: the gradient norm is {setup['gradient_norm']:.2g}. The map used keeps the training outputs, which needs no stationarity."
    ]
    warnings += [
        f"With {count} moved images the rows in use leave a residual of {part['check']['residual']:.2g} over all rows, more than was asked for."
        for count, part in numbers["moved"].items()
        if part["check"]["residual"] > numbers["tol"]
    ]
    if numbers.get("figure", {}).get("residual", 0.0) > numbers["tol"]:
        warnings.append(
            f"In the landscape the rows in use leave a residual of {numbers['figure']['residual']:.2g} over all rows, more than was asked for."
        )
    return warnings


def _start_section(run: ResNet56Run, setup: Numbers, count: int) -> Section:
    return Section(
        "What was moved",
        f"The public pre-trained ResNet56 ({setup['weights']:,} weights) in evaluation mode; of the first {setup['points']:,} training images {setup['right']:,} are classified right, at a mean loss of {setup['loss']:.2g}. Each moved image goes along the gradient of its own loss, by the stated percentage of its own norm after preprocessing.",
        [
            Picture(
                "moved_images",
                f"The first moved images at the largest step, {100 * max(run.settings.sizes):g} %: before, after, and what changed.",
                "Small colour images in three rows: before, after, and the change.",
            ),
            "Optimality map: interpolating, the weights that keep the training outputs, f(x̄ + Δx, w) = f(x̄, w̄), of which those of the moved images and the directions that the loss can feel are in use (see “The rows in use”); right-hand side J_x Δx. α is 1/n in both derivatives, where the paper's equation 13 takes 1/|K| for the mixed one; the interpolating map does not depend on it.",
            f"The {count} moved images are the first of a random order of the {setup['points']:,} (seed {run.settings.seed}).",
        ],
    )


def _table_1_section(rows: list[dict[str, object]]) -> Section:
    return Section(
        "The paper's table 1: the number of moved images",
        "Mean loss on the moved images at the trained weights and at the estimate. The paper's pair, where it has one, stands beside our 0.2 % step; compare its loss at the trained weights before its estimate: it is that of the step it really took.",
        [Table("Loss on the moved images", _TABLE_1, rows)],
    )


def _retraining_section(run: ResNet56Run, rows: list[dict[str, object]]) -> Section:
    return Section(
        "The paper's table 2: estimated and retrained weights",
        f"Relative change of the weights, ‖w − w̄‖ / ‖w̄‖, at a step of {100 * run.settings.retraining_size:g} %: of the estimate, and of real warm retraining on the moved data for {run.settings.retraining_gradients} gradients. Cross-entropy never stops training, so retraining also follows what was left of the clean gradient; the cosine says how far its direction is that of the estimate.",
        [Table("Estimate and retraining", _TABLE_2, rows)],
    )


def _step_section(rows: list[dict[str, object]], count: int, clean: float) -> Section:
    return Section(
        f"The paper's table 3: the size of the step, {count} moved images",
        f"Mean loss on the moved images and on all, and the change of the outputs ‖f − f̄‖ beside it: one step can overshoot to a loss below the clean one. The trained network's mean loss on the clean images is {clean:.2g}. “Paper's way” is least squares (LSMR) on the Hessian of the moved images alone, as run here.",
        [
            Picture(
                "losses",
                "Losses against the size of the step, one linear step each.",
                "Curves of losses over the step size, on logarithmic axes.",
            ),
            Table("Losses by step", _TABLE_3, rows),
        ],
    )


def _limit_section(rows: list[dict[str, object]], count: int) -> Section:
    return Section(
        "What limits the large steps",
        f"On the {count} moved images the linear model cancels the change J_x Δx of the outputs, up to the residual stated under “The rows in use”. What it leaves out, relative to that change: the outputs' curvature in the inputs, in the weights, and of the two together. Where one of them nears 1 the first order has nothing more to say.",
        [Table("Beyond first order", _LIMITS, rows)],
    )


def _accuracy_section(rows: list[dict[str, object]]) -> Section:
    return Section(
        "The rows in use",
        "Only the output directions that the loss can feel enter, and all of the moved images. The residual over all rows comes from one product with the whole Jacobian; an output of a moved image has weight one, another output direction the root of its share of the largest curvature.",
        [Table("Accuracy of the linear solve", _ACCURACY, rows)],
    )


def _figure_section(figure: Numbers) -> Section:
    losses = [element["all"] for element in figure["elements"]]
    return Section(
        "The paper's figure 4: elements of the set in the landscape",
        f"{figure['moved']} images move by {100 * figure['size']:g} %. The plane is spanned by the minimum-norm change and by a direction in the kernel of the constraint (a filter-normalised random direction, projected); coordinate 1 is a relative change of the filters of 1 in total, after Li et al. (2018).",
        [
            Picture(
                "surface",
                f"The mean loss of all images. The images that do not move hold the weights back where the moved ones alone would let them go on. The loss is {figure['trained']['all']:.2g} at the trained weights, {figure['estimate']['all']:.2g} at the minimum-norm solution, {min(losses):.2g} to {max(losses):.2g} at the other elements.",
                "A surface over the plane, with the marked weights at their own loss.",
            ),
            Picture("contour", "The same from above.", "Filled contours with the marked points."),
            f"{figure['rows']} rows in use, numerical rank {figure['rank']}, residual over all rows {figure['residual']:.2g}; the kernel direction shown is {figure['kernel_ratio']:.2g} times as long as the minimum-norm change. On the moved images alone: {figure['trained']['moved']:.2g} at the trained weights, {figure['estimate']['moved']:.2g} at the estimate.",
        ],
    )
