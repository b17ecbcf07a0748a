"""The command line: parse, call, print."""

import dataclasses
import hashlib
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from solset.datasets import cifar10, find_cifar10, find_resnet56_weights
from solset.errors import bad_value
from solset.experiments.digits import DigitsRun, DigitsSettings
from solset.experiments.digits_report import digits_experiment
from solset.experiments.paths import PathSettings, check_path
from solset.experiments.paths_report import path_experiment
from solset.experiments.resnet56 import (
    ResNet56Run,
    ResNet56Settings,
    TrainedResNet56,
    resnet56_experiment,
)
from solset.experiments.run_folder import RunFolder
from solset.experiments.toy import ToySettings
from solset.experiments.toy_report import MODULUS_NOTE, toy_experiment
from solset.experiments.users import UserSettings, check_settings, load_problem
from solset.experiments.users_report import user_experiment
from solset.problem import Problem
from solset.risk import digest
from solset.zoo import pretrained_resnet56

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Where would a trained network have ended up, had its training data been slightly different?",
)

Source = Annotated[str, typer.Argument(help="FILE.py:FUNCTION, which returns a solset.Problem.")]
MovedPoints = Annotated[str, typer.Option("--points", help="Indices of the points to move: 0,3,7.")]
Direction = Annotated[str, typer.Option(help="gradient, random, or a safetensors file.")]
Out = Annotated[Path, typer.Option(help="Folder for results and report.")]
Seed = Annotated[int, typer.Option(help="Of everything random.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run in the folder.")]
Resume = Annotated[bool, typer.Option("--resume", help="Keep what an interrupted run has computed.")]


def main() -> None:
    """Runs the command line; a bad argument ends in one line and status 2."""
    try:
        app()
    except (ValueError, TypeError, OSError) as error:
        if os.environ.get("SOLSET_TRACEBACK"):
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Says what an interrupt leaves behind; status 130."""
    try:
        yield
    except KeyboardInterrupt:
        print("\ninterrupted; finished stages are kept: run again with --resume to go on", file=sys.stderr)
        raise typer.Exit(130) from None


def _open(out: Path, settings: Any, *, overwrite: bool, resume: bool, **facts: str) -> RunFolder:
    if overwrite and resume:
        raise bad_value(
            "--overwrite", expected="given without --resume", got="both", cure="They exclude each other."
        )
    existing: Literal["refuse", "resume", "overwrite"] = "refuse"
    if overwrite or resume:
        existing = "overwrite" if overwrite else "resume"
    return RunFolder.open(out, settings=dataclasses.asdict(settings) | facts, on_existing=existing)


@app.command()
def toy(
    out: Out = Path("runs/toy"), seed: Seed = 0, overwrite: Overwrite = False, resume: Resume = False
) -> None:
    """The paper's toy example: every number and figures 2 and 3."""
    settings = ToySettings(seed=seed)
    folder = _open(out, settings, overwrite=overwrite, resume=resume)
    with _interruptible():
        result, page = toy_experiment(settings, folder)
    print(f"modulus of the solution map           {result.modulus:.10f}")
    print(f"radius, modulus times |dx|            {result.radius:.10f}")
    print(f"risk at the trained point, moved data {result.risk_moved:.10f}")
    print(f"minimum-norm change                   ({result.change[0]:.10f}, {result.change[1]:.10f})")
    print(f"its norm                              {result.distance:.10f}")
    print(f"risk there                            {result.risk_estimated:.10f}")
    print(f"true distance to the moved set        {result.true_distance:.10f}")
    print(f"largest set residual of the samples   {result.set_residual:.1e}")
    print(MODULUS_NOTE)
    _finish(page)


@app.command()
def demo(
    out: Out = Path("runs/demo"),
    seed: Seed = 0,
    activation: Annotated[str, typer.Option(help="relu or tanh.")] = "relu",
    direction: Annotated[str, typer.Option(help="cross_entropy or random.")] = "cross_entropy",
    fixed_output: Annotated[
        bool, typer.Option("--fixed-output", help="Keep the output layer constant.")
    ] = False,
    overwrite: Overwrite = False,
    resume: Resume = False,
) -> None:
    """The main job on real digits: move ten training points, estimate, and check against retraining."""
    settings = DigitsSettings(
        seed=seed,
        activation=_one_of("activation", activation, ("relu", "tanh")),
        direction=_one_of("direction", direction, ("cross_entropy", "random")),
        has_fixed_output=fixed_output,
    )
    folder = _open(out, settings, overwrite=overwrite, resume=resume)
    with _interruptible():
        _finish(digits_experiment(DigitsRun(settings, folder)))


@app.command()
def run(
    source: Source,
    points: MovedPoints,
    direction: Direction = "gradient",
    size: Annotated[str, typer.Option(help="Steps in percent of each point's norm: 0.5%,1%.")] = "1%",
    optimality: Annotated[str, typer.Option(help="auto, interpolating, gauss_newton, stationary.")] = "auto",
    samples: Annotated[int, typer.Option(help="Elements of the estimated set to draw.")] = 5,
    out: Out = Path("runs/run"),
    seed: Seed = 0,
    overwrite: Overwrite = False,
    resume: Resume = False,
) -> None:
    """The main job on your own model."""
    maps = ("auto", "interpolating", "gauss_newton", "stationary")
    settings = UserSettings(
        source=source,
        points=_indices(points),
        direction=direction,
        sizes=tuple(_fraction(part) for part in size.split(",")),
        optimality=_one_of("optimality", optimality, maps),
        samples=samples,
        seed=seed,
    )
    problem = load_problem(source)
    print(problem)
    check_settings(problem, settings)  # before the folder is made, so that a corrected call finds it free
    folder = _open(out, settings, overwrite=overwrite, resume=resume, weights=_digest(problem))
    with _interruptible():
        _finish(user_experiment(problem, settings, folder))


