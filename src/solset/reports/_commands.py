"""What a command of the command line consists of, and the commands for a user's own model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

from solset.goals import Goal
from solset.poisoning import RecipeGoal
from solset.problem import Problem
from solset.reports._audit_report import AuditSettings, audit_experiment
from solset.reports._choice_report import ChoiceSettings, choice_experiment
from solset.reports._moves import ChangeSettings
from solset.reports._options import Settings
from solset.reports._paths_report import PathSettings, path_experiment
from solset.reports._plan_table import PlanSettings, plan_from
from solset.reports._poison import PoisonRun
from solset.reports._poison_report import poison_experiment
from solset.reports._poison_task import PoisonSettings, check_poison_settings, task_of
from solset.reports._run_folder import RunFolder
from solset.reports._source import load_validation, required_problem, returned_by
from solset.reports._training_poison import RecipeTask, recipe_poison_experiment
from solset.reports._training_report import (
    check_training_settings,
    training_audit_experiment,
    training_facts,
)
from solset.reports._training_run import check_run_settings, training_run_experiment
from solset.reports._users_report import UserSettings, user_experiment
from solset.risk import digest, identity
from solset.storage import has_file, hash_file
from solset.training import Training

Facts = Mapping[str, object]


@dataclass(frozen=True)
class Job:
    """Work that is ready to begin: its arguments were checked, and nothing was computed yet.

    Attributes:
        facts: Facts besides the settings that a resumed run must share, such as a digest of the data.
        work: Function that computes into a run folder and returns the path of the page.
    """

    facts: Facts
    work: Callable[[RunFolder], Path]


@dataclass(frozen=True)
class Command:
    """A command: ``solset NAME``.

    Attributes:
        name: Name on the command line.
        help: Sentence that says what the command answers.
        settings: Settings dataclass from which the options are made.
        prepare: Function that takes the settings, refuses what cannot work and returns the job; ``None``
            for a command that makes no folder and has printed its answer.
        has_folder: Whether the command writes a run folder.
    """

    name: str
    help: str
    settings: type[Settings]
    prepare: Callable[[Any], Job | None]
    has_folder: bool = True


def problem_facts(problem: Problem) -> Facts:
    """Digests of weights, data, loss and model of a trained point, at the cost of one read of the data."""
    return identity(problem.risk(), depends_on_batches=False).settings


def _changing(
    experiment: Callable[[Problem, Any, RunFolder], Path],
    of_training: Callable[[Training, Any], Job] | None = None,
) -> Callable[[ChangeSettings], Job]:
    """The preparation of a command that changes the data; the files that it reads are part of its facts."""

    def prepare(settings: ChangeSettings) -> Job:
        returned = returned_by(settings.source)
        if of_training is not None and isinstance(returned, Training):
            print(returned)
            return of_training(returned, settings)
        problem = required_problem(returned)
        print(problem)
        settings.check(problem)
        facts = {**problem_facts(problem), **_files(settings)}
        return Job(facts, lambda folder: experiment(problem, settings, folder))

    return prepare


def _files(settings: ChangeSettings) -> Facts:
    """Digests of the files that a change is read from."""
    facts, stored = {}, Path(settings.direction)
    if settings.direction not in {"gradient", "random"} and has_file(stored):
        facts["file of directions"] = hash_file(stored.resolve())
    if settings.add:
        facts["file of new points"] = hash_file(Path(settings.add).resolve())
    return facts


def _run_of_training(training: Training, settings: UserSettings) -> Job:
    check_run_settings(training, settings)
    facts = {**training_facts(training), **_files(settings)}
    return Job(facts, partial(training_run_experiment, training, settings))


def _plan(settings: PlanSettings) -> None:
    print(plan_from(settings))


def _audit(settings: AuditSettings) -> Job:
    problem = returned_by(settings.source)
    if isinstance(problem, Training):
        print(problem)
        check_training_settings(settings)
        unseen = load_validation(settings.source, settings.validation)
        same = {**training_facts(problem), "validation data": digest(unseen)}
        work = partial(training_audit_experiment, problem, settings, validation=unseen)
        return Job(same, work)
    problem = required_problem(problem)
    print(problem)
    settings.check(problem)
    facts, held_out = dict(problem_facts(problem)), None
    if settings.add:
        facts["file of candidates"] = hash_file(Path(settings.add).resolve())
    if settings.validation:
        held_out = load_validation(settings.source, settings.validation)
        facts["validation data"] = digest(held_out)
    return Job(facts, lambda folder: audit_experiment(problem, settings, folder, validation=held_out))


def _poison(settings: PoisonSettings) -> Job:
    returned = returned_by(settings.source)
    match returned:
        case (Training() as training, goal) if callable(goal) or isinstance(goal, Goal):
            recipe = RecipeTask(training, cast("RecipeGoal", goal))
            print(training)
            recipe.check(settings)
            return Job(recipe.facts(), partial(recipe_poison_experiment, recipe, settings))
    task = task_of(returned)
    print(task.problem)
    check_poison_settings(task, settings)
    facts = {**problem_facts(task.problem), **task.facts()}
    return Job(facts, lambda folder: poison_experiment(PoisonRun(task, settings, folder)))


def _choose(settings: ChoiceSettings) -> Job:
    task = task_of(returned_by(settings.source))
    print(task.problem)
    settings.check(task.problem)
    task.goal.check(task.problem.risk())
    facts = {**problem_facts(task.problem), **task.facts()}
    return Job(facts, partial(choice_experiment, task, settings))


COMMANDS = (
    Command(
        "run",
        "Moves, removes, relabels, reweights or adds training points of your own model and estimates its new "
        "solution set; with a run folder's settings.toml as SOURCE, repeats that run.",
        UserSettings,
        _changing(user_experiment, _run_of_training),
    ),
    Command(
        "plan",
        "Tells what a call on your model will need: passes over the data, bytes, gradients; solves nothing.",
        PlanSettings,
        _plan,
        has_folder=False,
    ),
    Command(
        "audit",
        "Ranks the training points, or candidates that may join, by how far they can move your model.",
        AuditSettings,
        _audit,
    ),
    Command(
        "poison",
        "Designs the change of training points that moves your model towards a goal, and judges it by "
        "real retraining.",
        PoisonSettings,
        _poison,
    ),
    Command(
        "choose",
        "Chooses the training points whose labels, flipped, or whose removal moves your model most towards a "
        "goal, and solves for it really.",
        ChoiceSettings,
        _choose,
    ),
    Command(
        "path",
        "Follows the solution of your own model along large moves of training points, or to the end of a "
        "change of whole points.",
        PathSettings,
        _changing(path_experiment),
    ),
)
