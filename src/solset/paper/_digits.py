"""The main job on real data: digits, a fitted network, ten moved points, retraining to check every claim."""

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn
from tqdm import tqdm

from solset._stability import training_stability
from solset.changes import Move
from solset.checks import within
from solset.derivatives import GraphicalDerivative
from solset.errors import SolsetWarning, bad_value
from solset.goals import HeldOutLoss
from solset.modulus import Audit, audit, lipschitz_modulus
from solset.operators import GaussNewton
from solset.paper._data import digits
from solset.paper._training import fit_exactly, retrained_within
from solset.problem import Problem
from solset.reports import (
    PoisonRun,
    PoisonSettings,
    PoisonTask,
    RunFolder,
    Settings,
    cross_entropy_directions,
    mean_losses,
    option,
    random_directions,
    seed_option,
    step_of,
)
from solset.retraining import (
    LBFGS,
    GradientDescent,
    LevenbergMarquardt,
    Retrained,
    follow_retraining,
    retrain,
)
from solset.risk import EmpiricalRisk
from solset.solvers import largest_eigenvalue
from solset.solvers.filters import GradientFlow
from solset.zoo import DFCNN

BUILDS = 12  # linearisations of the route that follows retraining at a large perturbation


@dataclass(frozen=True)
class DigitsSettings(Settings):
    """Settings of ``solset demo``; each field says what it is in its help text."""

    seed: int = seed_option("weights, points, directions and samples")
    points: int = option(100, help="Number of training digits, the first of the file.")
    moved: int = option(10, help="Number of training digits that move.")
    sizes: tuple[float, ...] = option(
        (1e-5, 1e-4, 1e-3, 0.005, 0.01, 0.02), help="Step sizes as fractions of each moved point's norm."
    )
    direction: Literal["cross_entropy", "random"] = option(
        "cross_entropy",
        flag="--direction",
        help="Directions in which the digits move: the gradient of the outputs' cross-entropy, or random. "
        "The gradient of the fitted squared loss is rounding noise.",
    )
    activation: Literal["relu", "tanh"] = option(
        "relu", flag="--activation", help="Activation function of the network; tanh is the smooth case."
    )
    hidden: tuple[int, ...] = option((128, 64), help="Widths of the hidden layers, in order.")
    has_fixed_output: bool = option(
        False, flag="--fixed-output", help="Keep the output layer constant, as Theorem 2 of the paper does."
    )
    steps: tuple[int, ...] = option(
        (100, 1000), help="Numbers of gradient-descent steps at which prediction and retraining are compared."
    )
    samples: int = option(5, help="Number of elements drawn from the estimated set.")
    poisoned: float = option(
        0.05, help="Radius of the budget of the designed perturbation, relative to the mean norm; 0 for none."
    )
    large: float = option(
        0.2, help="Step at which retraining is followed beyond first order, as a fraction; 0 for none."
    )
    nearest_at: tuple[float, ...] = option(
        (1e-4, 0.005), help="Sizes at which real retraining searches the nearest solution, the slowest part."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        within("moved", self.moved, 1, self.points, cure="Move fewer points.")
        for name in ("sizes", "steps", "samples"):
            if not getattr(self, name):
                raise bad_value(name, expected="one or more", got=getattr(self, name), cure="Leave it out.")
        if not set(self.nearest_at) <= set(self.sizes):
            raise bad_value("nearest_at", expected="among sizes", got=self.nearest_at, cure="Add the size.")


class DigitsRun:
    """The demo's fitted network and everything computed from it, stage by stage."""

    def __init__(self, settings: DigitsSettings, folder: RunFolder, *, progress: bool = True) -> None:
        self.settings, self.folder, self.progress = settings, folder, progress
        data = digits()
        self.train, self.test = data.part(0, settings.points), data.part(1000, 1500)
        self.generator = torch.Generator().manual_seed(settings.seed)
        activation = torch.relu if settings.activation == "relu" else torch.tanh
        self.model: nn.Module = DFCNN(
            [64, *settings.hidden, 10],
            activation=activation,
            has_fixed_output=settings.has_fixed_output,
            generator=self.generator,
        )
        self._load_weights()
        self.model.eval()
        self.moved = torch.randperm(settings.points, generator=self.generator)[: settings.moved].tolist()
        inputs, labels = self.train.inputs[self.moved], self.train.labels[self.moved]
        self.random = random_directions(inputs.shape, inputs, self.generator)
        if settings.direction == "random":
            self.directions = self.random
        else:
            self.directions = cross_entropy_directions(self.model, inputs, labels)

    def _load_weights(self) -> None:
        def fit() -> dict[str, Tensor]:
            targets = self.train.one_hot()
            error = fit_exactly(self.model, self.train.inputs, targets, progress=self.progress)
            return {**self.model.state_dict(), "largest_error": torch.tensor(error)}

        weights = self.folder.tensor_stage("trained", fit)
        self.fit_error = float(weights.pop("largest_error"))
        self.model.load_state_dict(weights)

    @cached_property
    def problem(self) -> Problem:
        """The trained point: the squared loss of the one-hot targets, fitted."""
        return Problem(self.model, nn.MSELoss(), self.train.inputs, self.train.one_hot())

    @cached_property
    def derivative(self) -> GraphicalDerivative:
        """The graphical derivative for the moved points; its factorisation serves every size."""
        return self.problem.derivative(points=self.moved)

    @cached_property
    def learning_rate(self) -> float:
        """``1 / s_max`` of the Gauss–Newton matrix, at which gradient descent is stable."""
        return 1.0 / largest_eigenvalue(GaussNewton(self.problem.risk()))

    @cached_property
    def poisoning(self) -> PoisonRun:
        """A designed perturbation of the moved digits that raises the loss of the unseen ones."""
        settings = PoisonSettings(
            source="demo",
            points=tuple(self.moved),
            radius=self.settings.poisoned * float(self.train.inputs[self.moved].norm(dim=1).mean()),
            lower=0.0,
            upper=1.0,
            training=min(self.settings.steps),
            rounds=3,
            random=3,
            image=(8, 8),
            seed=self.settings.seed,
        )
        task = PoisonTask(self.problem, HeldOutLoss(self.test.inputs, self.test.one_hot()))
        return PoisonRun(task, settings, self.folder, progress=self.progress)

    def dx(self, size: float) -> Tensor:
        """The perturbation of a size."""
        return step_of(self.train.inputs[self.moved], self.directions, size)

    def numbers(self) -> dict[str, Any]:
        """Everything the report shows, computed or read back stage by stage."""
        folder, result = self.folder, {"setup": self.folder.stage("setup", self._setup)}
        result["sizes"] = [
            folder.stage(
                f"size_{size:g}",
                lambda size=size: self._at_size(size),
                beside=[f"weights_{size:g}.safetensors"] if size in self.settings.nearest_at else [],
            )
            for size in tqdm(self.settings.sizes, desc="sizes", disable=not self.progress)
        ]
        result["warm_retraining"] = folder.stage("warm_retraining", self._warm_retraining)
        result["modulus"] = folder.stage("modulus", self._modulus)
        result["large"] = folder.stage("large", self._large)
        if self.settings.poisoned:
            result["poisoning"] = self.poisoning.numbers()
        folder.write_json("result.json", result)
        return result

    @cached_property
    def audit(self) -> Audit:
        """Every training digit with its modulus; the test digits are the validation set."""
        validation = (self.test.inputs, self.test.one_hot())
        return audit(
            self.problem, validation=validation, checkpoint=self.folder.reserve, progress=self.progress
        )

    def _modulus(self) -> dict[str, Any]:
        """The exact modulus of the moved digits and of all, with their certificates; none if not fitted."""
        certified: dict[str, Any] = {}
        if not self.problem.is_fitted:
            return certified
        for name, points in (("moved", self.moved), ("all", None)):
            one = lipschitz_modulus(self.problem, points=points)
            certified[name] = {
                "value": one.value,
                "certainty": one.certificate.certainty.value,
                "reason": one.certificate.reason,
                "margin": one.certificate.activation_margin,
            }
        return certified

    def _large(self) -> dict[str, Any]:
        """Retraining at a large perturbation: followed with a few linearisations, by one, and real."""
        size, last = self.settings.large, max(self.settings.steps)
        if not size or not self.problem.is_fitted:
            return {}
        dx, rate = self.dx(size), self.learning_rate
        moved, start = self.problem.risk().move(self.moved, dx), self.problem.weights()
        truth = retrain(self.problem, Move(self.moved, dx), method=GradientDescent(last, rate))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SolsetWarning)  # the page shows its message, and its error
            course = follow_retraining(
                self.problem,
                Move(self.moved, dx),
                steps=last,
                learning_rate=rate,
                max_builds=BUILDS,
                progress=False,
            )
        once = self.derivative(dx).element(GradientFlow(last, rate)).value
        changes = {"one linearisation": once, "followed": course.change, "retraining": truth.change}
        rows = {
            name: {
                "error": relative_error(change, truth.change),
                **mean_losses(moved.at(start + change), self.moved),
            }
            for name, change in changes.items()
        }
        return {"size": size, "steps": last, "message": course.message, "rows": rows}

    def _setup(self) -> dict[str, Any]:
        problem, derivative = self.problem, self.derivative
        return {
            "points": problem.point_count,
            "weights": len(problem.weights()),
            "outputs": problem.output_count,
            "largest_fit_error": self.fit_error,
            "gradient_norm": float(problem.gradient().norm()),
            "moved": self.moved,
            "optimality": derivative.optimality,
            "reason": derivative.reason,
            "qualification": derivative.qualification.reason,
            "rank": derivative.rank,
            "rows": derivative.rows,
            "dimension": None if derivative.rank is None else len(problem.weights()) - derivative.rank,
            "learning_rate": self.learning_rate,
            "test_accuracy": self._accuracy(),
        }

    def _accuracy(self) -> float:
        with torch.no_grad():
            return float((self.model(self.test.inputs).argmax(1) == self.test.labels).double().mean())

    def _at_size(self, size: float) -> dict[str, Any]:
        """Prediction and truth at one step size."""
        problem, dx, steps = self.problem, self.dx(size), self.settings.steps
        move, start, last = Move(self.moved, dx), problem.weights(), max(steps)
        generator = torch.Generator().manual_seed(self.settings.seed + 1)
        stability = training_stability(problem, move, samples=self.settings.samples, generator=generator)
        estimate, samples = stability.solution.value, [sample.value for sample in stability.samples]
        moved, changes = problem.risk().move(self.moved, dx), self.derivative(dx)
        flow = {k: changes.element(GradientFlow(k, self.learning_rate)).value for k in steps}
        method = GradientDescent(last, self.learning_rate, record_at=steps, progress=self.progress)
        truth = retrain(problem, move, method=method)
        actual = {k: truth.course[k] - start for k in steps}
        followed = start + flow[last]
        reached = {"trained": start, "estimate": estimate, "flow": followed, "retraining": truth.weights}
        row: dict[str, Any] = {
            "size": size,
            "step_percent": 100 * size,
            "perturbation": stability.perturbation,
            "distance": stability.distance,
            "sampled_distance": stability.sampled_distance,
            "residual": stability.solution.residual,
            "losses": {name: mean_losses(moved.at(weights), self.moved) for name, weights in reached.items()},
            "output_error": {
                "trained": self._output_error(moved),
                "estimate": self._output_error(moved.at(estimate)),
                "samples": max(self._output_error(moved.at(sample)) for sample in samples),
            },
            "flow_error": {str(k): relative_error(flow[k], actual[k]) for k in steps},
            "min_norm_error_against_retraining": relative_error(estimate - start, actual[last]),
            "test": self._test_agreement(followed, truth.weights),
        }
        if size in self.settings.nearest_at:
            nearest = retrained_within(problem, move, LevenbergMarquardt(max_steps=8))
            row["nearest"] = self._nearest(nearest, estimate - start, moved)
            tensors = {"dx": dx, "trained": start.clone(), "estimate": estimate, "gradient_flow": followed}
            tensors |= {"retrained": truth.weights, "nearest": nearest.weights}
            tensors["samples"] = torch.stack(samples)
            self.folder.write_tensors(f"weights_{size:g}.safetensors", tensors)
        return row

    def _nearest(self, nearest: Retrained, estimated: Tensor, moved: EmpiricalRisk) -> dict[str, Any]:
        """How far the estimated change is from that to the nearest solution."""
        return {
            "error": relative_error(estimated, nearest.change),
            "distance": float(nearest.change.norm()),
            "status": nearest.status.value,
            "gram_builds": nearest.gradients,
            "output_error": self._output_error(moved.at(nearest.weights)),
        }

    def _output_error(self, risk: EmpiricalRisk) -> float:
        """``‖f - f̄‖`` over all training points."""
        return float((risk.outputs() - self.problem.risk().outputs()).norm())

    def _test_agreement(self, predicted: Tensor, actual: Tensor) -> dict[str, Any]:
        """Predicted and actual change of each test digit's loss, and their correlation."""
        targets = self.test.one_hot()
        risk = Problem(self.model, nn.MSELoss(), self.test.inputs, targets, gradient_tol=float("inf")).risk()
        before = risk.losses()
        guess, truth = risk.at(predicted).losses() - before, risk.at(actual).losses() - before
        correlation = float(torch.corrcoef(torch.stack([guess, truth]))[0, 1])
        return {"correlation": correlation, "predicted": guess.tolist(), "actual": truth.tolist()}

    def _warm_retraining(self) -> dict[str, Any]:
        """L-BFGS from ``w̄`` for the gradients that the estimate costs, for one direction and for ten.

        Cost by count: a row of J is one backward pass of its point, so the Gram matrix costs ``c`` gradients;
        each direction then costs two products, at most one gradient each.
        """
        size = 0.005 if 0.005 in self.settings.sizes else self.settings.sizes[len(self.settings.sizes) // 2]
        first, each = self.problem.output_count + 2, 2
        budgets = {"same": first, "10 times": 10 * first, "50 times": 50 * first}
        one = self._race(self.directions, size, budgets)
        generator = torch.Generator().manual_seed(self.settings.seed + 2)
        like = self.train.inputs[self.moved]
        many = [random_directions(like.shape, like, generator) for _ in range(10)]
        total = self.problem.output_count + 10 * each
        share = total // 10
        races = [self._race(d, size, {"same": share, "10 times": 10 * share}) for d in many]
        mean = {
            name: {key: sum(race[name][key] for race in races) / len(races) for key in races[0][name]}
            for name in races[0]
        }
        return {
            "size": size,
            "one_direction": {"gradients": first, **one},
            "ten_directions": {"gradients": total, "gradients_each": share, **mean},
        }

    def _race(self, directions: Tensor, size: float, budgets: dict[str, int]) -> dict[str, Any]:
        """Losses that the estimate and L-BFGS reach on one moved data set."""
        dx = step_of(self.train.inputs[self.moved], directions, size)
        moved = self.problem.risk().move(self.moved, dx)
        estimate = self.problem.weights() + self.derivative(dx).min_norm().value
        losses: dict[str, Any] = {
            "trained": mean_losses(moved, self.moved),
            "estimate": mean_losses(moved.at(estimate), self.moved),
        }
        for name, budget in budgets.items():
            method = LBFGS(gradient_tol=1e-14, max_gradients=budget)
            warm = retrained_within(self.problem, Move(self.moved, dx), method)
            reached = mean_losses(moved.at(warm.weights), self.moved)
            losses[f"warm, {name}"] = {**reached, "gradients": warm.gradients}
        return losses


def relative_error(predicted: Tensor, actual: Tensor) -> float:
    """``‖predicted - actual‖ / ‖actual‖``."""
    return float((predicted - actual).norm() / actual.norm())
