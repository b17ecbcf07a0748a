"""Parts of the experiment: moved points (tables 1 to 3), and the landscape of figure 4."""

from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from solset.changes import Move
from solset.errors import bad_value
from solset.landscapes import Landscape, filter_length, filter_normalised, landscape
from solset.operators import Hessian, InputJacobian, Mixed
from solset.paper._resnet56_setup import TrainedResNet56
from solset.paper._training import retrained_within
from solset.reports import step_of
from solset.retraining import LBFGS, WithOptimizer
from solset.solvers import LSMR


class MovedPoints:
    """The experiment with so many points moved."""

    def __init__(self, run: TrainedResNet56, count: int) -> None:
        self.run, self.count = run, count
        self.points = run.order[:count]
        self.name = f"moved_{count}"

    @cached_property
    def unit(self) -> Tensor:
        """The step of 100 %."""
        directions = self.run.directions(self.points)
        return step_of(self.run.data.inputs[self.points], directions, 1.0)

    def numbers(self) -> dict[str, Any]:
        """The stages of this number of points."""
        folder, settings = self.run.folder, self.run.settings
        stored = f"{self.name}_changes.safetensors"
        check = folder.stage(f"{self.name}_check", lambda: self._solved(stored), beside=[stored])
        changes = folder.read_tensors(stored)
        clean = cross_entropy(self.run.clean, self.run.data.labels, reduction="none")
        hidden = None if self.run.progress else True  # None: tqdm looks for a terminal
        numbers = {
            "points": self.points,
            "clean": {"moved": float(clean[self.points].mean()), "all": float(clean.mean())},
            "check": check,
            "sizes": [
                folder.stage(f"{self.name}_size_{size:g}", lambda size=size: self._at(size, changes))
                for size in tqdm(settings.sizes, desc="sizes", disable=hidden, leave=False)
            ],
        }
        if settings.retraining_gradients:
            numbers["retraining"] = folder.stage(
                f"{self.name}_retraining", lambda: self._retraining(changes["change"])
            )
        return numbers

    def _solved(self, stored: str) -> dict[str, float]:
        """Stores the weight changes per 100 %, and returns how accurate the linear solve was.

        The changes are the minimum-norm solution, samples of the set, and the paper's way.
        """
        run, settings = self.run, self.run.settings
        derivative = run.derivative(self.points)
        answer = derivative(self.unit)
        smallest = answer.min_norm()
        generator = torch.Generator().manual_seed(settings.seed + 1)
        drawn = answer.sample(settings.samples, radius=float(smallest.value.norm()), generator=generator)
        check = derivative.check
        if check is None:
            raise bad_value("moved", expected="images that move", got="none", cure="Give a step.")
        changes = {
            "change": smallest.value,
            "samples": torch.stack([sample.value for sample in drawn]),
            "paper": self._paper_way(),
        }
        run.folder.write_tensors(stored, changes)
        return {
            "residual": check.residual,
            "moved_residual": check.moved_residual,
            "unit_residual": check.unit_residual,
            "risk_rise": check.risk_rise,
            "discarded": check.discarded,
            "residual_in_use": smallest.residual,
            "rows": check.rows,
            "all_rows": check.all_rows,
            "rank": -1 if derivative.rank is None else derivative.rank,
        }

    def _paper_way(self) -> Tensor:
        """LSMR on the Hessian of the moved points alone, stopped after a stated number of iterations."""
        risk = self.run.problem.risk().select(self.points)
        force = Mixed(risk, range(self.count)) @ self.unit.flatten()
        solver = LSMR(tol=1e-12, max_steps=self.run.settings.paper_steps)
        return solver.solve(Hessian(risk), -force).value

    def _at(self, size: float, changes: dict[str, Tensor]) -> dict[str, Any]:
        """Losses at one step size; the change is linear in it."""
        problem, weights = self.run.problem, self.run.problem.weights()
        risk = problem.risk().move(self.points, size * self.unit)
        step = size * changes["change"]

        def losses(at: Tensor) -> dict[str, float]:
            return self.run.losses(risk.at(at), self.points)

        return {
            "size": size,
            "perturbation": float((size * self.unit).norm()),
            "distance": float(step.norm()),
            "sampled_distance": min(float((size * s).norm()) for s in changes["samples"]),
            "relative_change": float(step.norm() / weights.norm()),
            "trained": losses(weights),
            "estimate": losses(weights + step),
            "samples": [losses(weights + size * sample) for sample in changes["samples"]],
            "paper_way": losses(weights + size * changes["paper"]),
            "beyond_first_order": self._beyond_first_order(size, step),
        }

    def _beyond_first_order(self, size: float, step: Tensor) -> dict[str, float]:
        """What the linear model leaves out on the moved points, relative to the change it cancels.

        ``f(x̄ + Δx, w̄)`` and ``f(x̄, w̄ + Δw)`` against their own first order, which are ``J_x Δx`` and its
        negative, and both moves together against each alone.
        """
        problem = self.run.problem
        risk = problem.risk().select(self.points)
        points = list(range(self.count))
        linear = (InputJacobian(risk, points) @ (size * self.unit).flatten()).reshape(self.count, -1)
        clean, moved = self.run.clean[self.points], risk.move(points, size * self.unit)
        by_inputs = moved.outputs() - clean
        by_weights = risk.at(problem.weights() + step).outputs() - clean
        together = moved.at(problem.weights() + step).outputs() - clean
        scale = float(linear.norm())
        return {
            "linear": scale,
            "inputs": float((by_inputs - linear).norm()) / scale,
            "weights": float((by_weights + linear).norm()) / scale,
            "mixed": float((together - by_inputs - by_weights).norm()) / scale,
        }

    def _retraining(self, change: Tensor) -> dict[str, Any]:
        """Real warm retraining on the moved data, beside the estimate."""
        run, settings = self.run, self.run.settings
        problem, weights = run.problem, run.problem.weights()
        dx = settings.retraining_size * self.unit
        risk = problem.risk().move(self.points, dx)
        step = settings.retraining_size * change
        size = float(weights.norm())
        budget = settings.retraining_gradients
        methods = {
            "L-BFGS": LBFGS(gradient_tol=0.0, max_gradients=budget),
            "Adam, 1e-4": WithOptimizer(
                lambda leaves: torch.optim.Adam(leaves, lr=1e-4), budget, progress=run.progress
            ),
        }
        numbers = {
            "size": settings.retraining_size,
            "trained": run.losses(risk, self.points),
            "estimate": {
                "relative_change": float(step.norm()) / size,
                **run.losses(risk.at(weights + step), self.points),
            },
        }
        for name, method in methods.items():
            truth = retrained_within(problem, Move(self.points, dx), method)
            numbers[name] = {
                "gradients": truth.gradients,
                "relative_change": float(truth.change.norm()) / size,
                "cosine": float(torch.dot(truth.change, step) / (truth.change.norm() * step.norm())),
                **run.losses(risk.at(truth.weights), self.points),
            }
        return numbers


