"""The commands for a user's own model."""

from solset.reports._audit import AuditSettings, check_audit, load_validation
from solset.reports._audit_report import audit_experiment
from solset.reports._command import Command, Job
from solset.reports._identity import directions_fact, problem_facts, tensors_fact
from solset.reports._paths import PathSettings, check_path_settings
from solset.reports._paths_report import path_experiment
from solset.reports._plan_table import PlanSettings, plan_from
from solset.reports._poison import PoisonRun
from solset.reports._poison_report import poison_experiment
from solset.reports._poison_task import PoisonSettings, check_poison_settings, load_task
from solset.reports._users import UserSettings, check_settings, load_problem
from solset.reports._users_report import user_experiment


def _run(settings: UserSettings) -> Job:
    problem = load_problem(settings.source)
    print(problem)
    check_settings(problem, settings)
    facts = {**problem_facts(problem), **directions_fact(settings.direction)}
    return Job(facts, lambda folder: user_experiment(problem, settings, folder))


def _plan(settings: PlanSettings) -> None:
    print(plan_from(settings))


def _audit(settings: AuditSettings) -> Job:
    problem = load_problem(settings.source)
    print(problem)
    check_audit(problem, settings)
    held_out = load_validation(settings.source, settings.validation) if settings.validation else None
    facts = {**problem_facts(problem), **tensors_fact("validation data", held_out or ())}
    return Job(facts, lambda folder: audit_experiment(problem, settings, folder, validation=held_out))


def _poison(settings: PoisonSettings) -> Job:
    task = load_task(settings.source)
    print(task.problem)
    check_poison_settings(task, settings)
    facts = {**problem_facts(task.problem), **task.facts()}
    return Job(facts, lambda folder: poison_experiment(PoisonRun(task, settings, folder)))


def _path(settings: PathSettings) -> Job:
    problem = load_problem(settings.source)
    print(problem)
    check_path_settings(problem, settings)
    facts = {**problem_facts(problem), **directions_fact(settings.direction)}
    return Job(facts, lambda folder: path_experiment(problem, settings, folder))


COMMANDS = (
    Command(
        "run",
        "Moves training points of your own model and estimates its new solution set; with a run folder's "
        "settings.toml as SOURCE, repeats that run.",
        UserSettings,
        _run,
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
        "Ranks the training points, and their features, by how far they can move your model.",
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
        "path",
        "Follows the solution of your own model along large changes of training points.",
        PathSettings,
        _path,
    ),
)
