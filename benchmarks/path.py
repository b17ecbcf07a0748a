"""Error against cost at large perturbations: the path beside warm retraining, on the isolated digits.

Both start at the trained weights and are compared with the true weight change at each step. Cost is counted
in gradients (a Hessian product is two, the Gauss-Newton factor fifteen) and timed in the
same run, in float64.
"""

from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from tests.support.reference import IsolatedDigits, isolated_digits
from torch import Tensor

from benchmarks.isolated import error, problem_of
from benchmarks.tables import number, table
from benchmarks.timing import seconds_of
from solset import Move, follow_path, retrain
from solset.plotting import error_against_cost, figure_bytes
from solset.retraining import LBFGS

SIZES = (0.01, 0.02, 0.05)
TOLS = (0.3, 0.1, 0.03, 0.01, 0.001)
MAX_GRADIENTS = 3000
GOALS = (0.05, 0.01)  # relative errors that costs are compared at


def followed(data: IsolatedDigits, size: float, truth: Tensor) -> list[dict[str, float]]:
    """Cost and error of the path for each tolerance, each from nothing: the factor is paid every time."""
    rows = []
    for tol in TOLS:
        problem = problem_of(data)
        gradient = median(seconds_of(problem.risk().gradient) for _ in range(10))
        start = perf_counter()
        course = follow_path(problem, Move(data.points, data.dx(size)), max_error=tol, progress=False)
        elapsed = perf_counter() - start
        rows.append(
            {
                "tol": tol,
                "gradients": course.end.gradients,
                "time": elapsed / gradient,
                "error": error(course.change, truth),
            }
        )
    return rows


def retrained(data: IsolatedDigits, size: float, truth: Tensor) -> list[dict[str, float]]:
    """Cost and error of L-BFGS from the trained weights at every step it took."""
    problem = problem_of(data)
    gradient = median(seconds_of(problem.risk().gradient) for _ in range(10))
    method = LBFGS(gradient_tol=0.0, max_gradients=MAX_GRADIENTS)
    start = perf_counter()
    retrained = retrain(problem, Move(data.points, data.dx(size)), method=method)
    each = (perf_counter() - start) / retrained.gradients / gradient
    return [
        {"gradients": count, "time": count * each, "error": error(weights - problem.weights(), truth)}
        for count, weights in retrained.course.items()
    ]


def cost_of(rows: list[dict[str, float]], goal: float, unit: str) -> float | None:
    """What it costs to get to this error and stay there."""
    good: float | None = None
    for row in reversed(rows):
        if row["error"] > goal:
            break
        good = row[unit]
    return good


def show(results: list[dict[str, Any]]) -> str:
    """Costs at each goal, by count and by time."""
    heads = ["step, error", *(f"{n}, {u}" for u in ("by count", "by time") for n in ("path", "L-BFGS"))]
    lines = []
    for result in results:
        for goal in GOALS:
            costs = [
                cost_of(result[name], goal, unit)
                for unit in ("gradients", "time")
                for name in ("path", "warm retraining")
            ]
            lines.append([f"{100 * result['size']:g} %, {goal:g}", *(number(cost, 0) for cost in costs)])
    return table(heads, lines)


def run(figure: Path | None = None) -> list[dict[str, Any]]:
    """Both methods at every size, printed; nothing without the reference file.

    Args:
        figure: PNG file for a picture of the curves.
    """
    try:
        data = isolated_digits()
    except FileNotFoundError as missing:
        print(f"path left out: {missing}")
        return []
    results = []
    for size in SIZES:
        truth = data.retrained_change[data.steps.index(size)]
        path, warm = followed(data, size, truth), retrained(data, size, truth)
        results.append({"size": size, "path": path, "warm retraining": warm})
        curve = ", ".join(f"{row['gradients']:.0f}: {row['error']:.2g}" for row in path)
        shown = [row for row in warm if row["gradients"] >= 20][:: max(len(warm) // 12, 1)]
        other = ", ".join(f"{row['gradients']:.0f}: {row['error']:.2g}" for row in shown)
        print(
            f"step {100 * size:g} %, gradients: relative error\n  path    {curve}\n  L-BFGS  {other}",
            flush=True,
        )
    print("\ncost to get to an error of the weight change and stay below it, in gradients\n" + show(results))
    if figure is not None:
        curves = {
            f"{label} {100 * result['size']:g} %": (
                [row["gradients"] for row in result[name]],
                [row["error"] for row in result[name]],
            )
            for result in results
            for label, name in (("path", "path"), ("L-BFGS", "warm retraining"))
        }
        figure.write_bytes(figure_bytes(error_against_cost(curves), "png"))
        print(f"figure: {figure}")
    return results
