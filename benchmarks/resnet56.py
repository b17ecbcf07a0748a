"""ResNet56 on 1000 CIFAR-10 images, ten of them moved: what an answer costs, in gradients of the same data.

Everything is timed in one run and divided by the time of a full-batch gradient, taken again beside each
method; a method that others offer runs for a stated number of gradients. Losses are those of the moved data.
Last, one set of rows serves changes of other images; these are counted in seconds of the processor.
"""

import resource
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any, cast

import torch
from curvlinops import HessianLinearOperator, LSMRInverseLinearOperator
from tests.support.reference import cifar10_file, resnet56_file
from torch import Tensor, nn

from benchmarks.tables import number, table
from benchmarks.timing import seconds_of
from solset import Move, Problem, Remove, retrain
from solset.operators import Hessian, Mixed
from solset.paper import cifar10, pretrained, resnet56
from solset.retraining import LBFGS, WithOptimizer
from solset.solvers import LSMR

BATCH = 50
SIZE = 0.01
WARM_GRADIENTS = 20
KRYLOV_GRADIENTS = (25, 100)
FURTHER_SECONDS = 60.0  # for each kind of further change


class Bench:
    """The trained point, the moved points, and the clock.

    Args:
        log: Takes a line of progress.
    """

    def __init__(self, log: Callable[[str], None] = print) -> None:
        self.data = cifar10(cifar10_file(), count=1000)
        self.model = pretrained(resnet56, resnet56_file())
        self.problem = self.new_problem()
        generator = torch.Generator().manual_seed(0)
        self.moved = torch.randperm(1000, generator=generator)[:10].tolist()
        slopes = self.problem.risk().select(self.moved).input_gradients()
        inputs = self.data.inputs[self.moved]
        self.unit = scaled(slopes, inputs)
        self.dx = SIZE * self.unit
        self.risk = self.problem.risk().move(self.moved, self.dx)
        self.outputs = self.problem.risk().outputs()
        self.log = log

    def new_problem(self) -> Problem:
        """The trained point with nothing computed."""
        images, labels = self.data.inputs, self.data.labels
        loss = nn.CrossEntropyLoss()
        return Problem(self.model, loss, images, labels, batch_size=BATCH, gradient_tol=1.0)

    def gradient_seconds(self) -> float:
        """Of one full-batch gradient, now."""
        return seconds_of(self.problem.risk().gradient)

    def losses(self, weights: Tensor) -> dict[str, float]:
        """Mean loss on the moved points and on all, and how far the outputs went."""
        outputs = self.risk.at(weights).outputs()
        losses = nn.functional.cross_entropy(outputs, self.data.labels, reduction="none")
        return {
            "moved": float(losses[self.moved].mean()),
            "all": float(losses.mean()),
            "output_change": float((outputs - self.outputs).norm()),
        }

    def row(self, name: str, seconds: float, gradient: float, weights: Tensor) -> dict[str, Any]:
        """A line of the table."""
        result = {"method": name, "gradients": seconds / gradient, **self.losses(weights)}
        self.log(
            f"{name}: {result['gradients']:.2f} gradients, "
            f"moved {result['moved']:.2g}, all {result['all']:.2g}"
        )
        return result


def scaled(directions: Tensor, inputs: Tensor) -> Tensor:
    """Each direction at the length of its input."""
    lengths = inputs.flatten(1).norm(dim=1) / directions.flatten(1).norm(dim=1)
    return directions * lengths.reshape(-1, *[1] * (directions.ndim - 1))


def ours(bench: Bench) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """First direction from nothing, a further one, a sample, and a check of another direction."""
    weights = bench.problem.weights()
    gradient = bench.gradient_seconds()
    problem = bench.new_problem()
    start = time.perf_counter()
    derivative = problem.derivative(points=bench.moved)
    change = derivative(bench.dx).min_norm().value
    first = time.perf_counter() - start
    generator = torch.Generator().manual_seed(1)
    other = scaled(torch.randn(bench.dx.shape, generator=generator), 0.01 * bench.data.inputs[bench.moved])
    derivative(other).min_norm()
    gradient = (gradient + bench.gradient_seconds()) / 2
    further = seconds_of(lambda: derivative(other).min_norm())
    reach = float(change.norm())
    answer = derivative(bench.dx)
    sample = seconds_of(lambda: answer.sample(1, radius=reach, generator=generator))
    check = seconds_of(lambda: derivative.verify(other))
    costs = {
        "gradient_seconds": gradient,
        "first": first / gradient,
        "further": further / gradient,
        "sample": sample / gradient,
        "verify": check / gradient,
        "rows": derivative.rows,
        "peak_gigabytes": peak_gigabytes(),
    }
    if derivative.check is None:
        raise RuntimeError("the first direction was not checked")
    costs["residual"] = derivative.check.residual
    return [bench.row("solset, first direction", first, gradient, weights + change)], costs


