"""One premise that fails, or was not checked, withholds every certificate."""

import pytest
import torch
from torch import nn

from solset import Move, Problem, SolsetWarning, audit, lipschitz_modulus
from solset.derivatives import Premise, Premises, Verdict

FAILED = Premise("kinks", Verdict.FAILED, "2 points lie on a kink")
UNCHECKED = Premise("derivative", Verdict.UNCHECKED)


def _problem(*premises: Premise) -> Problem:
    torch.manual_seed(0)
    model = nn.Linear(3, 1).double()
    inputs = torch.randn(2, 3, dtype=torch.float64)
    problem = Problem(model, nn.MSELoss(), inputs, model(inputs).detach())
    problem._at_door = premises
    return problem


def test_a_problem_whose_premises_hold_is_verified():
    problem = _problem(Premise("loss", Verdict.HELD))
    assert problem.graphical_derivative().qualification.is_verified
    assert lipschitz_modulus(problem).certificate.certainty == "exact"
    assert set(audit(problem).certainty) == {"exact"}


@pytest.mark.filterwarnings("ignore::solset.SolsetWarning")
@pytest.mark.parametrize("premise", [FAILED, UNCHECKED])
def test_a_premise_that_does_not_hold_withholds_every_certificate(premise):
    problem = _problem(Premise("loss", Verdict.HELD), premise)
    assert problem.graphical_derivative().qualification.is_verified is None
    modulus = lipschitz_modulus(problem)
    assert modulus.certificate.certainty == "not known"
    assert modulus.value == pytest.approx(lipschitz_modulus(_problem()).value)
    report = audit(problem)
    assert set(report.certainty) == {"not known"}
    assert Premises((premise,)).veto in report.message


def test_a_failed_premise_warns_and_stays_with_every_element():
    problem = _problem(FAILED)
    with pytest.warns(SolsetWarning, match="2 points lie on a kink"):
        estimate = problem.estimate(Move([0], torch.ones(1, 3, dtype=torch.float64)))
    generator = torch.Generator().manual_seed(0)
    for solution in (estimate.min_norm(), *estimate.sample(2, radius=1.0, generator=generator)):
        assert "2 points lie on a kink" in solution.message


def test_an_infinite_modulus_is_not_proven_where_a_premise_fails():
    model = nn.Linear(1, 1, bias=False).double()
    inputs = torch.tensor([[1.0], [1.0]], dtype=torch.float64)
    problem = Problem(model, nn.MSELoss(), inputs, model(inputs).detach())
    assert lipschitz_modulus(problem, optimality="interpolating").certificate.certainty == "proven infinite"
    problem._at_door = (UNCHECKED,)
    problem.__dict__.pop("point")
    assert lipschitz_modulus(problem, optimality="interpolating").certificate.certainty == "not known"
