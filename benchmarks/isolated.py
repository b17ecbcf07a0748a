"""Accuracy against cost on the isolated digits problem, where real retraining is known to all digits.

The weight change that each method predicts is compared with the true one, ``‖v - Δw‖ / ‖Δw‖``, for five step
sizes. A linear prediction is solved once and scaled; retraining is run for each step.
"""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import scipy.sparse.linalg
import torch
from tests.support.reference import IsolatedDigits, isolated_digits
from torch import Tensor, nn

from benchmarks.tables import number, table
from benchmarks.timing import seconds_of
from solset import Move, Problem, retrain
from solset.linalg import Counted
from solset.operators import GaussNewtonInverse, Hessian, Mixed
from solset.retraining import LBFGS
from solset.solvers import CG, LSMR, MINRES, FirstToConverge, LiSSA

BUDGET = 2 * 2**30
RETRAINING_STEPS = 200

Solve = Callable[[Counted, Tensor], tuple[Tensor, str]]


@dataclass(frozen=True)
class Method:
    """A linear solver by the name it has in the table, and the precision of network and products."""

    name: str
    solve: Solve
    dtype: torch.dtype = torch.float64


def problem_of(data: IsolatedDigits, dtype: torch.dtype = torch.float64) -> Problem:
    """The trained point of the reference file."""
    model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10)).to(dtype).eval()
    nn.utils.vector_to_parameters(data.weights.to(dtype), model.parameters())
    inputs, labels = data.data.inputs.to(dtype), data.data.labels
    return Problem(model, nn.CrossEntropyLoss(), inputs, labels, weight_decay=data.weight_decay)


def solved_by(solver: CG | LSMR | MINRES | LiSSA | FirstToConverge) -> Solve:
    """A solver of the library, asked for the value and the status."""

    def solve(operator: Counted, rhs: Tensor) -> tuple[Tensor, str]:
        solution = solver.solve(operator, rhs)
        return solution.value, str(solution.status.value)

    return solve


def as_scipy(operator: Counted) -> scipy.sparse.linalg.LinearOperator:
    """A symmetric operator for SciPy, whose vectors are in float64 whatever the precision of the products."""

    def product(vector: np.ndarray) -> np.ndarray:
        return (operator @ torch.from_numpy(vector.ravel()).to(operator.dtype)).double().numpy()

    made_by_products: Any = scipy.sparse.linalg.LinearOperator  # whose arguments depend on the first one
    return made_by_products(operator.shape, product, rmatvec=product, dtype=np.float64)


def scipy_minres(operator: Counted, rhs: Tensor) -> tuple[Tensor, str]:
    """SciPy's MINRES with its own stopping test, which compares with ``‖A‖‖v‖`` and not with ``‖b‖``."""
    value, flag = scipy.sparse.linalg.minres(as_scipy(operator), rhs.double().numpy(), rtol=1e-6)
    return torch.from_numpy(value).to(rhs), "converged" if flag == 0 else "max_steps"


def scipy_lsmr(steps: int) -> Solve:
    """SciPy's LSMR for so many steps."""

    def solve(operator: Counted, rhs: Tensor) -> tuple[Tensor, str]:
        answer = scipy.sparse.linalg.lsmr(
            as_scipy(operator), rhs.double().numpy(), atol=0.0, btol=0.0, conlim=0.0, maxiter=steps
        )
        return torch.from_numpy(answer[0]).to(rhs), "max_steps"

    return solve


def methods(problem: Problem) -> list[Method]:
    """The routes to compare; the first two share one factor, paid by the first."""
    inverse = GaussNewtonInverse(problem.risk(), memory_budget=BUDGET)
    default = solved_by(FirstToConverge((CG(preconditioner=inverse), MINRES())))
    return [
        Method("CG preconditioned, factor included", default),
        Method("CG preconditioned, a further direction", default),
        Method("CG plain, tol 1e-8", solved_by(CG())),
        Method("MINRES, tol 1e-8", solved_by(MINRES())),
        Method("SciPy's MINRES, rtol 1e-6", scipy_minres),
        Method("SciPy's MINRES, rtol 1e-6, float32", scipy_minres, torch.float32),
        Method("LSMR on H, 300 steps", solved_by(LSMR(max_steps=300))),
        Method("LSMR on H, 1500 steps", solved_by(LSMR(max_steps=1500))),
        Method("SciPy's LSMR on H, 300 steps, float32", scipy_lsmr(300), torch.float32),
        Method("SciPy's LSMR on H, 1500 steps, float32", scipy_lsmr(1500), torch.float32),
        Method("CG, damping 1e-3", solved_by(CG(damping=1e-3))),
        Method("LiSSA, scale 10, damping 0.01, depth 5000", solved_by(LiSSA(scale=10.0, damping=0.01))),
    ]


