"""Trees of outputs and targets, outputs that are picked, and targets that move with their inputs."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from solset import Move, Problem, SolsetWarning
from support.trees import (
    DECAY,
    INF,
    LABELS,
    TABLE,
    Heads,
    N,
    assert_close,
    dense,
    drawn,
    estimated,
    regressor,
)

pytestmark = pytest.mark.usefixtures("seeded")


def both(outputs, targets):
    kinds, size = targets
    return functional.cross_entropy(outputs["kinds"], kinds) + (outputs["more"][0] - size).square().mean()


@pytest.mark.parametrize("optimality", ["stationary", "gauss_newton"])
def test_trees_of_outputs_and_targets_go_to_the_loss_as_they_are(optimality):
    model, size = Heads().double().eval(), drawn(N, 1, seed=7)
    problem = Problem(model, both, TABLE, (LABELS, size), weight_decay=DECAY, gradient_tol=INF, batch_size=4)
    assert problem.output_count == 4
    dx = 0.1 * drawn(N, 3, seed=8)
    if optimality == "stationary":
        truth = dense(model, lambda x: both(model(x), (LABELS, size)))
        assert_close(estimated(problem, Move(None, dx)), truth(TABLE, dx))
    else:
        assert problem.estimate(Move(None, dx), optimality=optimality).min_norm().status == "converged"


@pytest.mark.parametrize("pick", ["1", 1, "2.kinds"])
def test_an_output_is_picked_by_the_path_that_messages_show(pick):
    class Listed(Heads):
        def forward(self, x):
            returned = super().forward(x)
            return returned["more"], returned["kinds"], returned

    model = Listed().double().eval()
    options = {"parameters": ["body.*", "kinds.*"], "gradient_tol": INF}
    listed = Problem(model, nn.CrossEntropyLoss(), TABLE, LABELS, outputs=pick, **options)
    assert listed.output_count == 3
    with pytest.raises(TypeError, match="outputs='0.0'"):
        Problem(model, nn.CrossEntropyLoss(), TABLE, LABELS, **options)


@pytest.mark.parametrize("pick", ["kinds", lambda returned: returned["kinds"]], ids=["key", "function"])
def test_an_output_is_picked(pick):
    model = Heads().double().eval()
    named = Problem(
        model,
        nn.CrossEntropyLoss(),
        TABLE,
        LABELS,
        outputs=pick,
        parameters=["body.*", "kinds.*"],
        weight_decay=DECAY,
        gradient_tol=INF,
    )
    dx = 0.1 * drawn(N, 3, seed=8)
    names = [name for name, _ in model.named_parameters() if "size" not in name]
    truth = dense(model, lambda x: functional.cross_entropy(model(x)["kinds"], LABELS), names)
    assert_close(estimated(named, Move(None, dx)), truth(TABLE, dx))


class AutoEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.narrow, self.wide = nn.Linear(3, 2), nn.Linear(2, 3)

    def forward(self, x):
        return self.wide(self.narrow(x).tanh())


def test_the_target_of_an_autoencoder_moves_if_asked_and_is_held_with_a_warning():
    model, dx = AutoEncoder().double().eval(), 0.1 * drawn(N, 3, seed=8)
    options = {"weight_decay": DECAY, "gradient_tol": INF, "batch_size": 4}
    moving = Problem(model, nn.MSELoss(), TABLE, TABLE, target_moves=True, **options)
    with pytest.warns(SolsetWarning, match="target_moves=True"):
        held = Problem(model, nn.MSELoss(), TABLE, TABLE, **options)
    assert_close(
        estimated(moving, Move(None, dx)), dense(model, lambda x: functional.mse_loss(model(x), x))(TABLE, dx)
    )
    assert_close(
        estimated(held, Move(None, dx)),
        dense(model, lambda x: functional.mse_loss(model(x), TABLE))(TABLE, dx),
    )
    with pytest.raises(ValueError, match="`target_moves` must be left out"):
        Problem(model, nn.MSELoss(), TABLE, TABLE + 1.0, target_moves=True, **options)


@pytest.mark.filterwarnings("ignore:Using a target size")
def test_outputs_of_one_column_beside_flat_targets_are_refused_by_name():
    for loss in (
        nn.MSELoss(),
        nn.SmoothL1Loss(),
        lambda o, t: (o - t).square().mean(),
        nn.MSELoss(reduction="sum"),
    ):
        with pytest.raises(ValueError, match=r"every pair of points.*unsqueeze"):
            Problem(regressor(), loss, TABLE, torch.ones(N, dtype=torch.float64), gradient_tol=INF)
    with pytest.raises(TypeError, match=r"`loss` must be .*unsqueeze"):
        Problem(
            regressor(), nn.BCEWithLogitsLoss(), TABLE, torch.ones(N, dtype=torch.float64), gradient_tol=INF
        )


def test_a_loss_that_squeezes_its_outputs_itself_is_taken():
    loss = lambda o, t: functional.mse_loss(o.squeeze(-1), t)  # noqa: E731
    targets = drawn(N, seed=4)
    squeezed = Problem(regressor(), loss, TABLE, targets, gradient_tol=INF)
    assert squeezed.output_count == 1