ALONG = (-1.0, -0.5, 0.5, 1.0)  # where other elements of the set lie on the kernel direction
BEYOND = (-0.6, 3.0)  # what the landscape shows along the minimum-norm change, in its lengths
ACROSS = 2.5  # and along the kernel direction, to both sides
KERNEL_LENGTH = 3.0  # of the kernel direction, in lengths of the minimum-norm change


class LandscapeFigure:
    """The moved points, the set they give, and the loss around it."""

    def __init__(self, run: TrainedResNet56) -> None:
        self.run = run
        self.points = run.order[: run.settings.figure_moved]

    @cached_property
    def dx(self) -> Tensor:
        """Each point along its own loss gradient."""
        inputs = self.run.data.inputs[self.points]
        return step_of(inputs, self.run.directions(self.points), self.run.settings.figure_size)

    @cached_property
    def changes(self) -> dict[str, Tensor]:
        """The minimum-norm element of the set and a direction that stays in it."""
        return self.run.folder.tensor_stage("figure_changes", self._changes)

    @cached_property
    def elements(self) -> Tensor:
        """Other elements of the set, as weights."""
        base = self.run.problem.weights() + self.changes["change"]
        return torch.stack([base + t * self.changes["kernel"] for t in ALONG])

    @cached_property
    def landscape(self) -> Landscape:
        """The loss of the moved data in the plane of the two; each finished row is kept."""
        weights, change = self.run.problem.weights(), self.changes["change"]
        return landscape(
            self.run.problem,
            {"Δw": change, "kernel direction": self.changes["kernel"]},
            risk=self.run.problem.risk().move(self.points, self.dx),
            subsets={"the moved points": self.points},
            marks={
                "trained weights": weights,
                "minimum-norm solution": weights + change,
                "sampled solutions": self.elements,
            },
            ranges=[self._range(change, *BEYOND), self._range(self.changes["kernel"], -ACROSS, ACROSS)],
            resolution=self.run.settings.resolution,
            checkpoint=self.run.folder.reserve("landscape_rows.safetensors"),
            progress=self.run.progress,
        )

    def _range(self, direction: Tensor, start: float, stop: float) -> tuple[float, float]:
        """So many times the direction, in the landscape's unit: relative changes of the filters."""
        unit = filter_length(self.run.problem.risk(), direction, has_biases=False)
        return start * unit, stop * unit

    def numbers(self) -> dict[str, Any]:
        """What the report says of it."""
        run, change = self.run, self.changes["change"]
        weights = run.problem.weights()
        risk = run.problem.risk().move(self.points, self.dx)
        rows, rank, residual = self.changes["facts"].tolist()
        return {
            "size": run.settings.figure_size,
            "moved": len(self.points),
            "rows": int(rows),
            "rank": int(rank),
            "residual": residual,
            "relative_change": float(change.norm() / weights.norm()),
            "kernel_ratio": float(self.changes["kernel"].norm() / change.norm()),
            "trained": run.losses(risk, self.points),
            "estimate": run.losses(risk.at(weights + change), self.points),
            "elements": [run.losses(risk.at(w), self.points) for w in self.elements],
            "landscape": self.landscape.to_dict(),
        }

    def _changes(self) -> dict[str, Tensor]:
        run = self.run
        derivative = run.derivative(self.points)
        answer = derivative(self.dx)
        change = answer.min_norm().value
        generator = torch.Generator().manual_seed(run.settings.seed + 2)
        random = filter_normalised(run.problem, torch.randn(change.shape, generator=generator))
        kernel = answer.directions(random.unsqueeze(1))[:, 0]
        kernel = kernel * (KERNEL_LENGTH * change.norm() / kernel.norm())
        check, rank = derivative.check, derivative.rank
        if check is None or rank is None:
            raise bad_value("figure", expected="images that move", got="none", cure="Give a step.")
        facts = torch.tensor([check.rows, rank, check.residual], dtype=torch.float64)
        return {"change": change, "kernel": kernel, "facts": facts}
