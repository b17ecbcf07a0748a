"""Derivatives, their qualification and their check of rows say in one line what they are."""

import json

import pytest

from solset.derivatives import Qualification, RowCheck
from solset.errors import Status
from solset.planning import Route


@pytest.mark.parametrize(
    ("is_verified", "verdict"),
    [(True, "equality verified"), (False, "qualification fails"), (None, "equality not verified")],
)
def test_a_qualification_says_its_verdict_and_the_reason(is_verified, verdict) -> None:
    qualification = Qualification(is_verified, "rank 3 of 4")
    assert repr(qualification) == f"Qualification({verdict}: rank 3 of 4)"
    assert qualification.message == "rank 3 of 4"
    assert qualification == Qualification(is_verified, "rank 3 of 4")


def check(residual: float, moved_residual: float = 0.0) -> RowCheck:
    return RowCheck(residual, moved_residual, 0.5, 0.1, rows=3, all_rows=8, discarded=0.1, tol=0.01)


@pytest.mark.parametrize(
    ("row_check", "status", "place"),
    [
        (check(0.001), Status.CONVERGED, "residual 0.001 within 0.01"),
        (check(0.5), Status.MAX_STEPS, "residual 0.5 above 0.01"),
        (check(0.5, moved_residual=0.2), Status.INCONSISTENT, "residual 0.5 above 0.01"),
        (check(float("nan")), Status.NONFINITE, "residual nan above 0.01"),
    ],
)
def test_a_check_of_rows_says_its_residual_and_how_it_ended(row_check, status, place) -> None:
    assert repr(row_check) == f"RowCheck({place} on 3 of 8 rows)"
    assert row_check.status is status
    assert bool(row_check.message) is not row_check.is_accurate
    json.dumps(row_check.to_dict(), allow_nan=False)


def test_a_route_says_its_cost_or_its_obstacle() -> None:
    route = Route("stationary by Dense", "stationary", "Dense")
    assert repr(route) == "Route(stationary by Dense: 0 gradients, 0 bytes)"
    blocked = Route("stationary by Dense", "stationary", "Dense", obstacle="no room")
    assert blocked.headline == "stationary by Dense: does not apply, no room"
    assert blocked.message == "no room"


def test_derivatives_say_map_rows_solver_and_sizes(fitted) -> None:
    problem = fitted.problem()
    derivative = problem.derivative(points=[0])
    assert repr(derivative) == f"GraphicalDerivative({derivative.linearisation.headline})"
    assert repr(problem.coderivative(points=[0])).startswith(f"Coderivative({derivative.optimality} map, ")
    assert "\n" not in repr(derivative)
