"""A perturbation of a user's recipe by design, judged by the recipe run from other seeds."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from solset.errors import bad_value
from solset.goals import Goal
from solset.poisoning import RecipeGoal, RecipePoisoning, poison_training
from solset.reports._poison_task import PoisonSettings
from solset.reports._report import write_report
from solset.reports._report_parts import Finding, Report, Section, Table, columns, sentence
from solset.reports._run_folder import RunFolder
from solset.reports._training_report import refuse_of_problems, training_facts
from solset.training import Training

SEEDS = (0, 1, 2)  # seeds over which a design is averaged
TOP = 20  # points of the ranking on the page
_ALONE = ("training", "learning_rate", "random", "image")


@dataclass(frozen=True, eq=False)
class RecipeTask:
    """What a user's function returned."""

    training: Training  # Recipe whose points may move
    goal: RecipeGoal  # Goal that the poisoner pursues

    def facts(self) -> Mapping[str, object]:
        """What a resumed run must share."""
        goal = self.goal.identity() if isinstance(self.goal, Goal) else getattr(self.goal, "__qualname__", "")
        return {**training_facts(self.training), "goal": goal}

    def check(self, settings: PoisonSettings) -> None:
        """Refuses settings that do not fit the recipe, before anything runs."""
        refuse_of_problems(settings, _ALONE)
        settings.budget().around(self.training.features(settings.points))
        if repeated := sorted({*settings.seeds} & {*SEEDS}):
            raise bad_value(
                "--from-scratch",
                expected="seeds that the design does not use",
                got=repeated,
                cure="Pass 10,11, for example.",
            )


def recipe_poison_experiment(task: RecipeTask, settings: PoisonSettings, folder: RunFolder) -> Path:
    """Designs the perturbation, judges it where seeds were given, and returns the path of the page."""

    def compute() -> dict[str, Any]:
        budget = settings.budget()
        design = poison_training(task.training, task.goal, budget, seeds=SEEDS, rounds=settings.rounds)
        folder.write_tensors("design.safetensors", {"dx": design.dx, "exposure": design.exposure})
        return _record(design, settings)

    record = folder.stage("design", compute, beside=["design.safetensors"])
    folder.write_csv("ranking.csv", record["ranking"])
    parts = [
        Table("Rounds", (*columns("d", round="round"), *columns(goal="goal", size="size")), record["rounds"])
    ]
    if record["judgement"]:
        heads = columns(name="seed", clean="goal: clean data", poisoned="moved data")
        parts.append(Table("The recipe from other seeds", heads, record["judgement"]))
    exposure = Table(
        "Points to guard",
        (*columns("d", point="point"), *columns(".3g", exposure="rise of the goal per input unit")),
        record["ranking"][:TOP],
    )
    report = Report(
        "Which change of the training data moves this training there?",
        f"On the moved points the recipe ends at a goal of {record['reached']:.4g} instead of "
        f"{record['clean']:.4g}, on average over {len(SEEDS)} seeds, by real runs.",
        summary=[
            Finding(
                "rise of the goal",
                record["reached"] - record["clean"],
                "The goal after training on moved points minus that on clean ones, mean over the seeds.",
            )
        ],
        sections=[
            Section("The design", "Each round runs the recipe from every seed.", parts),
            Section("The ranking", "How fast the goal rises if one point alone moves.", [exposure]),
        ],
        warnings=(sentence(record["message"]),) if record["message"] else (),
    )
    return write_report(folder, report)


def _record(design: RecipePoisoning, settings: PoisonSettings) -> dict[str, Any]:
    judged = design.judge(settings.seeds).verdicts if settings.seeds else ()
    return {
        "clean": design.clean,
        "reached": design.reached,
        "status": str(design.status),
        "message": design.message,
        "rounds": design.rows(),
        "ranking": [{"point": i, "exposure": value} for i, value in design.ranking()],
        "judgement": [{"name": one.name, "clean": one.clean, "poisoned": one.poisoned} for one in judged],
    }