@app.command()
def path(
    source: Source,
    points: MovedPoints,
    direction: Direction = "gradient",
    size: Annotated[str, typer.Option(help="Steps in percent of each point's norm: 5%,20%.")] = "5%",
    optimality: Annotated[str, typer.Option(help="auto, interpolating, stationary.")] = "auto",
    tol: Annotated[float, typer.Option(help="Error along the set, relative to the path's length.")] = 1e-3,
    nearest: Annotated[bool, typer.Option("--nearest", help="Look for the nearest solution too.")] = False,
    out: Out = Path("runs/path"),
    seed: Seed = 0,
    overwrite: Overwrite = False,
    resume: Resume = False,
) -> None:
    """Large perturbations of your own model: the path of its solution."""
    settings = PathSettings(
        source=source,
        points=_indices(points),
        direction=direction,
        sizes=tuple(_fraction(part) for part in size.split(",")),
        optimality=_one_of("optimality", optimality, ("auto", "interpolating", "stationary")),
        tol=tol,
        nearest=nearest,
        seed=seed,
    )
    problem = load_problem(source)
    print(problem)
    check_path(problem, settings)  # before the folder is made, so that a corrected call finds it free
    folder = _open(out, settings, overwrite=overwrite, resume=resume, weights=_digest(problem))
    with _interruptible():
        _finish(path_experiment(problem, settings, folder))


@app.command()
def resnet56(
    data: Annotated[
        Path | None, typer.Option(help="CIFAR-10: the python archive, its folder, or an .npz file.")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="The public file resnet56-4bfd9763.th.")] = None,
    points: Annotated[int, typer.Option(help="Training images in the problem.")] = 1000,
    moved: Annotated[str, typer.Option(help="How many move, one experiment each: 1,10.")] = "1,10",
    size: Annotated[
        str, typer.Option(help="Steps in percent of each image's norm.")
    ] = "0.2%,0.5%,1%,2%,5%,10%",
    retraining: Annotated[int, typer.Option(help="Gradients of real retraining; 0 for none.")] = 20,
    figure: Annotated[int, typer.Option(help="Images that move in the landscape; 0 for none.")] = 500,
    resolution: Annotated[int, typer.Option(help="Grid points along each of its axes.")] = 17,
    memory: Annotated[float, typer.Option(help="Gigabytes for rows, and again for graphs.")] = 3.0,
    out: Out = Path("runs/resnet56"),
    seed: Seed = 0,
    overwrite: Overwrite = False,
    resume: Resume = False,
) -> None:
    """The paper's second experiment, tables 1 to 3 and figure 4 (CIFAR-10 and weights are downloaded)."""
    settings = ResNet56Settings(
        seed=seed,
        points=points,
        moved=_counts(moved),
        sizes=tuple(_fraction(part) for part in size.split(",")),
        retraining_gradients=retraining,
        figure_moved=figure,
        resolution=resolution,
        memory_gigabytes=memory,
    )
    network = pretrained_resnet56(find_resnet56_weights(weights))
    images = cifar10(find_cifar10(data), split=None, count=points)
    marks = {"weights": digest(network.state_dict().values()), "data": digest([images.inputs, images.labels])}
    folder = _open(out, settings, overwrite=overwrite, resume=resume, **marks)
    with _interruptible():
        start = TrainedResNet56(settings, folder, network, images)
        _finish(resnet56_experiment(ResNet56Run(start)))


def _counts(text: str) -> tuple[int, ...]:
    """``"1,10"`` as numbers."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise bad_value(
            "--moved", expected="numbers such as 1,10", got=repr(text), cure="Say how many move."
        ) from error


def _digest(problem: Problem) -> str:
    """Tells one trained model from another, so that --resume never mixes the results of two."""
    return hashlib.sha256(problem.weights().cpu().numpy().tobytes()).hexdigest()[:16]


def _finish(page: Path) -> None:
    print(f"Open the report: {page}")


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> Any:
    if value not in choices:
        raise bad_value(
            f"--{name}",
            expected=f"one of {', '.join(choices)}",
            got=repr(value),
            cure="Leave it out for the default.",
        )
    return value


def _indices(text: str) -> tuple[int, ...]:
    """``"0,3,7"`` as numbers."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise bad_value(
            "--points", expected="indices such as 0,3,7", got=repr(text), cure="Count points from 0."
        ) from error


def _fraction(text: str) -> float:
    """``"1%"`` as 0.01; a bare number is a fraction."""
    stripped = text.strip()
    try:
        value = float(stripped.removesuffix("%"))
    except ValueError:
        value = math.nan
    fraction = value / 100 if stripped.endswith("%") else value
    if not 0 < fraction < math.inf:
        raise bad_value(
            "--size", expected="positive steps such as 0.5%,1%", got=repr(text), cure="0.01 means 1%."
        )
    return fraction
