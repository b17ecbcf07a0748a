"""One premise that fails, or was not checked, withholds every certificate."""

import pytest
import torch
from torch import Tensor, nn

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
    assert problem.derivative().qualification.is_verified
    assert lipschitz_modulus(problem).certificate.certainty == "exact"
    assert set(audit(problem).certainty) == {"exact"}


@pytest.mark.filterwarnings("ignore::solset.SolsetWarning")
@pytest.mark.parametrize("premise", [FAILED, UNCHECKED])
def test_a_premise_that_does_not_hold_withholds_every_certificate(premise):
    problem = _problem(Premise("loss", Verdict.HELD), premise)
    assert problem.derivative().qualification.is_verified is None
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


class Saddle(nn.Module):
    """The outputs ``x + (a, b)``, whose loss below is a saddle at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.zeros(2, dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.a


def test_a_saddle_is_no_solution_and_gets_no_certificate():
    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return ((outputs - targets).square() * torch.tensor([1.0, -0.5])).sum(1).mean()

    inputs = torch.randn(4, 2, dtype=torch.float64)
    problem = Problem(Saddle(), loss, inputs, inputs.clone(), target_moves=False)
    derivative = problem.derivative(points=[0], optimality="stationary")
    assert derivative.rank == 2
    assert derivative.qualification.is_verified is None
    assert "negative eigenvalue, 0.5 of the largest" in derivative.qualification.reason
    certificate = lipschitz_modulus(problem, points=[0], optimality="stationary").certificate
    assert certificate.certainty == "not known"
    assert "not at a minimum" in certificate.reason


def test_weights_that_are_not_stationary_get_no_certificate_even_where_that_was_accepted():
    torch.manual_seed(0)
    inputs, targets = torch.randn(8, 2, dtype=torch.float64), torch.randn(8, 1, dtype=torch.float64)
    model = nn.Linear(2, 1).double().eval()
    problem = Problem(model, nn.MSELoss(), inputs, targets, weight_decay=0.1, gradient_tol=100.0)
    reason = problem.derivative(points=[0]).qualification.reason
    assert "not stationary: the gradient norm" in reason


def test_a_loss_that_is_flat_is_said_where_outputs_are_kept_by_name() -> None:
    x = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    y = torch.tensor([1.0, 1.0], dtype=torch.float64)
    model = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    model.weight.data.fill_(3.0)  # both margins are above 1, where the hinge is 0

    def hinge(outputs: Tensor, targets: Tensor) -> Tensor:
        return torch.relu(1 - targets * outputs.flatten()).mean()

    problem = Problem(model, hinge, x[:1], y[:1])
    with pytest.warns(SolsetWarning, match="flat in the outputs of 1 points"):
        answer = problem.estimate(Move([0], 0.1 * x[:1]), optimality="interpolating").min_norm()
    assert "there are more solutions" in answer.message
    derivative = problem.derivative(optimality="interpolating")
    assert derivative.qualification.is_verified is not True