def further(bench: Bench) -> list[dict[str, Any]]:
    """What changes of other images cost after the first one, by kind and by what is asked."""
    problem, weights = bench.new_problem(), bench.problem.weights()
    generator = torch.Generator().manual_seed(2)
    points = torch.randperm(1000, generator=generator).tolist()

    def move(i: int) -> Move:
        noise = torch.randn(1, *bench.data.inputs.shape[1:], generator=generator)
        return Move([i], scaled(noise, SIZE * bench.data.inputs[[i]]))

    def weights_after(change: Move | Remove) -> object:
        return problem.estimate(change, verify=False).min_norm()

    def distance(change: Move | Remove) -> object:
        return problem.estimate(change, verify=False).distance(weights)

    gradient = processor_seconds(lambda: problem.risk().gradient())
    first = processor_seconds(lambda: problem.estimate(move(points.pop())).min_norm())
    rows = [{"change": "first move, verified on all rows", "median": first / gradient, "count": 1}]
    for name, kind, ask in (
        ("move, weights", move, weights_after),
        ("move, distance", move, distance),
        ("removal, weights", lambda i: Remove([i]), weights_after),
        ("removal, distance", lambda i: Remove([i]), distance),
    ):
        times, end = [], time.process_time() + FURTHER_SECONDS
        while points and time.process_time() < end:
            change = kind(points.pop())
            times.append(processor_seconds(partial(ask, change)) / gradient)
        rows.append({"change": name, "median": median(times), "count": len(times)})
    print(f"ResNet56, 1000 images, in gradients of {gradient:.2g} s of one processor\n")
    lines = [[str(r["change"]), number(float(r["median"])), str(r["count"])] for r in rows]
    print(table(["one image changes", "median", "changes"], lines) + "\n")
    return rows


def processor_seconds(job: Callable[[], object]) -> float:
    """The time that this process computes, which others on the machine do not lengthen."""
    start = time.process_time()
    job()
    return time.process_time() - start


def warm(bench: Bench) -> list[dict[str, Any]]:
    """Warm retraining, epoch by epoch."""
    rows = []
    methods = {
        "L-BFGS": LBFGS(gradient_tol=0.0, max_gradients=WARM_GRADIENTS),
        "Adam 1e-4": WithOptimizer(lambda ws: torch.optim.Adam(ws, lr=1e-4), WARM_GRADIENTS),
        "SGD 0.01": WithOptimizer(lambda ws: torch.optim.SGD(ws, lr=0.01, momentum=0.9), WARM_GRADIENTS),
    }
    for name, method in methods.items():
        gradient = bench.gradient_seconds()
        start = time.perf_counter()
        retrained = retrain(bench.problem, Move(bench.moved, bench.dx), method=method)
        seconds = time.perf_counter() - start
        each = seconds / retrained.gradients
        shown = [n for n in retrained.course if n <= 3 or n % 4 == 0 or n == max(retrained.course)]
        rows += [bench.row(name, n * each, gradient, retrained.course[n]) for n in shown]
    return rows


def krylov(bench: Bench) -> list[dict[str, Any]]:
    """Least squares on the full Hessian: the paper's way, and a peer's, each stopped early and late."""
    rhs = -(Mixed(bench.problem.risk(), bench.moved) @ bench.dx.flatten())
    hessian = Hessian(bench.problem.risk())

    def solve(steps: int) -> Tensor:
        return LSMR(tol=1e-12, max_steps=steps).solve(hessian, rhs).value

    return [*course(bench, "LSMR on H", hessian, rhs, solve), *peer(bench, rhs)]


def peer(bench: Bench, rhs: Tensor) -> list[dict[str, Any]]:
    """curvlinops: LSMR with its Hessian, for the same number of gradients."""
    images, labels = bench.data.inputs, bench.data.labels
    batches = [(images[i : i + BATCH], labels[i : i + BATCH]) for i in range(0, 1000, BATCH)]
    parameters = list(bench.model.parameters())
    hessian = HessianLinearOperator(
        bench.model, nn.CrossEntropyLoss(), parameters, batches, check_deterministic=False
    )

    def solve(steps: int) -> Tensor:
        inverse = LSMRInverseLinearOperator(hessian, maxiter=steps, atol=0.0, btol=0.0)
        return cast(Tensor, inverse @ rhs)

    return course(bench, "curvlinops LSMR", hessian, rhs, solve)


def course(
    bench: Bench, name: str, hessian: Any, rhs: Tensor, solve: Callable[[int], Tensor]
) -> list[dict[str, Any]]:
    """Where a Krylov method stands at each budget of gradients; a step is two products."""
    each = seconds_of(lambda: hessian @ rhs) / bench.gradient_seconds()
    rows = []
    for budget in KRYLOV_GRADIENTS:
        steps = max(1, int(budget / (2 * each)))
        gradient = bench.gradient_seconds()
        start = time.perf_counter()
        change = solve(steps)
        seconds = time.perf_counter() - start
        rows.append(bench.row(f"{name}, {steps} steps", seconds, gradient, bench.problem.weights() + change))
    return rows


def peak_gigabytes() -> float:
    """Largest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def run(*, small: bool, has_krylov: bool) -> dict[str, Any]:
    """Prints the tables and returns their numbers.

    Args:
        small: Further changes alone.
        has_krylov: Also least squares on the Hessian, 100 gradients for each of two.
    """
    bench = Bench()
    after_first = further(bench)
    if small:
        return {"further": after_first}
    rows, costs = ours(bench)
    print(
        "\n"
        + table(["solset, in gradients of 1000 points", ""], [[k, number(v, 4)] for k, v in costs.items()])
    )
    rows += warm(bench)
    if has_krylov:
        rows += krylov(bench)
    trained = {"method": "trained weights", "gradients": 0.0, **bench.losses(bench.problem.weights())}
    heads = ["1 % step", "gradients", "loss, moved", "loss, all", "output change"]
    lines = [
        [
            r["method"],
            number(r["gradients"]),
            f"{r['moved']:.2g}",
            f"{r['all']:.2g}",
            f"{r['output_change']:.1f}",
        ]
        for r in [trained, *rows]
    ]
    print("\n" + table(heads, lines) + "\n")
    return {"further": after_first, "costs": costs, "rows": [trained, *rows]}
