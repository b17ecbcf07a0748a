"""Points, directions and optimality maps that make no sense are refused before anything is computed."""

import pytest
import torch
from torch import nn

from solset import Move
from solset.linalg import LinearOperator
from solset.solvers import LSMR, MINRES, Prepared, Solver
from solset.solvers.filters import RankCut

N, D, C = 12, 3, 2
NAN, INF = float("nan"), float("inf")


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


POINTS = (
    ("out of range", lambda m: m.derivative(points=[0, N]), ValueError, "points | [12] | from 0"),
    ("negative", lambda m: m.derivative(points=[-1]), ValueError, "points | [-1] | from 0"),
    ("repeated", lambda m: m.derivative(points=[3, 1, 3]), ValueError, "points | [3] repeated | once"),
    ("empty", lambda m: m.derivative(points=[]), ValueError, "points | none | Leave it out"),
    ("boolean mask", lambda m: m.derivative(points=[True, False]), TypeError, "points | True | by index"),
    ("boolean tensor", lambda m: m.derivative(points=m.LABELS == 1), TypeError, "points | False | by index"),
    ("floats", lambda m: m.derivative(points=[1.0, 2.0]), TypeError, "points | 1.0 | by index"),
    (
        "float tensor",
        lambda m: m.derivative(points=torch.tensor([1.0])),
        TypeError,
        "points | 1.0 | by index",
    ),
    ("one integer", lambda m: m.derivative(points=3), TypeError, "points | 3 | Write"),
    ("a word", lambda m: m.derivative(points="all"), TypeError, "points | all | Write"),
)

DIRECTIONS = (
    (
        "dx of another shape",
        lambda m: m.estimate(Move([0, 1], draw(2, D + 1))),
        ValueError,
        "dx | (2, 4) | One block per point",
    ),
    (
        "dx of too many points",
        lambda m: m.estimate(Move([0, 1], draw(N, D))),
        ValueError,
        "dx | (12, 3) | One block per point",
    ),
    (
        "dx is transposed",
        lambda m: m.estimate(Move([0, 1], draw(D, 2))),
        ValueError,
        "dx | (3, 2) | One block per point",
    ),
    ("dx is a list", lambda m: m.estimate(Move([0], [[0.0] * D])), TypeError, "dx | list | as_tensor"),
    (
        "dx of another dtype",
        lambda m: m.estimate(Move([0], draw(1, D).float())),
        ValueError,
        "dx | float32 | dx.to",
    ),
    (
        "dx elsewhere",
        lambda m: m.estimate(Move([0], draw(1, D).to("meta"))),
        ValueError,
        "dx | meta | dx.to",
    ),
    (
        "dx with NaN",
        lambda m: m.estimate(Move([0], m.spoiled(draw(1, D), NAN, 0, 0))),
        ValueError,
        "dx | NaN | Find their source",
    ),
    (
        "dx infinite",
        lambda m: m.estimate(Move([0], m.spoiled(draw(1, D), INF, 0, 0))),
        ValueError,
        "dx | infinite | Find their source",
    ),
    (
        "risk moved by a flat dx",
        lambda m: m.problem().risk().move([0, 1], draw(2 * D)),
        ValueError,
        "dx | (6,) | shaped like",
    ),
    (
        "risk moved at a repeated point",
        lambda m: m.problem().risk().move([1, 1], draw(2, D)),
        ValueError,
        "points | repeated | once",
    ),
    (
        "risk moved at a negative point",
        lambda m: m.problem().risk().move([-1], draw(1, D)),
        ValueError,
        "points | -1 | from 0",
    ),
    (
        "risk of a point out of range",
        lambda m: m.problem().risk().select([N]),
        ValueError,
        "points | 12 | from 0",
    ),
    (
        "weight direction of another shape",
        lambda m: m.problem().coderivative()(draw(D)),
        ValueError,
        "q | (3,) | shape",
    ),
)

MAPS = (
    (
        "unknown optimality",
        lambda m: m.derivative(optimality="newton"),
        ValueError,
        "optimality | 'newton' | Leave it out",
    ),
    (
        "interpolating, not fitted",
        lambda m: m.derivative(optimality="interpolating"),
        ValueError,
        "optimality | not fitted | stationary",
    ),
    (
        "interpolating under weight decay",
        lambda m: m.problem(weight_decay=0.1).derivative(optimality="interpolating"),
        ValueError,
        "optimality | weight decay 0.1 | stationary",
    ),
    (
        "rank cut without a spectrum",
        lambda m: m.estimate(Move(None, draw(N, D)), solver=MINRES()).element(RankCut(1e-06)),
        ValueError,
        "filter | RankCut | Dense or Dual",
    ),
    (
        "dimension without a spectrum",
        lambda m: m.estimate(Move(None, draw(N, D)), solver=LSMR()).dimension,
        ValueError,
        "solver | matrix-free | Dense or Dual",
    ),
    (
        "symmetric solver for rows",
        lambda m: (
            m.fitted_problem()
            .estimate(Move(None, draw(N, D)), solver=MINRES(), optimality="interpolating")
            .min_norm()
        ),
        TypeError,
        "solver | MINRES | LSMR or Dual",
    ),
    (
        "change taken for weights",
        lambda m: m.derivative()(draw(N, D)).min_norm().as_parameters(),
        ValueError,
        "solution | a change of weights | problem.estimate",
    ),
    (
        "estimate put on another model",
        lambda m: m.estimate(Move(None, draw(N, D))).min_norm().apply_to(nn.Linear(D, C)),
        ValueError,
        "model | no such parameter | was built with",
    ),
)

CASES = (*POINTS, *DIRECTIONS, *MAPS)


@pytest.mark.parametrize(("call", "error", "says"), [row[1:] for row in CASES], ids=[row[0] for row in CASES])
def test_refused_with_a_message_that_helps(assert_refused, call, error, says):
    assert_refused(call, error, says)


class NeverPrepared(Solver):
    """Fails as soon as it is given an operator."""

    def prepare(self, operator: LinearOperator) -> Prepared:
        raise AssertionError("factorised")


def test_a_bad_direction_is_refused_before_anything_is_factorised(door):
    with pytest.raises(ValueError, match="`dx` must be of shape"):
        door.fitted_problem().estimate(Move([0, 1], draw(2, D + 1)), solver=NeverPrepared())
