"""The interpolating map on chosen rows: checked against all rows, and against dense linear algebra."""

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property

import pytest
import torch
from torch import Tensor, nn

from solset import Dual, InformativeRows, Problem, RowCheck, SolsetWarning, Status
from solset.datasets import digits
from solset.operators import OutputRows, loss_curvature
from solset.solvers.filters import GradientFlow, Tikhonov

MOVED, N = [3, 17], 40
TOLS = (1e-1, 1e-2, 2e-3, 1e-4, 1e-6, 1e-8)


class Attention(nn.Module):
    """Eight rows of a digit as tokens: one block of attention and one of weights, as in a transformer."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.embed = nn.Linear(8, width)
        self.position = nn.Parameter(0.1 * torch.randn(8, width))
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.mix, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.body = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x.reshape(-1, 8, 8)) + self.position
        q, k, v = self.mix(self.norms[0](tokens)).chunk(3, dim=2)
        weights = (q @ k.mT / q.shape[2] ** 0.5).softmax(dim=2)
        tokens = tokens + self.out(weights @ v)
        tokens = tokens + self.body(self.norms[1](tokens))
        return self.head(tokens.mean(dim=1))


def connected() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 48), nn.Tanh(), nn.Linear(48, 10))


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3, stride=2),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


NETS: dict[str, Callable[[], nn.Module]] = {
    "connected": connected,
    "convolutional": convolutional,
    "attention": Attention,
}


@dataclass(frozen=True, eq=False)
class Net:
    """A net fitted by cross-entropy, with everything written out."""

    model: nn.Module
    inputs: Tensor
    labels: Tensor
    dx: Tensor
    J: Tensor
    answer: Tensor

    def problem(self, **options) -> Problem:
        return Problem(self.model, nn.CrossEntropyLoss(), self.inputs, self.labels, **options)

    def derivative(self, **options):
        chosen = {"points": MOVED, "optimality": "interpolating", **options}
        return self.problem().graphical_derivative(**chosen)

    @cached_property
    def smallest(self) -> Tensor:
        """The minimum-norm solution on all rows."""
        return -(torch.linalg.pinv(self.J, rtol=1e-14) @ self.answer.reshape(-1))


def direction(seed: int) -> Tensor:
    draw = torch.randn(len(MOVED), 64, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return 0.01 * draw


def train(model: nn.Module, inputs: Tensor, labels: Tensor, steps: int = 300) -> nn.Module:
    """Cross-entropy to about 1e-6, in evaluation mode throughout."""
    model = model.double().eval()
    optimiser = torch.optim.LBFGS(model.parameters(), max_iter=steps, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = nn.functional.cross_entropy(model(inputs), labels)
        value.backward()
        return value.detach()

    optimiser.step(closure)
    return model


def outputs_of(problem: Problem) -> Callable[[Tensor, Tensor], Tensor]:
    risk = problem.risk()
    return lambda w, x: risk.forward(risk.layout.split(w), x).flatten(1)


def written_out(problem: Problem, inputs: Tensor, dx: Tensor, moved: list[int]) -> tuple[Tensor, Tensor]:
    """``J``, ``(n·c, p)``, and ``J_x Δx``, ``(n, c)``, by plain torch."""
    outputs, w = outputs_of(problem), problem.weights()
    J = torch.func.jacrev(lambda w: outputs(w, inputs), chunk_size=64)(w).flatten(0, 1)
    by_input = torch.func.jacrev(lambda x: outputs(w, x).sum(dim=0))(inputs[moved])  # points do not meet
    answer = torch.zeros(len(inputs), len(by_input), dtype=torch.float64)
    answer[moved] = torch.einsum("ckd,kd->kc", by_input, dx)
    return J.detach(), answer.detach()


@cache
def net(name: str) -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = NETS[name]()
        if name == "convolutional":
            model[2].running_mean.uniform_(-0.2, 0.2)
            model[2].running_var.uniform_(0.5, 2.0)
    part = digits().part(0, N)
    model = train(model, part.inputs, part.labels)
    problem, dx = Problem(model, nn.CrossEntropyLoss(), part.inputs, part.labels), direction(0)
    J, answer = written_out(problem, part.inputs, dx, MOVED)
    return Net(model, part.inputs, part.labels, dx, J, answer)


@pytest.fixture(params=NETS)
def fitted_net(request) -> Net:
    return net(request.param)


@pytest.fixture
def counted(monkeypatch) -> list[int]:
    """How many rows each call computed."""
    counts, compute = [], OutputRows.rows

    def rows(self: OutputRows, start: int, stop: int) -> Tensor:
        counts.append(stop - start)
        return compute(self, start, stop)

    monkeypatch.setattr(OutputRows, "rows", rows)
    return counts


@cache
def solved(fit: Net, tol: float) -> tuple[RowCheck, Tensor]:
    """The check and the solution at this tolerance."""
    D = fit.derivative(rows=InformativeRows(tol=tol))
    v = D(fit.dx).min_norm().value
    return D.check, v


def error(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return float((found - expected).norm() / expected.norm())


def brute_force(fit: Net, v: Tensor) -> dict[str, float]:
    """The four numbers of a check, from the definition."""
    e = (fit.J @ v).reshape(N, 10) + fit.answer
    values, vectors = torch.linalg.eigh(loss_curvature(fit.problem().risk()))
    values = values.clamp_min(0)
    size, weighted, rise = float(fit.answer.norm()), 0.0, 0.0
    for i in range(N):
        for j in range(10):
            along = float(vectors[i, :, j] @ e[i])
            importance = 1.0 if i in MOVED else float(values[i, j] / values.max())
            weighted += importance * along**2
            rise += 0.5 * float(values[i, j]) * along**2
    return {
        "residual": weighted**0.5 / size,
        "moved_residual": float(e[MOVED].norm()) / size,
        "unit_residual": float(e.norm()) / size,
        "risk_rise": rise,
    }


@pytest.mark.parametrize("tol", TOLS)
class TestTheCheck:
    def test_reaches_the_tolerance_asked_for(self, fitted_net, tol):
        check, _ = solved(fitted_net, tol)
        assert check.is_accurate
        assert check.residual <= tol == check.tol
        assert check.rows < check.all_rows == 10 * N

    def test_is_what_the_definition_gives(self, fitted_net, tol):
        check, v = solved(fitted_net, tol)
        exact = brute_force(fitted_net, v)
        assert check.residual == pytest.approx(exact["residual"], rel=1e-3, abs=1e-9)
        assert check.unit_residual == pytest.approx(exact["unit_residual"], rel=1e-5)
        assert check.risk_rise == pytest.approx(exact["risk_rise"], rel=1e-2, abs=1e-20)
        assert check.moved_residual <= 1e-8
        assert exact["moved_residual"] <= 1e-8

    def test_its_solution_is_the_projection_of_the_one_on_all_rows(self, fitted_net, tol):
        """On the span of the rows in use: so it is never longer, and what is missing is orthogonal to it."""
        (_, v), whole = solved(fitted_net, tol), fitted_net.smallest
        assert float(v.norm()) <= float(whole.norm()) * (1 + 1e-9)
        assert abs(float(v @ (whole - v))) <= 1e-5 * float(whole @ whole)


def test_the_moved_points_residual_is_seen_where_it_is_not_zero():
    """A loose rank tolerance cuts directions of the moved points; the check says by how much they miss."""
    fit = net("connected")
    D = fit.derivative(rows=InformativeRows(tol=1e-2), solver=Dual(rank_tolerance=0.02))
    with pytest.warns(SolsetWarning, match="contradict each other"):
        v = D(fit.dx).min_norm().value
    exact = brute_force(fit, v)
    assert exact["moved_residual"] > 1e-2
    assert not D.check.is_accurate
    assert D.check.moved_residual == pytest.approx(exact["moved_residual"], rel=1e-6)
    assert D.check.residual == pytest.approx(exact["residual"], rel=1e-6)


def test_every_row_more_makes_the_solution_longer_and_nearer_to_the_one_on_all_rows(fitted_net):
    """It is the projection of that one on a larger span."""
    D, generator = fitted_net.derivative(rows=InformativeRows(tol=0.1)), torch.Generator().manual_seed(8)
    selection, whole = D._source, fitted_net.smallest
    lengths, distances = [], []
    D(fitted_net.dx)
    for count in (0, 1, 5, 20, 60):
        left_out = (~selection.choice.taken).flatten().nonzero().flatten()
        if count:
            selection._add(left_out[torch.randperm(len(left_out), generator=generator)[:count]])
        v = D(fitted_net.dx).min_norm().value
        lengths.append(float(v.norm()))
        distances.append(float((v - whole).norm()))
    assert lengths == sorted(lengths)
    assert distances == sorted(distances, reverse=True)
    assert lengths[-1] <= float(whole.norm())


def test_the_finer_the_tolerance_the_nearer_to_the_full_route(fitted_net):
    whole = fitted_net.smallest
    assert error(fitted_net.derivative()(fitted_net.dx).min_norm().value, whole) <= 1e-6
    coarse, fine = (solved(fitted_net, tol)[1] for tol in (1e-1, 1e-8))
    assert error(fine, whole) < error(coarse, whole)
    assert coarse.norm() < fine.norm() <= whole.norm() * (1 + 1e-9)


def test_with_every_row_in_it_is_the_full_route(fitted_net):
    D = fitted_net.derivative(rows=InformativeRows(tol=1e-9))
    D(fitted_net.dx)
    selection = D._source
    left_out = (~selection.choice.taken).flatten().nonzero().flatten()
    assert len(left_out) > 0
    selection._add(left_out)
    assert error(D(fitted_net.dx).min_norm().value, fitted_net.smallest) <= 1e-5
    flow, damped = GradientFlow(steps=50, learning_rate=0.1), Tikhonov(1e-6)
    full = fitted_net.derivative()(fitted_net.dx)
    for choice in (flow, damped):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SolsetWarning)  # the leftover gradient is not the matter here
            assert error(D(fitted_net.dx).element(choice).value, full.element(choice).value) <= 1e-6


def test_flow_elements_are_those_of_the_full_route_where_the_loss_feels_every_row(fitted):
    problem = fitted.problem()
    dx = torch.randn(2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    D = problem.graphical_derivative(
        points=[1, 4], optimality="interpolating", rows=InformativeRows(tol=0.01)
    )
    full = problem.graphical_derivative(points=[1, 4], optimality="interpolating")
    choices = (GradientFlow(steps=200, learning_rate=0.02), Tikhonov(1e-3), None)
    for choice in choices:
        assert error(D(dx).element(choice).value, full(dx).element(choice).value) <= 1e-10
    assert (D.check.rows, D.check.all_rows, D.check.discarded) == (12, 12, 0.0)


def test_flow_elements_tend_to_those_of_the_full_route(fitted_net):
    flow = GradientFlow(steps=50, learning_rate=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SolsetWarning)
        whole = fitted_net.derivative()(fitted_net.dx).element(flow).value
        errors = [
            error(
                fitted_net.derivative(rows=InformativeRows(tol=tol))(fitted_net.dx).element(flow).value, whole
            )
            for tol in (1e-1, 1e-3, 1e-6)
        ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] <= 1e-4


class TestRows:
    def test_nothing_is_computed_before_the_first_direction(self, counted):
        D = net("connected").derivative(rows=InformativeRows(tol=1e-2))
        assert " rows of " in D.plan
        assert "all 20 of the moved points" in D.reason
        assert counted == []

    @pytest.mark.parametrize("tol", [1e-2, 1e-6])
    def test_each_is_computed_once_even_while_they_grow(self, counted, tol):
        fit = net("connected")
        D = fit.derivative(rows=InformativeRows(tol=tol))
        started = int(D.reason.split()[2])
        D(fit.dx).min_norm()
        assert D.check.rows > started
        assert sum(counted) == D.check.rows

    def test_none_is_computed_for_further_directions_elements_and_samples(self, counted):
        fit = net("connected")
        D = fit.derivative(rows=InformativeRows(tol=1e-4))
        D(fit.dx)
        before = sum(counted)
        for seed in (1, 2):
            D(direction(seed)).min_norm()
        estimate = D(direction(3))
        estimate.sample(2, radius=1.0, generator=torch.Generator().manual_seed(0))
        estimate.element(Tikhonov(1e-6))
        assert sum(counted) == before

    def test_only_new_ones_are_computed_to_verify_another_direction(self, counted):
        fit = net("connected")
        D = fit.derivative(rows=InformativeRows(tol=1e-3))
        D(fit.dx)
        before = D.check.rows
        check = D.verify(direction(1))
        assert check.is_accurate
        assert check == D.check
        assert sum(counted) == check.rows >= before
        v = D(direction(1)).min_norm().value
        again = D.verify(direction(1))
        assert again.rows == check.rows
        assert again.residual == pytest.approx(check.residual, rel=1e-6)
        assert torch.equal(D(direction(1)).min_norm().value, v)

    def test_the_zero_direction_asks_for_nothing(self, counted):
        fit = net("connected")
        D = fit.derivative(rows=InformativeRows(tol=1e-3))
        still = D(torch.zeros_like(fit.dx))
        assert (D.check, counted) == (None, [])
        assert torch.equal(still.min_norm().value, torch.zeros_like(fit.smallest))
        assert D.verify(torch.zeros_like(fit.dx)).residual == 0.0

    def test_on_all_rows_there_is_nothing_to_verify(self):
        fit = net("connected")
        D = fit.derivative()
        assert (D.check, D.plan) == (None, "")
        with pytest.raises(ValueError, match="all rows"):
            D.verify(fit.dx)

    @pytest.mark.parametrize("tol", [1e-1, 1e-3])
    def test_kept_on_the_disk_they_give_the_same(self, tmp_path, counted, tol):
        fit, settings = net("connected"), InformativeRows(tol=tol)
        kept = fit.derivative(rows=settings)
        v = kept(fit.dx).min_norm().value
        m, p = kept.check.rows, len(v)
        counted.clear()
        solver = Dual(memory_budget=24 * m * (m + p) - 1, folder=tmp_path, is_equilibrated=True)
        D = fit.derivative(rows=settings, solver=solver)
        assert error(D(fit.dx).min_norm().value, v) <= 1e-10
        assert "on the disk" in D.plan
        assert len(list(tmp_path.iterdir())) == 1
        assert sum(counted) == D.check.rows == m

    def test_computed_anew_they_give_the_same(self):
        fit, settings = net("connected"), InformativeRows(tol=1e-2)
        v = fit.derivative(rows=settings)(fit.dx).min_norm().value
        D = fit.derivative(rows=settings, solver=Dual(memory_budget=10**6, is_equilibrated=True))
        assert "for the Gram matrix and once more a product" in D.plan
        assert error(D(fit.dx).min_norm().value, v) <= 1e-10

    def test_the_model_is_not_changed(self):
        fit = net("convolutional")
        before = copy.deepcopy(fit.model.state_dict())
        state = torch.get_rng_state()
        fit.derivative(rows=InformativeRows(tol=1e-3))(fit.dx).min_norm()
        assert all(torch.equal(before[name], value) for name, value in fit.model.state_dict().items())
        assert torch.equal(torch.get_rng_state(), state)
        assert all(part.grad is None or part.requires_grad for part in fit.model.parameters())

    def test_in_float32_the_check_holds(self):
        fit = net("connected")
        problem = Problem(
            copy.deepcopy(fit.model).float(), nn.CrossEntropyLoss(), fit.inputs.float(), fit.labels
        )
        D = problem.graphical_derivative(
            points=MOVED, optimality="interpolating", rows=InformativeRows(tol=1e-3)
        )
        v = D(fit.dx.float()).min_norm().value
        assert D.check.is_accurate
        exact = brute_force(fit, v.double())
        assert D.check.residual == pytest.approx(exact["residual"], rel=0.05)
        assert exact["moved_residual"] <= 1e-4


class TestAMostThatIsTooSmall:
    def started(self, fit: Net, tol: float) -> int:
        return int(fit.derivative(rows=InformativeRows(tol=tol)).reason.split()[2])

    def test_stops_the_growth_with_a_warning_that_names_the_residual(self, fitted_net):
        most = self.started(fitted_net, 1e-6) + 3
        D = fitted_net.derivative(rows=InformativeRows(tol=1e-6, most=most))
        with pytest.warns(SolsetWarning, match=f"with {most} rows .* all 400 is ") as caught:
            v = D(fitted_net.dx).min_norm().value
        exact = brute_force(fitted_net, v)["residual"]
        assert not D.check.is_accurate
        assert D.check.rows == most
        assert D.check.residual == pytest.approx(exact, rel=1e-4)
        assert f" is {D.check.residual:.3g}, not 1e-06" in str(caught[0].message)
        assert f"InformativeRows.most is {most}" in str(caught[0].message)

    def test_for_the_first_rows_is_refused_by_auto(self):
        fit = net("connected")
        D = fit.derivative(optimality="auto", rows=InformativeRows(tol=1e-2, most=25))
        assert D.optimality == "stationary"
        assert "more than the 25 allowed" in D.reason


class TestMatrixFree:
    """More rows than allowed, asked for by name: LSMR on all rows, weighted as the check weighs them."""

    def derivative(self, fit: Net, tol: float = 0.05):
        return fit.derivative(rows=InformativeRows(tol=tol, most=25))

    def weighted(self, fit: Net) -> tuple[Tensor, Tensor]:
        """``W J`` and ``W J_x Δx``, written out."""
        values, vectors = torch.linalg.eigh(loss_curvature(fit.problem().risk()))
        roots = (values.clamp_min(0) / values.max()).sqrt()
        roots[MOVED] = 1.0
        W = torch.block_diag(*((vectors * roots.unsqueeze(1)) @ vectors.mT))
        return W @ fit.J, W @ fit.answer.reshape(-1)

    def test_says_so(self):
        D = self.derivative(net("connected"))
        assert D.optimality == "interpolating"
        assert D.reason.startswith("interpolating by LSMR on all rows, weighted by the loss's curvature")
        assert "more than the 25 allowed" in D.reason
        assert D.plan == ""
        assert D.qualification.is_verified is None

    @pytest.mark.parametrize("tol", [0.1, 0.03])
    def test_solves_the_weighted_system_to_the_tolerance(self, fitted_net, tol):
        A, answer = self.weighted(fitted_net)
        found = self.derivative(fitted_net, tol)(fitted_net.dx).min_norm()
        residual = float((A @ found.value + answer).norm() / answer.norm())
        assert found.residual == pytest.approx(residual, rel=1e-5)
        assert residual <= tol
        exact = brute_force(fitted_net, found.value)
        assert exact["residual"] * float(fitted_net.answer.norm()) / float(answer.norm()) == pytest.approx(
            residual, rel=1e-5
        )

    def test_its_elements_are_as_long_as_those_on_chosen_rows_at_most_the_full_ones(self, fitted_net):
        v = self.derivative(fitted_net, 0.03)(fitted_net.dx).min_norm().value
        assert float(v.norm()) <= float(fitted_net.smallest.norm())

    def test_flow_elements_follow_training(self):
        fit = net("connected")
        flow = GradientFlow(steps=20, learning_rate=0.1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SolsetWarning)
            found = self.derivative(fit)(fit.dx).element(flow).value
            whole = fit.derivative()(fit.dx).element(flow).value
        assert error(found, whole) <= 1e-7

    def test_a_set_solved_to_the_tolerance_asked_for_is_not_called_empty(self):
        fit = net("connected")
        values = self.derivative(fit)(fit.dx)
        assert values.min_norm().status is Status.CONVERGED
        assert not values.is_empty()
        assert values.distance(values.min_norm().value) < float("inf")


class TestAuto:
    def budget(self) -> int:
        """A little less than what all rows and their Gram matrix take: 400 rows, 4154 weights."""
        return 8 * 400 * (2 * 400 + 2 * 4154) - 1

    def test_takes_all_rows_where_they_fit(self):
        D = net("connected").problem().graphical_derivative(points=MOVED)
        assert (D.optimality, D.plan, D.check) == ("interpolating", "", None)
        assert "the 400 rows of J are independent" in D.reason

    def test_takes_chosen_rows_where_all_do_not_fit_and_says_which(self):
        fit = net("connected")
        assert len(fit.smallest) == 4154
        D = fit.problem(memory_budget=self.budget()).graphical_derivative(points=MOVED)
        assert D.optimality == "interpolating"
        assert D.reason.startswith("interpolating on ")
        assert " of 400 rows: all 20 of the moved points" in D.reason
        v = D(fit.dx).min_norm()
        assert v.status is Status.CONVERGED
        assert (D.check.is_accurate, D.check.tol) == (True, InformativeRows().tol)
        expected = fit.derivative(rows=InformativeRows())(fit.dx).min_norm().value
        assert error(v.value, expected) <= 1e-9
        assert fit.problem(memory_budget=self.budget() + 1).graphical_derivative(points=MOVED).plan == ""

    def test_is_as_asked_for_with_rows(self):
        D = net("connected").derivative(optimality="auto", rows=InformativeRows(tol=1e-2))
        assert D.reason.startswith("interpolating on ")

    def test_is_kept_for_the_same_points(self, counted):
        problem = net("connected").problem(memory_budget=self.budget())
        first = problem.graphical_derivative(points=MOVED)
        before = sum(counted)
        second = problem.graphical_derivative(points=MOVED)
        problem.coderivative(points=MOVED)
        assert sum(counted) == before > 0
        dx = direction(4)
        assert torch.equal(first(dx).min_norm().value, second(dx).min_norm().value)

    def test_is_stationary_where_rows_in_use_depend_on_each_other(self):
        fit = net("connected")
        twice = [*range(N), MOVED[0]]
        problem = Problem(fit.model, nn.CrossEntropyLoss(), fit.inputs[twice], fit.labels[twice])
        D = problem.graphical_derivative(points=[MOVED[0], N], rows=InformativeRows())
        assert D.optimality == "stationary"
        assert "rows of J in use have numerical rank" in D.reason

    def test_of_an_unfitted_problem_is_stationary_whatever_rows_are_asked_for(self):
        fit = net("connected")
        wrong = (fit.labels + 1) % 10
        problem = Problem(fit.model, nn.CrossEntropyLoss(), fit.inputs, wrong, gradient_tol=float("inf"))
        D = problem.graphical_derivative(points=MOVED, rows=InformativeRows())
        assert D.optimality == "stationary"
        assert "not fitted" in D.reason
        with pytest.raises(ValueError, match="a fitted problem"):
            problem.graphical_derivative(points=MOVED, optimality="interpolating", rows=InformativeRows())


class TestContradiction:
    """Two equal points, one of which moves: no weights answer, and that is said."""

    def problem(self, fit: Net) -> tuple[Problem, int]:
        """With the least confident point twice, so that the loss feels both."""
        values = loss_curvature(fit.problem().risk()).diagonal(dim1=1, dim2=2).sum(dim=1)
        k = int(values.argmax())
        twice = [*range(N), k]
        return Problem(fit.model, nn.CrossEntropyLoss(), fit.inputs[twice], fit.labels[twice]), k

    def test_is_said_by_warning_status_emptiness_and_check(self, fitted_net):
        problem, _ = self.problem(fitted_net)
        D = problem.graphical_derivative(points=[N], optimality="interpolating", rows=InformativeRows())
        with pytest.warns(SolsetWarning, match="contradict each other"):
            values = D(fitted_net.dx[:1])
        assert values.min_norm().status is Status.INCONSISTENT
        assert values.is_empty()
        assert not D.check.is_accurate
        assert D.check.moved_residual > D.check.tol
        assert D.qualification.is_verified is False

    def test_is_none_where_both_move_alike(self, fitted_net):
        problem, k = self.problem(fitted_net)
        D = problem.graphical_derivative(points=[k, N], optimality="interpolating", rows=InformativeRows())
        values = D(fitted_net.dx[:1].repeat(2, 1))
        assert D.check.is_accurate
        assert not values.is_empty()

    def test_auto_never_hands_out_dependent_rows_as_verified(self, fitted_net):
        problem, _ = self.problem(fitted_net)
        for tol in (0.5, 0.1, 2e-3):
            D = problem.graphical_derivative(points=[N], rows=InformativeRows(tol=tol))
            if D.optimality == "interpolating":
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", SolsetWarning)
                    D(fitted_net.dx[:1])
                assert D.check.is_accurate or D.qualification.is_verified is False


class TestDuality:
    def test_coderivative_and_graphical_derivative_are_dual_on_chosen_rows(self, fitted_net):
        """``⟨q, D(Δx)⟩ = ⟨D*(q), Δx⟩`` for ``q`` in the span of the rows in use."""
        problem, options = fitted_net.problem(), {"points": MOVED, "optimality": "interpolating"}
        rows = InformativeRows(tol=1e-3)
        D = problem.graphical_derivative(rows=rows, **options)
        v = D(fitted_net.dx).min_norm().value
        q = D(direction(5)).min_norm().value
        found = problem.coderivative(rows=rows, **options)(q).min_norm()
        assert found.residual <= 1e-8
        assert float(q @ v) == pytest.approx(float(found.value @ fitted_net.dx.reshape(-1)), rel=1e-6)

    def test_a_weight_direction_off_the_rows_has_no_coderivative(self, fitted_net):
        options = {"points": MOVED, "optimality": "interpolating", "rows": InformativeRows(tol=1e-3)}
        q = torch.randn(
            fitted_net.J.shape[1], generator=torch.Generator().manual_seed(6), dtype=torch.float64
        )
        assert fitted_net.problem().coderivative(**options)(q).is_empty()

    def test_samples_lie_on_the_set_and_keep_the_rows_in_use(self, fitted_net):
        D = fitted_net.derivative(rows=InformativeRows(tol=1e-3))
        values = D(fitted_net.dx)
        smallest = values.min_norm().value
        radius = 3.0 * float(smallest.norm())
        for sample in values.sample(3, radius=radius, generator=torch.Generator().manual_seed(7)):
            assert values.contains(sample.value)
            assert sample.residual <= 1e-8
            assert float(sample.value.norm()) >= float(smallest.norm()) * (1 - 1e-9)
            kept = (fitted_net.J @ sample.value).reshape(N, 10) + fitted_net.answer
            assert float(kept[MOVED].norm()) <= 1e-6 * float(fitted_net.answer.norm())
        assert values.dimension == len(smallest) - D.check.rows

    def test_the_estimate_is_the_point_plus_the_derivative(self):
        fit, rows = net("connected"), InformativeRows(tol=1e-3)
        problem = fit.problem()
        estimate = problem.estimate(fit.dx, points=MOVED, optimality="interpolating", rows=rows)
        v = fit.derivative(rows=rows)(fit.dx).min_norm().value
        torch.testing.assert_close(estimate.min_norm().value, problem.weights() + v, rtol=0, atol=1e-12)
        moved = copy.deepcopy(fit.inputs)
        moved[MOVED] += fit.dx
        with torch.no_grad():
            kept = estimate.min_norm().apply_to(fit.model)(moved[MOVED])
            before, without = fit.model(fit.inputs[MOVED]), fit.model(moved[MOVED])
        assert float((kept - before).norm()) <= 0.3 * float((without - before).norm())


def test_verified_is_not_said_of_a_set_that_leaves_rows_out():
    """With rows left out the formula set is larger than the derivative, however independent the rest is."""
    D = net("connected").derivative(rows=InformativeRows(tol=1e-2))
    assert D.qualification.is_verified is not True
