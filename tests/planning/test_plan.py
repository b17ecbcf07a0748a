"""A plan is what then happens: the map, the solver, the rows, the bytes and how often points are read."""

import json
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from solset import Problem, SolsetWarning, audit, plan
from solset.operators import DirectionalJacobian, Hessian, InformativeRows
from solset.planning import Cost, Plan, Route
from solset.problem._stationary import preconditioned
from solset.solvers import CG, LSMR, MINRES, Dense, Dual, Solver
from support.fitted import MOVED, NETS, net
from support.sharded import Counted, draw

N, BATCH, OUT = 48, 8, 4
SMALL = 2 * BATCH + 12  # reads beside the passes: a batch for each kind of graph, and single points
LARGE = 4 * 2**30
K = [1, 2]


def model_of(kind: str) -> tuple[nn.Module, Tensor]:
    """A network with its inputs; "wide" has more weights than a Hessian is written out for."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if kind == "convolutional":
            layers = [nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 16, OUT)]
            return nn.Sequential(*layers).double().eval(), draw(N, 1, 6, 6, seed=0)
        width = 100 if kind == "wide" else 20
        layers = [nn.Linear(6, width), nn.Tanh(), nn.Linear(width, OUT)]
        return nn.Sequential(*layers).double().eval(), draw(N, 6, seed=0)


def problem_of(kind: str = "connected", *, shift: float = 0.0, **options) -> tuple[Problem, Counted]:
    """Its own outputs are the targets, but for a shift that unfits it."""
    model, inputs = model_of(kind)
    data = Counted(inputs, model(inputs).detach() + shift)
    options = {"batch_size": BATCH, "gradient_tol": float("inf"), **options}
    return Problem(model, nn.MSELoss(), data, **options), data


def direction(problem: Problem, seed: int) -> Tensor:
    return 0.01 * draw(len(K), *problem.input_shape, seed=seed)


def named(found: Plan, name: str) -> Route:
    return next(route for route in (*found.routes, *found.others) if route.name == name)


CASES = {
    "fitted": {},
    "fitted, wide": {"kind": "wide"},
    "fitted, convolutional": {"kind": "convolutional"},
    "not fitted": {"shift": 1.0},
    "not fitted, wide": {"kind": "wide", "shift": 1.0},
    "weight decay": {"weight_decay": 0.1},
    "weight decay, wide": {"kind": "wide", "weight_decay": 0.1},
    "weight decay, wide, no room for an inverse": {
        "kind": "wide",
        "weight_decay": 0.1,
        "memory_budget": 16 * (N * OUT) ** 2 - 1,
    },
    "no room for all rows": {"memory_budget": 1_000_000},
    "no room for any rows": {"kind": "wide", "memory_budget": 500_000},
    "no room for the curvature": {"memory_budget": 24 * N * OUT * OUT - 1},
}


def class_of(solver: Solver) -> str:
    name = type(solver).__name__
    return "CG, MINRES" if name == "FirstToConverge" else name


@pytest.mark.parametrize("case", CASES)
class TestWhatIsTaken:
    def test_by_auto(self, case):
        problem, _ = problem_of(**CASES[case])
        found = plan(problem, points=K)
        derivative = problem.derivative(points=K)
        if found.automatic.optimality == "stationary":
            assert found.otherwise is None
            assert found.reason == derivative.reason
        expected = found.automatic if derivative.optimality == found.automatic.optimality else found.otherwise
        if expected is not found.automatic:
            assert "numerical rank" in derivative.reason
        assert expected.solver == class_of(derivative.linearisation.constraint.solver)
        if expected.rows is not None and expected.optimality == "interpolating":
            assert expected.rows == derivative.linearisation.constraint.operator.shape[0]

    @pytest.mark.parametrize("optimality", ["interpolating", "gauss_newton", "stationary"])
    def test_by_each_map(self, case, optimality):
        problem, _ = problem_of(**CASES[case])
        route = plan(problem, points=K).default(optimality)
        dx = direction(problem, 1)
        if route.obstacle:
            with pytest.raises(ValueError, match="bytes|fitted"):
                problem.derivative(points=K, optimality=optimality)(dx).min_norm()
            return
        derivative = problem.derivative(points=K, optimality=optimality)
        assert class_of(derivative.linearisation.constraint.solver) == route.solver


def test_a_fitted_problem_goes_the_way_that_is_planned():
    for case in ("fitted", "fitted, wide", "fitted, convolutional"):
        problem, _ = problem_of(**CASES[case])
        found = plan(problem, points=K)
        assert found.automatic.name == "interpolating on all rows by Dual"
        assert found.reason.endswith("by Dual if the 192 rows of J prove independent, else stationary")
        assert problem.derivative(points=K).optimality == "interpolating"


def test_more_rows_than_weights_are_known_to_be_dependent():
    model = nn.Linear(2, 1).double().eval()
    x = draw(9, 2, seed=1)
    problem = Problem(model, nn.MSELoss(), x, model(x).detach())
    found = plan(problem)
    assert found.reason == "stationary because 9 rows of J cannot be independent in 3 weights"
    assert problem.derivative().reason == found.reason


class TestNothingIsDone:
    @pytest.mark.parametrize("case", CASES)
    def test_no_full_pass_over_the_data(self, case):
        problem, data = problem_of(**CASES[case])
        before = data.reads
        plan(problem, points=K)
        assert data.reads - before <= 2 * BATCH + 2 * len(K) + 20 < N

    def test_nothing_is_prepared_and_no_row_computed(self, monkeypatch):
        def refuse(*_):
            raise AssertionError

        fit = net("connected").problem()
        for kind in (Dual, Dense, LSMR, MINRES, CG):
            monkeypatch.setattr(kind, "prepare", refuse)
        monkeypatch.setattr(DirectionalJacobian, "rows", refuse)
        assert plan(fit, points=MOVED).automatic.rows == 400

    def test_rows_that_were_chosen_before_are_still_kept(self, monkeypatch):
        problem, rows = net("connected").problem(), InformativeRows(tol=1e-2)
        problem.derivative(points=MOVED, rows=rows)
        plan(problem, points=[0])
        monkeypatch.setattr(DirectionalJacobian, "rows", None)
        problem.derivative(points=MOVED, rows=rows)


@dataclass(frozen=True)
class Way:
    """How a route is asked for, and on what problem."""

    name: str
    optimality: str
    solver: str = ""
    rows: InformativeRows | None = None
    decay: float = 0.0


WAYS = [
    Way("interpolating on all rows by Dual", "interpolating", "dual"),
    Way("interpolating on informative rows by Dual", "interpolating", rows=InformativeRows()),
    Way("interpolating on all rows by LSMR", "interpolating", "LSMR"),
    Way("gauss_newton by Dual", "gauss_newton", "dual"),
    Way("gauss_newton by Dense", "gauss_newton", "dense"),
    Way("gauss_newton by CG", "gauss_newton", "CG"),
    Way("stationary by Dense", "stationary", "dense"),
    Way("stationary by preconditioned CG", "stationary", "preconditioned", decay=0.1),
    Way("stationary by MINRES", "stationary", "MINRES"),
]
ITERATIVE = {"LSMR": LSMR(max_steps=20), "CG": CG(tol=0.3), "MINRES": MINRES(max_steps=20)}


def reads_of(way: Way, kind: str, **options) -> None:
    """Asserts that points are read as often as planned, for the first direction and for a further one."""
    problem, data = problem_of(kind, weight_decay=way.decay, **options)
    route = named(plan(problem, points=K), way.name)
    point = problem.point
    made = {"dense": point.dense_solver, "preconditioned": partial(preconditioned, point)}
    solver = ITERATIVE.get(way.solver) or made.get(way.solver, point.gram_solver)()
    solver = solver if way.rows is None else None
    data.reads = 0
    derivative = problem.derivative(points=K, optimality=way.optimality, solver=solver, rows=way.rows)
    counts = []
    for seed, cost in ((1, route.first), (2, route.direction)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SolsetWarning)  # a solve that its limit cuts short
            steps = derivative(direction(problem, seed)).min_norm().steps
        planned = cost + (steps * route.step if route.step else Cost())
        counts.append((data.reads, N * planned.passes))
        data.reads = 0
    (first, expected), (further, expected_further) = counts
    # A solve that ends at its limit takes two products more, to find out whether it is a least-squares one.
    assert abs(first - expected) <= SMALL + 2 * N * bool(route.step)
    assert abs(further - expected_further) <= 2 * N * bool(route.step)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
@pytest.mark.parametrize("kind", ["connected", "convolutional"])
class TestHowOftenPointsAreRead:
    def test_with_room_for_everything(self, way, kind):
        reads_of(way, kind)

    def test_where_graphs_do_not_fit(self, way, kind):
        if way.solver in ITERATIVE:
            reads_of(way, kind, memory_budget=5000)


@pytest.mark.parametrize(
    ("budget", "place"), [(LARGE, "memory"), (5_000_000, "disk"), (5_000_000, "recomputed")]
)
def test_rows_of_all_points_are_where_the_plan_says(tmp_path, budget, place):
    """The Gauss–Newton matrix takes all rows through Dual whatever their size, if asked to."""
    folder = tmp_path if place == "disk" else None
    problem, data = problem_of("wide", memory_budget=budget, spill_folder=folder)
    route = named(plan(problem, points=K), "gauss_newton by Dual")
    solver = problem.point.gram_solver()
    derivative = problem.derivative(points=K, optimality="gauss_newton", solver=solver)
    derivative(direction(problem, 1)).min_norm()
    kept = solver.plan(derivative.linearisation.constraint.operator.factor)
    assert (route.place, route.rows, route.disk) == (place, N * OUT, kept.disk)
    assert route.memory.rows + route.memory.gram == kept.memory
    files = [file.stat().st_size for file in tmp_path.iterdir()]
    assert len(files) == (place == "disk")
    assert all(0 <= size - route.disk <= 256 for size in files)
    data.reads = 0
    derivative(direction(problem, 2)).min_norm()
    assert data.reads == pytest.approx(N * route.direction.passes, abs=len(K))


@pytest.mark.parametrize("kind", NETS)
class TestInformativeRows:
    def planned(self, problem: Problem, rows: InformativeRows | None) -> tuple[Route, Route]:
        found = plan(problem, points=MOVED, rows=rows)
        return named(found, "interpolating on informative rows by Dual"), found.automatic

    def test_are_counted_as_they_are_taken(self, kind):
        problem = net(kind).problem()
        for tol in (1e-1, 1e-2, 1e-4):
            rows = InformativeRows(tol=tol)
            route, taken = self.planned(problem, rows)
            derivative = problem.derivative(points=MOVED, optimality="interpolating", rows=rows)
            operator = derivative.linearisation.constraint.operator
            kept = derivative.linearisation.constraint.solver.plan(operator)
            assert taken == route
            assert (route.rows, route.place, route.disk) == (operator.shape[0], kept.place, kept.disk)
            assert route.memory.rows + route.memory.gram == kept.memory
            assert f"on {route.rows} of 400 rows" in derivative.reason

    def test_are_the_default_where_all_do_not_fit(self, kind, tmp_path):
        size = net(kind).problem().risk().layout.size
        budget = 8 * 400 * (2 * 400 + 2 * size) - 1
        problem = net(kind).problem(memory_budget=budget, spill_folder=tmp_path)
        route, taken = self.planned(problem, None)
        derivative = problem.derivative(points=MOVED)
        assert taken == route
        assert derivative.reason.startswith(f"interpolating on {route.rows} of 400 rows")
        whole = named(plan(problem, points=MOVED), "interpolating on all rows by Dual")
        assert whole.obstacle
        assert whole.smallest_budget == budget + 1

    def test_too_many_go_to_lsmr_by_name_and_not_by_auto(self, kind):
        problem, rows = net(kind).problem(), InformativeRows(tol=1e-2, max_rows=25)
        found = plan(problem, points=MOVED, rows=rows)
        route = named(found, "interpolating on informative rows by Dual")
        assert "more than the 25 allowed" in route.obstacle
        assert found.default("interpolating").name == "interpolating on all rows by LSMR"
        derivative = problem.derivative(points=MOVED, optimality="interpolating", rows=rows)
        assert type(derivative.linearisation.constraint.solver) is LSMR
        assert found.reason == problem.derivative(points=MOVED, rows=rows).reason


class TestTheSmallestBudget:
    @pytest.mark.parametrize(
        ("name", "options"),
        [
            ("gauss_newton by Dual", {}),
            ("gauss_newton by Dense", {}),
            ("stationary by Dense", {"shift": 1.0}),
            ("stationary by preconditioned CG", {"weight_decay": 0.1}),
            ("stationary by preconditioned CG", {"kind": "wide", "weight_decay": 0.1}),
            ("interpolating on all rows by Dual", {}),
        ],
    )
    def test_is_what_works_and_one_byte_less_does_not(self, name, options):
        budget = named(plan(problem_of(**options)[0], points=K), name).smallest_budget
        for spare, works in ((0, True), (-1, False)):
            problem, _ = problem_of(**options, memory_budget=budget + spare)
            route = named(plan(problem, points=K), name)
            assert route.applies is works
            if not works:
                assert str(budget) in route.obstacle

    def test_of_a_dense_matrix_is_the_one_its_refusal_names(self):
        problem, _ = problem_of(shift=1.0, memory_budget=100_000)
        route = plan(problem, points=K).automatic
        assert (route.solver, route.applies) == ("Dense", False)
        with pytest.raises(ValueError, match=f"at least {route.smallest_budget} bytes"):
            problem.derivative(points=K)(direction(problem, 1)).min_norm()

    def test_of_informative_rows_is_the_one_their_refusal_names(self):
        problem, _ = problem_of("wide", memory_budget=500_000)
        route = named(plan(problem, points=K), "interpolating on informative rows by Dual")
        assert not route.applies
        with pytest.raises(ValueError, match=f"at least {route.smallest_budget} bytes"):
            problem.derivative(points=K, optimality="interpolating")


@pytest.mark.parametrize("budget", [LARGE, 1000])
def test_graphs_are_kept_as_the_plan_says(budget):
    problem, data = problem_of(memory_budget=budget)
    kept = {one.operator: one for one in plan(problem, points=K).graphs}
    hessian = Hessian(problem.risk(), memory_budget=budget)
    vector = draw(len(problem.weights()), seed=1)
    hessian @ vector
    data.reads = 0
    hessian @ vector
    assert kept["Hessian"].are_kept == (data.reads == 0)
    assert kept["Hessian"].all_bytes == N // BATCH * kept["Hessian"].batch_bytes > 1000


class TestTheOthers:
    @pytest.mark.parametrize("options", [{}, {"memory_budget": 1_000_000}])
    def test_an_audit_is_joint_where_the_plan_says(self, options):
        problem, _ = problem_of(**options)
        found = plan(problem, points=K)
        result = audit(problem, points=K)
        assert named(found, "audit, joint").is_default == (result.modulus is not None)
        assert named(found, "audit, isolated").is_default == (result.modulus is None)

    @pytest.mark.parametrize("options", [{}, {"memory_budget": 1_000_000}])
    def test_an_audit_reads_points_as_often_as_planned(self, options):
        problem, data = problem_of(**options)
        route = next(one for one in plan(problem, points=K).others if one.is_default)
        data.reads = 0
        audit(problem, points=K)
        assert abs(data.reads - N * route.first.passes) <= SMALL

    def test_an_audit_of_an_unfitted_problem_has_the_obstacle_of_the_map(self):
        found = plan(problem_of(shift=1.0)[0], points=K)
        assert "not fitted" in named(found, "audit, joint").obstacle
        assert "not fitted" in named(found, "audit, isolated").obstacle

    def test_a_path_goes_along_the_map_that_auto_takes(self):
        for options, name, applies in (
            ({}, "path along kept outputs", True),
            ({"weight_decay": 0.1}, "path along an isolated solution", True),
            ({"shift": 1.0}, "path along an isolated solution", False),
        ):
            assert named(plan(problem_of(**options)[0], points=K), name).applies is applies


def test_it_can_be_written_as_json():
    for options in CASES.values():
        found = plan(problem_of(**options)[0], points=K)
        written = json.loads(json.dumps(found.to_dict()))
        assert written["routes"][0]["first"]["passes"] == found.routes[0].first.passes
        assert written["routes"][0]["memory"]["total"] == found.routes[0].memory.total
        assert [route["name"] for route in written["others"]] == [route.name for route in found.others]


def test_points_that_are_not_there_are_refused():
    with pytest.raises(ValueError, match="in 0..47"):
        plan(problem_of()[0], points=[N])


def test_all_points_move_by_default():
    found = plan(problem_of()[0])
    assert (found.moved, found.points, found.processes) == (N, N, 1)


def test_a_spill_folder_that_is_full_is_not_counted_on(tmp_path, monkeypatch):
    problem, _ = problem_of("wide", memory_budget=5_000_000, spill_folder=tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 0}))
    assert named(plan(problem, points=K), "gauss_newton by Dual").place == "recomputed"
    assert list(Path(tmp_path).iterdir()) == []


def test_it_prints_as_one_line_and_has_a_row_for_each_route():
    costs = plan(problem_of()[0], points=K)
    assert repr(costs).startswith(
        "Plan(2 of 48 points move, 224 weights; auto takes interpolating on all rows"
    )
    rows = costs.rows()
    assert [row["name"] for row in rows] == [route.name for route in (*costs.routes, *costs.others)]
    assert all(row.keys() == rows[0].keys() for row in rows)


def test_what_is_no_problem_is_refused_by_name():
    with pytest.raises(TypeError, match=r"`problem` must be a Problem"):
        plan(nn.Linear(1, 1))  # pyright: ignore[reportArgumentType]
