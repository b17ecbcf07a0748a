r"""Regularised logistic regression on handwritten digits: a problem with one isolated solution.

Weight decay makes the risk strictly convex, so the solution set is a single point before and after the data
moves, and the graphical derivative is the classical derivative ``-H⁻¹BΔx``. The weights are first brought to
a gradient norm of at most 1e-8: an estimate starts from the solution set, so they had better lie on it.

Move training points 0, 3 and 7 by 1 % of their norms along the gradient of their own losses, and estimate:

    solset run examples/logistic_regression.py:problem --points 0,3,7 --direction gradient --size 1% \
        --out runs/logistic_regression

Open ``runs/logistic_regression/report.html``. The step is in pixel units after the division by 16 below.
"""

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import solset

WEIGHT_DECAY = 1e-3


def data(count: int = 500) -> tuple[Tensor, Tensor]:
    """The first digits, 64 pixels each in [0, 1], and their labels."""
    images, labels = load_digits(return_X_y=True)
    return torch.from_numpy(images[:count] / 16.0), torch.from_numpy(labels[:count])


def minimise(model: nn.Module, inputs: Tensor, labels: Tensor) -> None:
    """L-BFGS on the risk itself, weight decay included, to the end."""
    parameters = list(model.parameters())
    optimizer = torch.optim.LBFGS(
        parameters,
        max_iter=2000,
        history_size=50,
        tolerance_grad=1e-10,  # largest entry of the gradient
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )

    def risk() -> Tensor:
        optimizer.zero_grad()
        decay = sum((parameter.square().sum() for parameter in parameters), torch.zeros(()))
        value = nn.functional.cross_entropy(model(inputs), labels) + WEIGHT_DECAY / 2 * decay
        value.backward()
        return value

    optimizer.step(risk)
    optimizer.zero_grad()


def problem() -> solset.Problem:
    """The trained point; ``solset run`` calls this."""
    inputs, labels = data()
    model = nn.Linear(64, 10, dtype=torch.float64)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    minimise(model, inputs, labels)
    model.eval()
    return solset.Problem(model, nn.CrossEntropyLoss(), inputs, labels, weight_decay=WEIGHT_DECAY)
