r"""A network fitted exactly to 100 handwritten digits: which of them move it most?

    solset audit examples/fitted_digits.py:problem --validation held_out --out runs/fitted_digits

Open ``runs/fitted_digits/report.html``. The network keeps all its outputs while one digit moves a little; how
far its weights must go for that, per unit of the move, is the digit's Lipschitz modulus.

Where does the solution go when three digits move far?

    solset path examples/fitted_digits.py:problem --points 0,3,7 --direction random --size 2%,10% \
        --out runs/fitted_digits_path
"""

import torch
from torch import Tensor, nn

import solset
from solset.paper import digits
from solset.paper._training import fit_exactly
from solset.zoo import DFCNN


def problem() -> solset.Problem:
    """A tanh network of 5,392 weights, squared loss of one-hot targets, fitted to rounding."""
    train = digits().part(0, 100)
    generator = torch.Generator().manual_seed(0)
    model = DFCNN([64, 48, 40, 10], activation=torch.tanh, generator=generator).eval()
    fit_exactly(model, train.inputs, train.one_hot())
    return solset.Problem(model, nn.MSELoss(), train.inputs, train.one_hot())


def held_out() -> tuple[Tensor, Tensor]:
    """500 digits that the network has not seen."""
    test = digits().part(1000, 1500)
    return test.inputs, test.one_hot()
