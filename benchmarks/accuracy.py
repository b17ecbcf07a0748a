"""How exact operators, solvers and first-order estimates are, against dense autograd and retraining."""

from collections.abc import Callable
from typing import cast

import torch
from curvlinops import HessianLinearOperator
from torch import Tensor, nn
from torch.func import functional_call

from benchmarks.tables import table
from solset import Move, Problem, retrain
from solset.linalg import DenseOperator, LinearOperator, NormalOperator
from solset.operators import GaussNewton, Hessian, Jacobian, Mixed
from solset.retraining import Newton
from solset.risk import EmpiricalRisk
from solset.solvers import CG, LSMR, MINRES, Dense, Dual, LiSSA
from solset.testing import adjoint_gap, log_slope, optimality_errors


def seeded() -> torch.Generator:
    """A generator with the seed of every table."""
    return torch.Generator().manual_seed(0)


def draw(*shape: int, generator: torch.Generator) -> Tensor:
    """Standard normal float64 numbers."""
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def networks() -> dict[str, tuple[nn.Module, Tensor, Tensor]]:
    """An MLP, a convolutional net with BatchNorm in evaluation mode, and a GELU net, with data."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        mlp = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 3))
        norm = nn.BatchNorm2d(4)
        conv = nn.Sequential(nn.Conv2d(2, 4, 3), norm, nn.ReLU(), nn.Flatten(), nn.Linear(36, 3))
        gelu = nn.Sequential(nn.Linear(6, 9), nn.GELU(), nn.Linear(9, 3))
        nn.init.normal_(norm.get_buffer("running_mean"))
        nn.init.uniform_(norm.get_buffer("running_var"), 0.5, 2.0)
    generator = seeded()
    labels = torch.randint(0, 3, (7,), generator=generator)
    flat, images = draw(7, 6, generator=generator), draw(7, 2, 5, 5, generator=generator)
    networks = {"MLP": (mlp, flat), "conv + BatchNorm": (conv, images), "GELU": (gelu, flat)}
    return {name: (model.double().eval(), inputs, labels) for name, (model, inputs) in networks.items()}


def dense_derivatives(risk: EmpiricalRisk, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """``H``, ``B``, ``J`` and the Gauss–Newton matrix of the mean cross-entropy by dense autograd."""

    def outputs(x: Tensor, w: Tensor) -> Tensor:
        state = dict(zip(risk.layout.shapes, risk.layout.split(w), strict=True))
        return functional_call(risk.model, state, (x,))

    def value(x: Tensor, w: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs(x, w), labels)

    w = risk.weights
    H = cast(Tensor, torch.autograd.functional.hessian(lambda v: value(inputs, v), w))

    def gradient(x: Tensor) -> Tensor:
        slope = torch.autograd.functional.jacobian(lambda v: value(x, v), w, create_graph=True)
        return cast(Tensor, slope)

    B = torch.autograd.functional.jacobian(gradient, inputs).reshape(len(w), -1)
    J = torch.autograd.functional.jacobian(lambda v: outputs(inputs, v), w).reshape(-1, len(w))
    p = outputs(inputs, w).softmax(1).detach()
    blocks = (torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)) / len(inputs)
    return {"H": H, "B": B, "J": J, "Gauss-Newton": J.T @ torch.block_diag(*blocks) @ J}


def relative(value: Tensor, truth: Tensor) -> float:
    """Relative error in the Frobenius norm."""
    return float((value - truth).norm() / truth.norm())


def operator_errors() -> list[dict[str, object]]:
    """Relative errors of the operators against dense autograd, of H against curvlinops, and adjoint gaps."""
    results: list[dict[str, object]] = []
    for name, (model, inputs, labels) in networks().items():
        loss = nn.CrossEntropyLoss()
        risk = Problem(model, loss, inputs, labels, batch_size=3, gradient_tol=float("inf")).risk()
        truth = dense_derivatives(risk, inputs, labels)
        operators: dict[str, LinearOperator] = {
            "H": Hessian(risk),
            "B": Mixed(risk, range(len(inputs))),
            "J": Jacobian(risk),
            "Gauss-Newton": GaussNewton(risk),
        }
        row: dict[str, object] = {"network": name}
        for key, operator in operators.items():
            columns = torch.eye(operator.shape[1], dtype=torch.float64)
            row[key] = relative(operator @ columns, truth[key])
        B = operators["B"]
        row["B transposed"] = relative(B.T @ torch.eye(B.shape[0], dtype=torch.float64), truth["B"].T)
        peer = HessianLinearOperator(
            model, loss, list(model.parameters()), [(inputs, labels)], check_deterministic=False
        )
        row["H, curvlinops"] = relative(
            operators["H"].to_dense(), cast(Tensor, peer @ torch.eye(len(risk.weights)).double())
        )
        row["adjoint gap"] = max(adjoint_gap(o, generator=seeded()) for o in operators.values())
        results.append(row)
    return results


def solver_errors() -> list[dict[str, object]]:
    """Distance to the pseudo-inverse on a consistent singular system; verdict on an inconsistent one."""
    generator = seeded()
    rows = DenseOperator(draw(8, 12, generator=generator))
    square = NormalOperator(rows)
    inverse = torch.linalg.pinv(square.to_dense())
    inside = square @ draw(12, generator=generator)
    outside = inside + torch.linalg.svd(rows.matrix).Vh[-1] * inside.norm()
    expected = float((square.to_dense() @ (inverse @ outside) - outside).norm() / outside.norm())
    solvers = (Dense(), Dual(), LSMR(), MINRES(), CG(tol=1e-11), LiSSA(tol=1e-11, max_steps=20_000))
    results: list[dict[str, object]] = []
    for solver in solvers:
        good, bad = solver.solve(square, inside), solver.solve(square, outside)
        results.append(
            {
                "solver": type(solver).__name__,
                "error": relative(good.value, inverse @ inside),
                "status": good.status.value,
                "status without solution": bad.status.value,
                "residual": bad.residual,
                "true residual": expected,
            }
        )
    return results


def logistic() -> tuple[Problem, Tensor]:
    """Regularised logistic regression at its isolated minimum, and a perturbation of three points."""
    generator = seeded()
    inputs = draw(60, 5, generator=generator)
    labels = (inputs[:, 0] + 0.5 * draw(60, generator=generator) > 0).long()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Linear(5, 2).double().eval()
    problem = Problem(
        model, nn.CrossEntropyLoss(), inputs, labels, weight_decay=1e-2, gradient_tol=float("inf")
    )
    end = retrain(problem, Move(None, torch.zeros_like(inputs)), method=Newton(gradient_tol=1e-13))
    nn.utils.vector_to_parameters(end.weights, model.parameters())
    settled = Problem(model, nn.CrossEntropyLoss(), inputs, labels, weight_decay=1e-2)
    return settled, draw(3, 5, generator=generator)


def first_order() -> list[dict[str, object]]:
    """The isolated minimum: estimate against ``-H⁻¹BΔx`` and against retraining, and the Taylor slope."""
    problem, dx = logistic()
    points = [0, 1, 2]
    change = problem.derivative(points=points)(dx).min_norm().value
    B = Mixed(problem.risk(), points).to_dense()
    exact = -torch.linalg.solve(Hessian(problem.risk()).to_dense(), B @ dx.flatten())
    scales = (4e-2, 2e-2, 1e-2)
    errors = optimality_errors(problem, dx, change, points=points, scales=scales)
    truth = []
    for t in scales:
        end = retrain(problem, Move(points, t * dx), method=Newton(gradient_tol=1e-10))
        truth.append(float((t * change - end.change).norm() / end.change.norm()))
    return [
        {"figure": "gradient norm at the minimum", "value": float(problem.gradient().norm())},
        {"figure": "relative distance to -H^-1 B dx", "value": relative(change, exact)},
        {"figure": "slope of the optimality error along t", "value": log_slope(scales, errors)},
        *(
            {"figure": f"error against retraining, t = {t:g}", "value": e}
            for t, e in zip(scales, truth, strict=True)
        ),
        {"figure": "slope of that error", "value": log_slope(scales, truth)},
    ]


TABLES: dict[str, Callable[[], list[dict[str, object]]]] = {
    "Relative errors against dense autograd, float64": operator_errors,
    "Solvers on a singular 12 x 12 system of rank 8": solver_errors,
    "Regularised logistic regression, an isolated minimum": first_order,
}


def run() -> dict[str, list[dict[str, object]]]:
    """Prints every table and returns its rows."""
    results = {}
    for title, measure in TABLES.items():
        rows = results[title] = measure()
        print(title)
        print(table(list(rows[0]), [[_text(value) for value in row.values()] for row in rows]), "\n")
    return results


def _text(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
