"""Points that are left out: exactness, real retraining beside it, and the price of one more change.

Four tables. Ridge regression has a formula for every residual left out. Logistic regression with decay on
scikit-learn's breast cancer data is retrained without 100 points, one at a time, and without a tenth of them.
Last, one decomposition serves a thousand changes of a convolutional network with 1,000 points.
"""

import warnings
from statistics import median
from time import process_time
from typing import Any

import torch
from sklearn.datasets import load_digits
from tests.support.logistic import cancer, logistic_minimum
from torch import Tensor, nn

from benchmarks.tables import table
from solset import Move, Problem, Relabel, Remove
from solset.changes import Change
from solset.removal import leave_one_out
from solset.retraining import LBFGS
from solset.risk import EmpiricalRisk
from solset.solvers import Dense

DECAYS = (1e-3, 1e-2, 1e-1, 1.0)


def run() -> dict[str, object]:
    """Prints the tables and returns the numbers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # drifts and kinks are not the subject
        return {"ridge": _ridge(), "logistic": _logistic(), "groups": _groups(), "thousand": _thousand()}


def _ridge() -> dict[str, float]:
    """The largest difference to the formula of the hat matrix, and the number of decompositions."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, 20, dtype=torch.float64, generator=generator)
    y = x.sum(dim=1, keepdim=True) + torch.randn(500, 1, dtype=torch.float64, generator=generator)
    decay, eye = 1e-2, torch.eye(20, dtype=torch.float64)
    model = nn.Linear(20, 1, bias=False, dtype=torch.float64)
    model.weight.data = torch.linalg.solve(2 * x.T @ x / 500 + decay * eye, 2 * x.T @ y / 500).T.contiguous()
    problem = Problem(model, nn.MSELoss(), x, y, weight_decay=decay)
    count, prepare = [0], Dense.prepare
    Dense.prepare = lambda self, operator: (count.append(1), prepare(self, operator))[1]  # type: ignore[method-assign]
    try:
        residuals = leave_one_out(problem).residuals
    finally:
        Dense.prepare = prepare  # type: ignore[method-assign]
    inverse = torch.linalg.inv(x.T @ x + 499 * decay / 2 * eye)
    hats = torch.einsum("ni,ij,nj->n", x, inverse, x)
    expected = (y - x @ inverse @ (x.T @ y)).flatten() / (1 - hats)
    error = float((torch.as_tensor(residuals).flatten() - expected).abs().max())
    print("Ridge regression, 500 points, 20 weights\n")
    print(table(["largest difference to e / (1 - h)", "decompositions"], [[_short(error), str(sum(count))]]))
    return {"error": error, "decompositions": sum(count)}


def _logistic() -> list[dict[str, float]]:
    """Median relative errors of the weight change for 100 points, at several decays."""
    rows, results = [], []
    for decay in DECAYS:
        problem, x, y = cancer(decay)
        errors: dict[str, list[float]] = {"newton": [], "first": [], "classical": []}
        for i in torch.randperm(569, generator=torch.Generator().manual_seed(0))[:100].tolist():
            stays = torch.arange(569) != i
            truth = logistic_minimum(x[stays], y[stays], decay, problem.weights()) - problem.weights()
            one = {
                "newton": problem.estimate(Remove([i])).min_norm().value - problem.weights(),
                "first": problem.estimate(Remove([i]), order="first").min_norm().value - problem.weights(),
                "classical": _classical(problem, i),
            }
            for name, value in one.items():
                errors[name].append(float((value - truth).norm() / truth.norm()))
        middle = {name: median(listed) for name, listed in errors.items()}
        results.append({"decay": decay, **middle})
        ratio = f"{middle['first'] / middle['newton']:.1f}"
        rows.append([_short(decay), *(_short(value) for value in middle.values()), ratio])
    print("\nBreast cancer, 569 points, 31 weights: median relative error of the weight change, 100 points\n")
    head = ["decay", "Newton", "first order", "influence, 1/n kept", "first order / Newton"]
    print(table(head, rows))
    return results


