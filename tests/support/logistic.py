"""Logistic regression with weight decay on scikit-learn's breast cancer data, trained to rounding."""

from typing import Any

import torch
from sklearn.datasets import load_breast_cancer
from torch import Tensor, nn

from solset import Problem


def logistic_minimum(x: Tensor, y: Tensor, decay: float, weights: Tensor) -> Tensor:
    """The minimum of logistic regression with decay, by Newton's method in dense algebra."""
    for _ in range(100):
        chance = torch.sigmoid(x @ weights)
        slope = x.T @ (chance - y) / len(y) + decay * weights
        curved = (x.T * (chance * (1 - chance) / len(y))) @ x + decay * torch.eye(x.shape[1], dtype=x.dtype)
        step = torch.linalg.solve(curved, slope)
        weights = weights - step
        if float(step.norm()) < 1e-13:
            break
    return weights


def cancer(decay: float) -> tuple[Problem, Tensor, Tensor]:
    """The trained problem, with its 569 standardised inputs (and a constant), and its labels."""
    bunch: Any = load_breast_cancer()
    x = torch.tensor(bunch.data, dtype=torch.float64)
    x = torch.cat([(x - x.mean(dim=0)) / x.std(dim=0), torch.ones(len(x), 1, dtype=torch.float64)], dim=1)
    y = torch.tensor(bunch.target, dtype=torch.float64)
    model = nn.Linear(31, 1, bias=False, dtype=torch.float64)
    model.weight.data = logistic_minimum(x, y, decay, torch.zeros(31, dtype=torch.float64))[None]
    return Problem(model, nn.BCEWithLogitsLoss(), x, y.unsqueeze(1), weight_decay=decay), x, y
