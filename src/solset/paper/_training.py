"""Training a network to an exact fit, so that it sits on its solution set."""

import torch
from torch import Tensor, nn
from tqdm import tqdm

from solset.changes import Change
from solset.operators import Jacobian
from solset.problem import Problem
from solset.retraining import Method, Retrained
from solset.risk import EmpiricalRisk, Points, as_points, choose_parameters


def squared_risk(model: nn.Module, inputs: Tensor, targets: Tensor) -> EmpiricalRisk:
    """The mean squared error of a model on data, as a risk at its present weights."""
    layout = choose_parameters(model, None)
    weights = layout.join([value.detach() for value in model.parameters()])
    points: Points = as_points(inputs, targets, weights.device)
    return EmpiricalRisk(model, nn.MSELoss(), "mean", points, layout, weights, 0.0, len(inputs), len(inputs))


def retrained_within(problem: Problem, change: Change, method: Method) -> Retrained:
    """Where training ends within the budget of its method, which is meant to cut it short.

    :func:`solset.retrain` warns of such an end; a page that states the budget, or how it ended, need not.
    """
    return method.run(change.applied_to(problem.risk()), lambda: change.outputs_after(problem.risk()))


def fit_exactly(model: nn.Module, inputs: Tensor, targets: Tensor, *, progress: bool = False) -> float:
    """Train in place to ``max |f(x_i) - y_i| ≤ 1e-13``: Adam, then Levenberg–Marquardt onto the set."""
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in tqdm(range(300), desc="training", disable=not progress, leave=False):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(inputs), targets).backward()
        optimizer.step()
    optimizer.zero_grad()
    risk, error, damping = squared_risk(model, inputs, targets), 1.0, 1e-3
    for _ in tqdm(range(60), desc="fitting", disable=not progress, leave=False):
        risk, error, damping = _damped_step(risk, targets, damping)
        if error <= 1e-13:
            break
    nn.utils.vector_to_parameters(risk.weights, model.parameters())
    return error


def _damped_step(risk: EmpiricalRisk, targets: Tensor, damping: float) -> tuple[EmpiricalRisk, float, float]:
    """One Levenberg–Marquardt step through the Gram matrix, with the damping that made it succeed."""
    residual = (risk.outputs() - targets).flatten()
    before = float(residual.norm())
    operator = Jacobian(risk, memory_budget=0)
    rows = operator.rows(0, operator.shape[0])
    square = rows @ rows.T
    scale = float(square.diagonal().mean())
    for _ in range(20):
        shifted = square + damping * scale * torch.eye(len(square), dtype=square.dtype)
        step = rows.T @ torch.linalg.solve(shifted, residual)
        new = risk.at(risk.weights - step)
        errors = new.outputs() - targets
        if float(errors.norm()) < before:
            return new, float(errors.abs().max()), damping / 10
        damping = max(10 * damping, 1e-15)
    return risk, float(residual.abs().max()), damping
