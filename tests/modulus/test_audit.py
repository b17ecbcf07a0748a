"""The audit: every column against its definition written out, planted cases, and resuming."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from solset import Problem, SolsetWarning, audit, lipschitz_modulus
from solset.errors import Status
from solset.modulus import Audit, Certainty
from solset.modulus import _audit_batches as batches
from solset.paper import digits
from support.interpolators import brute_modulus, fitted, rows

C = 3


def validation() -> tuple[Tensor, Tensor]:
    part = digits().part(500, 520)
    g = torch.Generator().manual_seed(9)
    return part.inputs, torch.randn(20, C, generator=g, dtype=torch.float64)


def validation_gradient(problem: Problem) -> Tensor:
    risk = problem.risk()
    inputs, targets = validation()

    def loss(w: Tensor) -> Tensor:
        return nn.functional.mse_loss(risk.forward(risk.layout.split(w), inputs), targets)

    return torch.func.grad(loss)(risk.weights)


@pytest.fixture(params=["tanh", "relu"])
def problem(request) -> Problem:
    return fitted(request.param).problem()


def test_moduli_are_those_of_single_points(problem: Problem) -> None:
    found = audit(problem)
    J, _ = rows(problem)
    for k in (0, 5, 11):
        _, Jx = rows(problem, [k])
        assert float(found.modulus[k]) == pytest.approx(brute_modulus(J, Jx), rel=1e-9)
        own = slice(C * k, C * k + C)
        assert float(found.isolated_modulus[k]) == pytest.approx(brute_modulus(J[own], Jx[own]), rel=1e-9)
        assert float(found.modulus[k]) == pytest.approx(
            lipschitz_modulus(problem, points=[k]).value, rel=1e-9
        )


def test_directions_attain_the_modulus_and_maps_are_the_columns(problem: Problem) -> None:
    found = audit(problem)
    J, _ = rows(problem)
    for k in (2, 9):
        _, Jx = rows(problem, [k])
        response = torch.linalg.pinv(J) @ Jx
        assert float(found.directions[k].norm()) == pytest.approx(1.0)
        reached = response @ found.directions[k].flatten()
        assert float(reached.norm()) == pytest.approx(float(found.modulus[k]), rel=1e-9)
        assert torch.allclose(found.maps[k].flatten(), response.norm(dim=0), rtol=1e-8)


@pytest.mark.parametrize("joint", [True, False])
def test_the_validation_loss_changes_as_predicted(problem: Problem, joint: bool) -> None:
    found = audit(problem, validation=validation(), joint=joint)
    gradient, (J, _) = validation_gradient(problem), rows(problem)
    for k in (1, 7):
        _, Jx = rows(problem, [k])
        own = slice(None) if joint else slice(C * k, C * k + C)
        response = -torch.linalg.pinv(J[own]) @ Jx[own]
        slope = response.T @ gradient
        change = float(slope @ found.directions[k].flatten())
        assert change >= 0  # of the two signs the one that raises the loss
        assert float(found.validation_change[k]) == pytest.approx(change, rel=1e-7)
        assert float(found.validation_slope[k]) == pytest.approx(float(slope.norm()), rel=1e-7)


def test_points_by_themselves_need_no_gram_matrix_of_all(problem: Problem) -> None:
    joint, alone = audit(problem), audit(problem, joint=False, points=[3, 8, 1])
    assert alone.modulus is None
    assert torch.allclose(alone.isolated_modulus, joint.isolated_modulus[[3, 8, 1]], rtol=1e-9)
    assert torch.allclose(alone.gradient_norm, joint.gradient_norm[[3, 8, 1]], atol=1e-12)


def test_the_columns_of_others_are_their_definitions() -> None:
    base = fitted()
    off = base.targets + 0.1 * torch.randn(base.targets.shape, generator=torch.Generator().manual_seed(3))
    problem = Problem(base.model, nn.MSELoss(), base.inputs, off, gradient_tol=10.0)
    assert not problem.is_fitted
    near = Problem(base.model, nn.MSELoss(), base.inputs, base.targets + 1e-3, gradient_tol=10.0)
    assert near.is_fitted
    found = audit(near, validation=validation(), prior_precision=0.7)
    J, _ = rows(near)
    blocks = J.reshape(12, C, -1)
    slope = -2e-3 / C * torch.ones(C, dtype=torch.float64)  # of ((f - y)²).mean() over outputs
    covariance = torch.linalg.inv(2 / C * J.T @ J + 0.7 * torch.eye(J.shape[1], dtype=torch.float64))
    for k in (0, 6):
        assert float(found.loss[k]) == pytest.approx(1e-6, rel=1e-6)
        assert float(found.gradient_norm[k]) == pytest.approx(float((blocks[k].T @ slope).norm()), rel=1e-6)
        expected = (blocks[k] @ covariance @ blocks[k].T @ slope).norm()
        assert float(found.memory_perturbation[k]) == pytest.approx(float(expected), rel=1e-6)


def test_on_a_fitted_problem_the_feature_influence_is_the_steepest_slope(problem: Problem) -> None:
    found = audit(problem, validation=validation())
    assert torch.allclose(found.feature_influence, found.validation_slope, rtol=1e-6)
    assert any("outside the range" in note for note in found.notes)


def test_a_regularised_problem_is_judged_by_its_hessian() -> None:
    g = torch.Generator().manual_seed(1)
    x, y = (torch.randn(15, d, generator=g, dtype=torch.float64) for d in (4, 2))
    decay, model = 0.1, nn.Linear(4, 2, bias=False).double().eval()
    with torch.no_grad():  # the mean is over 15·2 numbers
        model.weight.copy_((torch.linalg.solve(x.T @ x / 15 + decay * torch.eye(4), x.T @ y / 15)).T)
    problem = Problem(model, nn.MSELoss(), x, y, weight_decay=decay)
    test = torch.randn(5, 4, generator=g, dtype=torch.float64), torch.zeros(5, 2, dtype=torch.float64)
    found = audit(problem, validation=test)
    assert found.optimality == "stationary"
    assert found.isolated_modulus is None
    risk = problem.risk()
    weight = risk.weights.clone()

    def gradient(w: Tensor, inputs: Tensor) -> Tensor:
        def loss(v: Tensor) -> Tensor:
            return nn.functional.mse_loss(inputs @ v.reshape(2, 4).T, y) + decay / 2 * v @ v

        return torch.func.grad(loss)(w)

    H = torch.func.jacrev(gradient)(weight, x)
    B = torch.func.jacrev(gradient, argnums=1)(weight, x)
    for k in (0, 9):
        expected = torch.linalg.matrix_norm(torch.linalg.solve(H, B[:, k]), 2)
        assert float(found.modulus[k]) == pytest.approx(float(expected), rel=1e-9)
        alone = lipschitz_modulus(problem, points=[k])
        assert alone.value == pytest.approx(float(expected), rel=1e-9)


def test_duplicates_are_infinite_and_their_directions_break_them() -> None:
    base = fitted()
    inputs = base.inputs.clone()
    inputs[7] = inputs[2]
    with torch.no_grad():
        targets = base.model(inputs)
    found = audit(Problem(base.model, nn.MSELoss(), inputs, targets), validation=validation())
    infinite = found.modulus.isinf().nonzero().flatten().tolist()
    assert infinite == [2, 7]
    assert not bool(found.isolated_modulus.isinf().any())
    assert found.order[:2] == [2, 7]
    assert bool(found.validation_change[[2, 7]].isnan().all())
    assert any("rank" in note for note in found.notes)
    assert found.headline.startswith("infinite modulus: points 2 and 7; largest finite modulus ")
    assert found.certainty.count(Certainty.INFINITE) == 2
    assert set(found.certainty) == {Certainty.INFINITE, Certainty.UNKNOWN}
    assert "have rank 33" in found.message


def test_one_layer_is_audited_by_itself(problem: Problem) -> None:
    found = audit(problem, layer="layers.0", points=[4])
    expected = lipschitz_modulus(problem, points=[4], layer="layers.0").value
    assert float(found.modulus[0]) == pytest.approx(expected, rel=1e-9)


def test_ranking_names_every_point_once_in_order(problem: Problem) -> None:
    found = audit(problem)
    table = found.rows()
    assert sorted(row["point"] for row in table) == list(range(12))
    values = [row["modulus"] for row in table]
    assert values == sorted(values, reverse=True)
    assert [row["rank"] for row in table] == list(range(1, 13))
    assert set(found.correlations()) <= set(table[0])
    assert {row["certainty"] for row in table} == {"exact"}


def test_an_audit_says_what_matters_in_one_line(problem: Problem) -> None:
    found = audit(problem)
    top = found.rows()[0]
    largest = f"largest modulus {top['modulus']:.4g} at point {top['point']}, exact"
    assert repr(found) == f"Audit({largest}; 12 points, interpolating map)"
    assert found.status is Status.CONVERGED
    content = found.to_dict()
    assert len(content["modulus"]) == 12
    assert not {"maps", "directions"} & set(content)
    alone = audit(problem, joint=False, points=[3])
    assert alone.headline.endswith("at point 3, exact; 1 point, interpolating map")


class StopError(Exception):
    """An interrupt in the middle."""


def test_an_interrupted_audit_goes_on_where_it_was(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed, real = [], batches.IsolatedAudit.batch
    monkeypatch.setattr(batches.IsolatedAudit, "at_once", 5)
    whole = audit(problem, joint=False)

    def stopping(self, chosen):
        if len(computed) == 2:
            raise StopError
        computed.append(chosen)
        return real(self, chosen)

    monkeypatch.setattr(batches.IsolatedAudit, "batch", stopping)
    with pytest.raises(StopError):
        audit(problem, joint=False, checkpoint=tmp_path)
    first = tmp_path / "audit_00000.safetensors"
    first.write_bytes(first.read_bytes()[:-1])
    monkeypatch.setattr(
        batches.IsolatedAudit, "batch", lambda self, chosen: (computed.append(chosen), real(self, chosen))[1]
    )
    with pytest.warns(SolsetWarning, match=r"audit_00000\.safetensors' is damaged"):
        found = audit(problem, joint=False, checkpoint=tmp_path)
    assert [len(one) for one in computed] == [5, 5, 5, 2]  # the damaged one again, the second not
    assert torch.equal(found.isolated_modulus, whole.isolated_modulus)
    assert torch.equal(found.directions, whole.directions)


def test_a_checkpoint_of_another_audit_is_refused(problem: Problem, tmp_path: Path) -> None:
    audit(problem, checkpoint=tmp_path)
    with pytest.raises(ValueError, match="differs in points"):
        audit(problem, points=[1, 2], checkpoint=tmp_path)
    (tmp_path / "audit_00000.safetensors").write_text("[]")
    with pytest.raises(ValueError, match="not a checkpoint of solset"):
        audit(problem, checkpoint=tmp_path)
    with pytest.raises(ValueError, match="a folder that exists"):
        audit(problem, checkpoint=tmp_path / "none")


def test_bad_input_is_named(problem: Problem) -> None:
    inputs, targets = validation()
    with pytest.raises(ValueError, match="validation"):
        audit(problem, validation=(inputs[:, :5], targets))
    with pytest.raises(ValueError, match="points"):
        audit(problem, points=[99])
    with pytest.raises(ValueError, match="parameters"):
        audit(problem, layer="nothing")
    small = fitted().problem(memory_budget=10**5)
    with pytest.raises(ValueError, match="joint"):
        audit(small, joint=True)
    assert audit(small, points=[0]).modulus is None


def test_the_model_is_untouched(problem: Problem) -> None:
    model = problem.risk().model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.random.get_rng_state()
    found = audit(problem, validation=validation())
    assert isinstance(found, Audit)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(value.grad is None for value in model.parameters())


def test_an_audit_of_a_saturated_loss_names_its_flatness_first():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20, 3, generator=generator, dtype=torch.float64)
    model = nn.Linear(3, 3).double().eval()
    with torch.no_grad():
        model.weight.copy_(1e5 * torch.eye(3))
        model.bias.zero_()
    problem = Problem(model, nn.CrossEntropyLoss(), x, model(x).argmax(1))
    with pytest.warns(SolsetWarning) as told:
        result = audit(problem)
    flat = next(str(one.message) for one in told if "nothing ranks" in str(one.message))
    assert "the loss is flat at 20 of 20 points" in flat
    assert "constraints" not in flat
    assert result.message.startswith("the loss is flat")
