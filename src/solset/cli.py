"""The command line: parse, call, print."""

import dataclasses
import math
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, cast

import typer

from solset import comm
from solset.errors import ProcessError, bad_value
from solset.paper import cifar10, find_cifar10, find_resnet56_weights, pretrained_resnet56
from solset.paper._digits import DigitsRun, DigitsSettings
from solset.paper._digits_report import digits_experiment
from solset.paper._resnet56_report import resnet56_experiment
from solset.paper._resnet56_run import ResNet56Run
from solset.paper._resnet56_setup import ResNet56Settings, TrainedResNet56
from solset.paper._toy import ToySettings
from solset.paper._toy_report import MODULUS_NOTE, toy_experiment
from solset.reports._audit import AuditSettings, check_audit, load_validation
from solset.reports._audit_report import audit_experiment
from solset.reports._identity import directions_fact, problem_facts, tensors_fact
from solset.reports._options import counts, fraction, indices, one_of, seeds, shape
from solset.reports._paths import PathSettings, check_path_settings
from solset.reports._paths_report import path_experiment
from solset.reports._plan_table import plan_from
from solset.reports._poison import PoisonRun
from solset.reports._poison_report import poison_experiment
from solset.reports._poison_task import PoisonSettings, check_poison_settings, load_task
from solset.reports._run_folder import RunFolder
from solset.reports._users import UserSettings, check_settings, load_problem
from solset.reports._users_report import user_experiment
from solset.risk import digest

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Where would a trained network have ended up, had its training data been slightly different?",
)

# Of the click that typer brings along or depends on: an option that is not there, a text for a number.
_UsageError = cast("type[Exception]", typer.BadParameter.__mro__[1])
MAPS = ("auto", "interpolating", "gauss_newton", "stationary")
Source = Annotated[str, typer.Argument(help="FILE.py:FUNCTION, which returns a solset.Problem.")]
MovedPoints = Annotated[str, typer.Option("--points", help="Indices of the points to move: 0,3,7.")]
Direction = Annotated[str, typer.Option(help="gradient, random, or a safetensors file.")]
Out = Annotated[Path, typer.Option(help="Folder for results and report.")]
Seed = Annotated[int, typer.Option(help="Of everything random.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run in the folder.")]
Resume = Annotated[bool, typer.Option("--resume", help="Keep what an interrupted run has computed.")]


def main() -> None:
    """Runs the command line; a bad argument ends in one line and status 2.

    Under ``torchrun`` all processes work on the one run; the first one writes and speaks.
    """
    comm.launch()
    try:
        with _only_the_first_speaks(), comm.reporting():
            code = app(standalone_mode=not sys.argv[1:])  # without arguments it shows the help
    except _UsageError as error:
        _refuse(cast("typer.BadParameter", error).format_message())
    except (ValueError, TypeError, OSError, ProcessError) as error:
        if os.environ.get("SOLSET_TRACEBACK"):
            raise
        _refuse(str(error), status=1 if isinstance(error, ProcessError) else 2)
    else:
        comm.finish(code or 0)


def _refuse(message: str, *, status: int = 2) -> NoReturn:
    who = f"rank {comm.rank()}: " if comm.size() > 1 else ""
    line = " ".join(message.split()).encode(errors="backslashreplace").decode()
    print(f"{who}error: {line}", file=sys.stderr)
    comm.finish(status)


@contextmanager
def _only_the_first_speaks() -> Iterator[None]:
    """Results, bars and warnings of one process are enough."""
    if comm.is_first():
        yield
        return
    with (
        open(os.devnull, "w", encoding="utf-8") as nothing,
        redirect_stdout(nothing),
        redirect_stderr(nothing),
    ):
        yield


@contextmanager
def _interruptible() -> Iterator[None]:
    """Says what an interrupt leaves behind; status 130."""
    try:
        yield
    except KeyboardInterrupt:
        print("\ninterrupted; finished stages are kept: run again with --resume to go on", file=sys.stderr)
        raise typer.Exit(130) from None


def _open(out: Path, settings: Any, *facts: Mapping[str, object], overwrite: bool, resume: bool) -> RunFolder:
    if overwrite and resume:
        raise bad_value(
            "--overwrite", expected="given without --resume", got="both", cure="They exclude each other."
        )
    existing: Literal["refuse", "resume", "overwrite"] = "refuse"
    if overwrite or resume:
        existing = "overwrite" if overwrite else "resume"
    stated = dataclasses.asdict(settings)
    for some in facts:
        stated |= some
    return RunFolder.open(out, settings=stated, on_existing=existing)


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
        activation=one_of("activation", activation, ("relu", "tanh")),
        direction=one_of("direction", direction, ("cross_entropy", "random")),
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
    settings = UserSettings(
        source=source,
        points=indices(points),
        direction=direction,
        sizes=tuple(fraction(part) for part in size.split(",")),
        optimality=one_of("optimality", optimality, MAPS),
        samples=samples,
        seed=seed,
    )
    problem = load_problem(source)
    print(problem)
    check_settings(problem, settings)  # before the folder is made, so that a corrected call finds it free
    facts = problem_facts(problem), directions_fact(direction)
    folder = _open(out, settings, *facts, overwrite=overwrite, resume=resume)
    with _interruptible():
        _finish(user_experiment(problem, settings, folder))


@app.command()
def plan(
    source: Source,
    points: Annotated[str, typer.Option(help="Indices of the points to move: 0,3,7; all by default.")] = "",
    json: Annotated[Path | None, typer.Option(help="File for all numbers.")] = None,
) -> None:
    """What a call will need: passes over the data, bytes, expected gradients; nothing is solved."""
    print(plan_from(source, indices(points) if points else None, json))


