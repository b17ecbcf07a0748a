r"""Poisoning a logistic regression on handwritten digits: which pixels of three digits would hurt it most?

Weight decay makes the solution isolated, so that retraining ends at the same weights from wherever it starts:
what the model predicts can be checked to the last digit, from the trained weights and from scratch.

Let training digits 0, 3 and 7 move by at most 1.0 each (their norms are between 3 and 4), within valid
pixels, so that the loss on 500 unseen digits grows; compare with three random perturbations as large:

    solset poison examples/poison_logistic.py:attack --points 0,3,7 --radius 1.0 --lower 0 --upper 1 \
        --training 0 --rounds 6 --random 3 --from-scratch 1 --image 8x8 --out runs/poison_logistic

Open ``runs/poison_logistic/report.html``. It also ranks all training digits by how much each could do: the
ones to guard.
"""

import torch
from logistic_regression import WEIGHT_DECAY, data, minimise
from sklearn.datasets import load_digits
from torch import Tensor, nn

import solset


def train(inputs: Tensor, labels: Tensor, seed: int) -> nn.Module:
    """Training from scratch: random initial weights, then L-BFGS to the end."""
    generator = torch.Generator().manual_seed(seed)
    model = nn.Linear(64, 10, dtype=torch.float64)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    minimise(model, inputs, labels)
    return model.eval()


def attack() -> tuple[solset.Problem, solset.goals.HeldOutLoss, object]:
    """The trained point, the goal, and how to train; ``solset poison`` calls this."""
    inputs, labels = data(200)
    problem = solset.Problem(
        train(inputs, labels, seed=0), nn.CrossEntropyLoss(), inputs, labels, weight_decay=WEIGHT_DECAY
    )
    images, unseen = load_digits(return_X_y=True)
    goal = solset.goals.HeldOutLoss(
        torch.from_numpy(images[1000:1500] / 16.0), torch.from_numpy(unseen[1000:1500])
    )
    return problem, goal, train