def _classical(problem: Problem, i: int) -> Tensor:
    """The influence function of a point: ``H⁻¹ ∇ℓ_i / n``, with the mean still divided by ``n``."""
    line = problem.derivative(Remove([i]), optimality="stationary").linearisation
    return line.solve(problem.risk().select([i]).gradient()).value


def _groups() -> list[float]:
    """Correlations of predicted and actual changes of the losses of a tenth that is removed at random."""
    problem, x, y = cancer(1e-1)
    loss, correlations = nn.BCEWithLogitsLoss(reduction="none"), []
    for seed in range(20):
        removed = torch.randperm(569, generator=torch.Generator().manual_seed(seed))[:57]
        stays = torch.ones(569, dtype=torch.bool)
        stays[removed] = False
        truth = logistic_minimum(x[stays], y[stays], 1e-1, problem.weights())
        value = problem.estimate(Remove(removed.tolist())).min_norm().value
        start, actual, predicted = (loss(x @ w, y)[removed] for w in (problem.weights(), truth, value))
        changes = torch.stack([actual - start, predicted - start])
        correlations.append(float(torch.corrcoef(changes)[0, 1]))
    print("\nThe same at decay 0.1, 20 removals of 57 points: held-out losses\n")
    low, middle = f"{min(correlations):.6f}", f"{median(correlations):.6f}"
    print(table(["smallest correlation of changes", "median"], [[low, middle]]))
    return correlations


def _thousand() -> dict[str, float]:
    """The price of a further change, in gradients, by the processor's time and by points that are run."""
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images[:1000], dtype=torch.float64).reshape(-1, 1, 8, 8) / 16
    x, y = nn.functional.interpolate(x, scale_factor=4), torch.tensor(labels[:1000] % 2).double().unsqueeze(1)
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 8, 5), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(8, 8, 5), nn.Tanh()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 1)).double()
    options: dict[str, Any] = {"weight_decay": 1e-2, "gradient_tol": float("inf")}
    start = Problem(model, nn.BCEWithLogitsLoss(), x, y, **options)
    problem = start.with_model(LBFGS(1e-6, 30).run(start.risk(), start.risk().outputs).apply_to(model))
    gradient = min(_seconds(problem.risk().gradient) for _ in range(3))

    def answer(change: Change, *, verify: bool = False) -> object:
        return problem.estimate(change, optimality="gauss_newton", order="newton", verify=verify).min_norm()

    first = _seconds(lambda: answer(Remove([0])))
    passes, returned = [0], EmpiricalRisk.returned

    def counted(self: EmpiricalRisk, weights: Any, inputs: Tensor) -> Any:
        passes[0] += len(inputs)
        return returned(self, weights, inputs)

    EmpiricalRisk.returned = counted  # type: ignore[method-assign]
    dx = torch.randn(1, *x.shape[1:], dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    changes = [_change(i, y, 0.1 * dx) for i in range(1000)]
    try:
        times = [_seconds(lambda change=change: answer(change)) for change in changes]
    finally:
        EmpiricalRisk.returned = returned  # type: ignore[method-assign]
    by_count = passes[0] / len(changes) / len(x)
    asked = median(_seconds(lambda change=change: answer(change, verify=True)) for change in changes[:30])
    weights = len(problem.weights())
    print(f"\nA convolutional network, {weights} weights, 1,000 points of 32 x 32 pixels, in gradients\n")
    further, all_further = median(times) / gradient, sum(times) / len(times) / gradient
    rows = [[_short(one) for one in (first / gradient, further, all_further, by_count, asked / gradient)]]
    heads = [
        "the first change",
        "further: median of 1,000",
        "mean",
        "points it runs, of all",
        "verified: median",
    ]
    print(table(heads, rows))
    return {"first": first / gradient, "further": further, "passes": by_count, "verified": asked / gradient}


def _change(i: int, y: Tensor, dx: Tensor) -> Change:
    """One of a thousand changes: a removal, a label that turns over, or a move."""
    return [Remove([i]), Relabel([i], 1 - y[[i]]), Move([i], dx)][i % 3]


def _seconds(job: Any) -> float:
    start = process_time()
    job()
    return process_time() - start


def _short(value: float) -> str:
    return f"{value:.2g}"
