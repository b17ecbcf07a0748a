"""A perturbation by design on a user's own model: designed, retrained, and compared with chance."""

from dataclasses import asdict
from functools import cached_property
from math import inf, isfinite
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from solset.changes import Move
from solset.operators import GaussNewton
from solset.poisoning import Ascent, Judgement, Poisoning, adjoint_gradient, design_poisoning, judge_poisoning
from solset.reports._poison_task import PoisonSettings, PoisonTask
from solset.reports._records import restored
from solset.reports._run_folder import RunFolder
from solset.retraining import LBFGS, GradientDescent, LevenbergMarquardt, Method, Newton
from solset.solvers import largest_eigenvalue
from solset.solvers.filters import Filter, GradientFlow

CHECKPOINT = "ascent.safetensors"


class PoisonRun:
    """One run, stage by stage."""

    def __init__(
        self, task: PoisonTask, settings: PoisonSettings, folder: RunFolder, *, progress: bool = True
    ) -> None:
        self.task, self.settings, self.folder, self.progress = task, settings, folder, progress
        self.feasible = settings.budget().at(task.problem)

    @cached_property
    def rate(self) -> float:
        """The learning rate of the training that is counted on."""
        if self.settings.learning_rate is not None:
            return self.settings.learning_rate
        return 1.0 / largest_eigenvalue(GaussNewton(self.task.problem.risk()))

    @cached_property
    def element(self) -> Filter | None:
        """Which solution the poisoner counts on."""
        return GradientFlow(self.settings.training, self.rate) if self.settings.training else None

    @cached_property
    def methods(self) -> dict[str, Method]:
        """Retraining from the trained weights; the first is what the poisoner counts on."""
        steps = self.settings.training
        if steps:
            counted: Method = GradientDescent(steps, self.rate)
            first = {f"{steps} steps of gradient descent": counted}
        elif self.task.problem.derivative(points=[0]).keeps_outputs:
            first = {"nearest solution": LevenbergMarquardt(output_tol=1e-8)}
        else:
            first = {"Newton's method": Newton()}
        return {**first, "L-BFGS, 300 gradients": LBFGS(max_gradients=300)}

    def numbers(self) -> dict[str, Any]:
        """Everything the report shows, computed or read back stage by stage."""
        result = {
            "guard": self.folder.stage("guard", self._guard),
            "design": self.folder.stage("design", self._design, beside=["perturbation.safetensors"]),
            "judgement": self.folder.stage("judgement", lambda: self._judged(self._designed)),
        }
        numbers = tqdm(range(self.settings.random), desc="random directions", disable=not self.progress)
        result["random"] = [
            self.folder.stage(f"random_{k}", lambda k=k: self._judged(self._random(k))) for k in numbers
        ]
        result = restored(result)  # a retraining may have ended at what JSON has no number for
        result["gain"] = [self._gain(result, place) for place in range(len(result["judgement"]["verdicts"]))]
        return result

    def inputs(self) -> Tensor:
        """The points that may move, as they are, ``(|K|, *input)``."""
        return self.feasible.inputs

    @cached_property
    def dx(self) -> Tensor:
        """The designed perturbation."""
        return self.folder.tensor_stage("perturbation", self._tensors)["dx"]

    def _tensors(self) -> dict[str, Tensor]:
        designed = self._designed
        return {
            "dx": designed.dx,
            "weights": designed.weights,
            "trained": self.task.problem.weights().clone(),
        }

    @cached_property
    def _designed(self) -> Poisoning:
        """Designed, or read back from the checkpoint of the ascent."""
        return design_poisoning(
            self.task.problem,
            self.task.goal,
            self.settings.budget(),
            element=self.element,
            ascent=Ascent(max_rounds=self.settings.rounds),
            checkpoint=self.folder.reserve(CHECKPOINT),
            progress=self.progress,
        )

    def _design(self) -> dict[str, Any]:
        designed = self._designed
        self.folder.write_tensors("perturbation.safetensors", self._tensors())
        return {
            "problem": repr(self.task.problem),
            "goal": self.task.goal.describe(),
            "is_raised": self.task.goal.sign > 0,
            "optimality": designed.adjoint.optimality,
            "trained": designed.adjoint.value,
            "clean": designed.clean,
            "drift": designed.drift,
            "first_order": designed.first_order,
            "linear": designed.linear,
            "predicted": designed.predicted,
            "unbounded": designed.adjoint.unbounded,
            "weight_gradient": designed.adjoint.weight_gradient,
            "gradient_norm": float(self.task.problem.gradient().norm()),
            "size": self.feasible.size(designed.dx),
            "is_feasible": self.feasible.contains(designed.dx),
            "reason": designed.reason.value,
            "learning_rate": self.rate if self.settings.training else None,
            "course": [asdict(one) for one in designed.course],
            "sizes": designed.dx.flatten(1).norm(dim=1),
        }

    def _guard(self) -> list[dict[str, Any]]:
        """All training points, ranked by what a unit move of each would do."""
        gradient = adjoint_gradient(self.task.problem, self.task.goal, element=self.element)
        movable = set(self.settings.points)
        return [
            {"rank": rank, "point": point, "effect": size, "may_move": point in movable}
            for rank, (point, size) in enumerate(gradient.ranking(), start=1)
        ]

    def _random(self, number: int) -> Move:
        generator = torch.Generator().manual_seed(1000 * self.settings.seed + number)
        return Move(self.settings.points, self.feasible.random(generator))

    def _judged(self, change: Poisoning | Move) -> dict[str, Any]:
        clean = None
        if self.folder.has("judgement.json"):
            earlier = restored(self.folder.read_json("judgement.json"))
            clean = {one["name"]: one["clean"] for one in earlier["verdicts"]}
        judged: Judgement = judge_poisoning(
            self.task.problem,
            self.task.goal,
            change,
            methods=self.methods,
            train=self.task.train,
            seeds=self.settings.seeds if self.task.train else (),
            clean=clean,
        )
        verdicts = [{**asdict(one), "change": one.change} for one in judged.verdicts]
        return {"verdicts": verdicts, "is_confirmed": judged.is_confirmed}

    def _gain(self, result: dict[str, Any], place: int) -> dict[str, Any]:
        """The designed change beside that of random directions, for one way of retraining."""
        verdict = result["judgement"]["verdicts"][place]
        others = [judged["verdicts"][place]["change"] for judged in result["random"]]
        sign = 1.0 if result["design"]["is_raised"] else -1.0
        typical = sum(map(abs, others)) / len(others) if others else None
        return {
            "name": verdict["name"],
            "clean": verdict["clean"],
            "poisoned": verdict["poisoned"],
            "change": verdict["change"],
            "linear_change": result["design"]["linear"] - result["design"]["clean"],
            "predicted_change": result["design"]["predicted"] - result["design"]["clean"],
            "gradient_norm": verdict["gradient_norm"],
            "random_mean": sum(others) / len(others) if others else None,
            "random_typical": typical,
            "random_best": max(others, key=lambda one: sign * one if isfinite(one) else -inf, default=None),
            "times_chance": sign * verdict["change"] / typical if typical else None,
            "is_success": sign * verdict["change"] > 0,  # not for a change that is no number
        }