def linear(method: Method, data: IsolatedDigits) -> dict[str, Any]:
    """Errors of one linear solve, scaled to each step, with its products and its time in gradients."""
    risk = problem_of(data, method.dtype).risk()
    hessian = Hessian(risk, memory_budget=BUDGET)
    unit = data.dx(1.0).to(method.dtype)
    rhs = -(Mixed(risk, data.points) @ unit.flatten())
    _ = hessian @ rhs  # builds the graph, which all solvers share alike
    operator = Counted(hessian)
    gradients = [seconds_of(risk.gradient) for _ in range(10)]
    start = perf_counter()
    value, status = method.solve(operator, rhs)
    elapsed = perf_counter() - start
    gradients += [seconds_of(risk.gradient) for _ in range(10)]
    return {
        "name": method.name,
        "status": status,
        "residual": float((hessian @ value - rhs).norm() / rhs.norm()),
        "products": operator.products,
        "time_in_gradients": elapsed / median(gradients),
        "errors": [
            error(step * value, truth) for step, truth in zip(data.steps, data.retrained_change, strict=True)
        ],
    }


def warm(problem: Problem, data: IsolatedDigits) -> dict[str, Any]:
    """Errors of real retraining from the trained weights after 200 steps of L-BFGS."""
    risk, errors, counts, ratios = problem.risk(), [], [], []
    for step, truth in zip(data.steps, data.retrained_change, strict=True):
        gradients = [seconds_of(risk.gradient) for _ in range(10)]
        method = LBFGS(gradient_tol=0.0, max_gradients=4 * RETRAINING_STEPS)
        start = perf_counter()
        retrained = retrain(problem, Move(data.points, data.dx(step)), method=method)
        elapsed = perf_counter() - start
        gradients += [seconds_of(risk.gradient) for _ in range(10)]
        count = sorted(retrained.course)[:RETRAINING_STEPS][-1]
        errors.append(error(retrained.course[count] - problem.weights(), truth))
        counts.append(count)
        ratios.append(elapsed * count / retrained.gradients / median(gradients))
    return {
        "name": f"warm retraining, {RETRAINING_STEPS} steps of L-BFGS",
        "status": "",
        "residual": None,
        "products": f"{min(counts)}-{max(counts)} gradients",
        "time_in_gradients": median(ratios),
        "errors": errors,
    }


def error(value: Tensor, truth: Tensor) -> float:
    """Relative error in the 2-norm."""
    return float((value - truth).norm() / truth.norm())


def show(results: list[dict[str, Any]], data: IsolatedDigits) -> str:
    """The table."""
    heads = ["method", *(f"{100 * step:g} %" for step in data.steps)]
    rows = [
        [
            result["name"],
            *(number(value, 3) for value in result["errors"]),
            str(result["products"]),
            number(result["time_in_gradients"], 0),
            "-" if result["residual"] is None else f"{result['residual']:.0e}",
            result["status"],
        ]
        for result in results
    ]
    return table([*heads, "products", "time/gradient", "residual", "status"], rows)


def run() -> list[dict[str, Any]]:
    """Every method, printed as one table; nothing without the reference file."""
    try:
        data = isolated_digits()
    except FileNotFoundError as missing:
        print(f"isolated digits left out: {missing}")
        return []
    problem = problem_of(data)
    results = [linear(method, data) for method in methods(problem)]
    results.append(warm(problem, data))
    gradient = median(seconds_of(problem.risk().gradient) for _ in range(50))
    print(f"isolated digits, 2410 weights, 1000 points, float64, one gradient {1e3 * gradient:.1f} ms")
    print("relative error of the predicted weight change at each step; time in gradients of the same moment")
    print(show(results, data), flush=True)
    return results