@app.command()
def audit(
    source: Annotated[str, typer.Argument(help="FILE.py:FUNCTION, which returns a solset.Problem.")],
    points: Annotated[str, typer.Option(help="Indices of the points to audit: 0,3,7; all by default.")] = "",
    validation: Annotated[
        str, typer.Option(help="Function of the file that returns validation inputs and targets.")
    ] = "",
    layer: Annotated[str, typer.Option(help="Name pattern of the weights that may move.")] = "",
    joint: Annotated[str, typer.Option(help="Whether the constraints of all hold: auto, yes, no.")] = "auto",
    optimality: Annotated[str, typer.Option(help="auto, interpolating, gauss_newton, stationary.")] = "auto",
    influence: Annotated[bool, typer.Option(help="Koh & Liang's column: a solve with H.")] = True,
    top: Annotated[int, typer.Option(help="Points shown in figures and tables.")] = 10,
    out: Out = Path("runs/audit"),
    overwrite: Overwrite = False,
    resume: Resume = False,
) -> None:
    """Which training points, and which of their features, move your model most."""
    settings = AuditSettings(
        source=source,
        points=indices(points) if points else (),
        validation=validation,
        layer=layer,
        joint=one_of("joint", joint, ("auto", "yes", "no")),
        optimality=one_of("optimality", optimality, MAPS),
        influence=influence,
        top=top,
    )
    problem = load_problem(source)
    print(problem)
    check_audit(problem, settings)  # before the folder is made
    held_out = load_validation(source, validation) if validation else None
    facts = problem_facts(problem), tensors_fact("validation data", held_out or ())
    folder = _open(out, settings, *facts, overwrite=overwrite, resume=resume)
    with _interruptible():
        _finish(audit_experiment(problem, settings, folder, validation=held_out))


@app.command()
def poison(
    source: Annotated[str, typer.Argument(help="FILE.py:FUNCTION, which returns (problem, goal[, train]).")],
    points: Annotated[str, typer.Option(help="Indices of the points that may move: 0,3,7.")],
    radius: Annotated[float, typer.Option(help="Of the budget, in input units.")],
    norm: Annotated[str, typer.Option(help="l2 or linf.")] = "l2",
    scope: Annotated[str, typer.Option(help="What the radius bounds: per_point or total.")] = "per_point",
    lower: Annotated[float, typer.Option(help="Smallest valid feature.")] = -math.inf,
    upper: Annotated[float, typer.Option(help="Largest valid feature.")] = math.inf,
    training: Annotated[
        int, typer.Option(help="Gradient-descent steps counted on; 0: the nearest solution.")
    ] = 1000,
    learning_rate: Annotated[float | None, typer.Option(help="Of them; by default a stable one.")] = None,
    rounds: Annotated[int, typer.Option(help="Linearisations at most.")] = 12,
    random: Annotated[int, typer.Option(help="Random perturbations to compare with.")] = 5,
    from_scratch: Annotated[str, typer.Option(help="Seeds of training from scratch: 1,2.")] = "",
    image: Annotated[str, typer.Option(help="Shape in which points are shown: 8x8.")] = "",
    out: Out = Path("runs/poison"),
    seed: Seed = 0,
    overwrite: Overwrite = False,
    resume: Resume = False,
) -> None:
    """The change of training points that moves your model where a goal says, judged by retraining."""
    settings = PoisonSettings(
        source=source,
        points=indices(points),
        radius=radius,
        norm=one_of("norm", norm, ("l2", "linf")),
        scope=one_of("scope", scope, ("per_point", "total")),
        lower=lower,
        upper=upper,
        training=training,
        learning_rate=learning_rate,
        rounds=rounds,
        random=random,
        seeds=seeds(from_scratch),
        image=shape(image),
        seed=seed,
    )
    task = load_task(source)
    print(task.problem)
    check_poison_settings(task, settings)  # before the folder is made
    facts = problem_facts(task.problem), task.facts()
    folder = _open(out, settings, *facts, overwrite=overwrite, resume=resume)
    with _interruptible():
        _finish(poison_experiment(PoisonRun(task, settings, folder)))


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
        points=indices(points),
        direction=direction,
        sizes=tuple(fraction(part) for part in size.split(",")),
        optimality=one_of("optimality", optimality, ("auto", "interpolating", "stationary")),
        tol=tol,
        nearest=nearest,
        seed=seed,
    )
    problem = load_problem(source)
    print(problem)
    check_path_settings(problem, settings)  # before the folder is made: a corrected call finds it free
    facts = problem_facts(problem), directions_fact(direction)
    folder = _open(out, settings, *facts, overwrite=overwrite, resume=resume)
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
        moved=counts(moved),
        sizes=tuple(fraction(part) for part in size.split(",")),
        retraining_gradients=retraining,
        figure_moved=figure,
        resolution=resolution,
        memory_gigabytes=memory,
    )
    network = pretrained_resnet56(find_resnet56_weights(weights))
    images = cifar10(find_cifar10(data), split=None, count=points)
    marks = {"weights": digest(network.state_dict().values()), "data": digest([images.inputs, images.labels])}
    folder = _open(out, settings, marks, overwrite=overwrite, resume=resume)
    with _interruptible():
        start = TrainedResNet56(settings, folder, network, images)
        _finish(resnet56_experiment(ResNet56Run(start)))


def _finish(page: Path) -> None:
    print(f"Open the report: {page}")
