"""Landscapes: closed forms on linear models, invariance on ReLU nets, resumption to the last bit."""

import copy
import importlib
import json
import math
import re

import pytest
import torch
from torch import Tensor, nn

from solset import Problem
from solset.landscapes import filter_normalised, landscape
from solset.zoo import DFCNN

MODULE = importlib.import_module("solset.landscapes._landscape")


def draw(*shape: int, seed: int = 7) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def linear_problem(n: int = 8, d: int = 3, **options) -> Problem:
    """``f(x) = wᵀx`` with squared loss, fitted exactly."""
    model, x = nn.Linear(d, 1, bias=False).double(), draw(n, d, seed=1)
    with torch.no_grad():
        model.weight.copy_(draw(1, d, seed=2))
        return Problem(model, nn.MSELoss(), x, model(x), **options)


def relu_problem(scale: float = 1.0) -> Problem:
    """The same function whatever the scale: one layer times it, the next divided by it."""
    model = DFCNN([4, 6, 5, 2], generator=torch.Generator().manual_seed(0))
    x = draw(7, 4, seed=1)
    targets = model(x).detach() + 0.1
    with torch.no_grad():
        model.layers[0].mul_(scale)
        model.layers[1].div_(scale)
    return Problem(model.eval(), nn.MSELoss(), x, targets, gradient_tol=math.inf, batch_size=3)


def two(problem: Problem, seed: int = 7) -> dict[str, Tensor]:
    first, second = draw(2, len(problem.weights()), seed=seed)
    return {"first": first, "second": second}


def count_losses(monkeypatch, fail_at: int | None = None) -> list[int]:
    """Counts evaluations; the one numbered ``fail_at`` is an interrupt."""
    seen, real = [], MODULE.subset_losses

    def counted(*arguments):
        seen.append(1)
        if len(seen) == fail_at:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(MODULE, "subset_losses", counted)
    return seen


class TestFilterNormalised:
    def test_every_filter_has_the_norm_of_the_weights_filter(self, build_case):
        risk = build_case("conv-ce-sum").risk()
        found = filter_normalised(risk, draw(risk.layout.size))
        for w, d in zip(risk.layout.split(risk.weights), risk.layout.split(found), strict=True):
            if w.ndim >= 2:
                torch.testing.assert_close(
                    d.flatten(1).norm(dim=1), w.flatten(1).norm(dim=1), rtol=1e-15, atol=0
                )
            else:
                assert not d.any(), "biases and normalisation are left out"

    def test_biases_are_one_filter_if_wanted(self, build_case):
        problem = build_case("tanh-ce-mean").problem()
        layout, w = problem.risk().layout, problem.weights()
        found = layout.split(filter_normalised(problem, draw(len(w)), has_biases=True))
        assert float(found[1].norm()) == pytest.approx(float(layout.split(w)[1].norm()), rel=1e-14)

    def test_a_filter_that_is_zero_on_either_side_is_zero(self):
        problem = relu_problem()
        weights, direction = problem.weights().clone(), draw(len(problem.weights()))
        weights[:5], direction[5:10] = 0.0, 0.0  # the two filters of the output layer, which comes first
        found = filter_normalised(problem.risk().at(weights), direction)
        assert not found[:10].any()
        assert found[10:].all()
        assert torch.isfinite(found).all()


class TestClosedForms:
    def test_a_linear_model_has_an_exact_paraboloid(self):
        problem = linear_problem(weight_decay=0.1, gradient_tol=math.inf, batch_size=3)
        directions = two(problem)
        found = landscape(problem, directions, normalise="none", ranges=[(-2, 1), (0, 3)], resolution=7)
        x, w = problem.risk().points[range(8)][0], problem.weights()
        s, t = torch.meshgrid(*found.coordinates, indexing="ij")
        v = s[..., None] * directions["first"] + t[..., None] * directions["second"]
        expected = (v @ x.T).square().mean(dim=-1) + 0.05 * (w + v).square().sum(dim=-1)
        torch.testing.assert_close(found.values["all"], expected, rtol=1e-12, atol=1e-12)
        assert found.centre_values["all"] == problem.risk().value()
        assert "with weight decay, mean over 8 points" in found.quantities["all"]

    def test_the_kernel_of_an_overparameterised_model_is_a_flat_valley(self):
        problem = linear_problem(n=2, d=5)
        x = problem.risk().points[range(2)][0]
        kernel = torch.linalg.svd(x).Vh[4]
        found = landscape(problem, {"across": x[0], "kernel": kernel}, normalise="none", resolution=5)
        assert found.plane.cosine == pytest.approx(0, abs=1e-14)
        assert found.values["all"][2].max() <= 1e-28, "on the solution set"
        across = found.values["all"][:, 2]
        torch.testing.assert_close(found.values["all"], across[:, None].expand(5, 5), rtol=1e-12, atol=1e-13)

    def test_a_line_is_a_row_of_the_plane(self):
        problem, directions = relu_problem(), two(relu_problem())
        whole = landscape(problem, directions, ranges=[(-1, 1), (-1, 1)], resolution=5)
        line = landscape(problem, {"first": directions["first"]}, resolution=5)
        assert line.values["all"].shape == (5,)
        torch.testing.assert_close(line.values["all"], whole.values["all"][:, 2], rtol=1e-14, atol=0)

    @pytest.mark.parametrize("reduction", ["mean", "sum"])
    def test_subsets_are_their_own_losses(self, reduction):
        model, x, y = nn.Linear(3, 2).double(), draw(8, 3), draw(8, 2, seed=3)
        loss = nn.MSELoss(reduction=reduction)
        problem = Problem(model, loss, x, y, gradient_tol=math.inf, batch_size=3, weight_decay=0.2)
        risk, dx = problem.risk().move([5], draw(1, 3, seed=4)), draw(1, 3, seed=4)
        found = landscape(
            problem, {"d": draw(8)}, normalise="none", risk=risk, subsets={"some": [6, 5, 0]}, resolution=3
        )
        for i, s in enumerate(found.coordinates[0]):
            at = problem.weights() + s * draw(8)
            out = x.index_add(0, torch.tensor([5]), dx) @ at[:6].reshape(2, 3).T + at[6:]
            expected = loss(out[[0, 5, 6]], y[[0, 5, 6]])
            torch.testing.assert_close(found.values["some"][i], expected.detach(), rtol=1e-12, atol=0)
            assert float(found.values["all"][i]) == pytest.approx(risk.at(at).value(), rel=1e-14)


class TestInvariance:
    @pytest.mark.parametrize("scale", [0.1, 7.0])
    def test_a_filter_normalised_slice_does_not_see_the_scale_of_relu_layers(self, scale):
        plain, scaled = relu_problem(), relu_problem(scale)
        options = {"normalise": "filter", "ranges": [(-1, 1), (-0.5, 1)], "resolution": 6}
        first, second = (landscape(p, two(p), **options).values["all"] for p in (plain, scaled))
        torch.testing.assert_close(first, second, rtol=1e-10, atol=0)

    def test_the_unit_of_length_does_not_either_if_directions_scale_along(self):
        plain, scaled = relu_problem(), relu_problem(7.0)
        factors = torch.tensor([1.0] * 10 + [7.0] * 24 + [1 / 7.0] * 30, dtype=torch.float64)
        along = {name: factors * d for name, d in two(plain).items()}
        first, second = landscape(plain, two(plain), resolution=5), landscape(scaled, along, resolution=5)
        torch.testing.assert_close(first.values["all"], second.values["all"], rtol=1e-10, atol=0)

    def test_the_unit_of_length_is_a_total_relative_change_of_one(self):
        problem = relu_problem()
        risk = problem.risk()
        (axis,) = landscape(problem, {"d": draw(64)}, resolution=2).plane.axes.values()
        pairs = zip(risk.layout.split(axis), risk.layout.split(risk.weights), strict=True)
        total = sum(float((d.norm(dim=1) / w.norm(dim=1)).square().sum()) for d, w in pairs)
        assert total == pytest.approx(1.0, rel=1e-13)


class TestMarks:
    def marks(self, problem: Problem, directions: dict[str, Tensor]) -> dict[str, Tensor]:
        w, (a, b) = problem.weights(), directions.values()
        return {"trained weights": w, "others": torch.stack([w + a, w + a - 0.5 * b])}

    def test_marks_lie_at_their_coordinates(self):
        problem, directions = relu_problem(), two(relu_problem())
        marks = self.marks(problem, directions)
        found = landscape(problem, directions, normalise="none", marks=marks, resolution=3)
        trained, others = found.marks
        torch.testing.assert_close(trained.coordinates, torch.zeros(1, 2).double())
        torch.testing.assert_close(others.coordinates, torch.tensor([[1, 0], [1, -0.5]]).double())
        assert trained.off_plane.tolist() == [0.0]
        assert others.off_plane.max() <= 1e-14
        assert others.values["all"][1] == problem.risk().at(marks["others"][1]).value()
        assert trained.values["all"].tolist() == [found.centre_values["all"]]

    @pytest.mark.parametrize("normalise", ["none", "length"])
    def test_default_ranges_cover_centre_and_marks(self, normalise):
        problem, directions = relu_problem(), two(relu_problem())
        found = landscape(
            problem, directions, normalise=normalise, marks=self.marks(problem, directions), resolution=3
        )
        for place, axis in enumerate(found.coordinates):
            shown = torch.cat([mark.coordinates[:, place] for mark in found.marks])
            assert float(axis[0]) < float(shown.min())
            assert float(axis[-1]) > float(shown.max())

    def test_an_axis_without_marks_is_as_long_as_the_other(self):
        problem, directions = relu_problem(), two(relu_problem())
        w, (a, _) = problem.weights(), directions.values()
        found = landscape(problem, directions, normalise="none", marks={"a": w + a}, resolution=2)
        torch.testing.assert_close(found.coordinates[0], torch.tensor([-1 / 3, 4 / 3]).double())
        torch.testing.assert_close(found.coordinates[1], torch.tensor([-0.5, 0.5]).double())

    def test_filter_normalised_axes_leave_the_marks_and_say_so(self):
        problem, directions = relu_problem(), two(relu_problem())
        w, (a, _) = problem.weights(), directions.values()
        found = landscape(problem, directions, normalise="filter", marks={"a": w + a}, resolution=2)
        basis = torch.stack(list(found.plane.axes.values()), dim=1)
        expected = torch.linalg.lstsq(basis, a[:, None]).solution
        torch.testing.assert_close(found.marks[0].coordinates, expected.T, rtol=1e-12, atol=1e-12)
        off = float((a - (basis @ expected)[:, 0]).norm() / a.norm())
        assert off > 0.1
        assert float(found.marks[0].off_plane) == pytest.approx(off, rel=1e-12)
        assert float(found.project(w + a)[1]) == float(found.marks[0].off_plane)

    def test_the_record_is_json(self):
        problem = relu_problem()
        found = landscape(problem, two(problem), marks={"w": problem.weights()}, resolution=2)
        record = json.loads(json.dumps(found.to_dict()))
        assert record["values"]["all"] == found.values["all"].tolist()
        assert record["marks"]["w"]["coordinates"] == [[0.0, 0.0]]


class TestCheckpoint:
    OPTIONS = {"subsets": {"some": [1, 2]}, "resolution": 5, "progress": False}

    @pytest.mark.parametrize("axes", [1, 2])
    def test_an_interrupted_run_goes_on_to_the_same_bits(self, tmp_path, monkeypatch, axes):
        problem, file = relu_problem(), tmp_path / "rows.json"
        directions = dict(list(two(problem).items())[:axes])
        whole = landscape(problem, directions, **self.OPTIONS)
        row = 5 ** (axes - 1)
        with monkeypatch.context() as patch:
            count_losses(patch, fail_at=1 + 3 * row)  # the centre, two rows, and a part of the third
            with pytest.raises(KeyboardInterrupt):
                landscape(problem, directions, checkpoint=file, **self.OPTIONS)
        seen = count_losses(monkeypatch)
        resumed = landscape(problem, directions, checkpoint=str(file), **self.OPTIONS)
        assert len(seen) == 1 + 3 * row, "the centre and three rows"
        for name, values in whole.values.items():
            assert torch.equal(resumed.values[name], values)
        landscape(problem, directions, checkpoint=file, **self.OPTIONS)
        assert len(seen) == 2 + 3 * row, "a finished file leaves only the centre to compute"
        assert [path.name for path in tmp_path.iterdir()] == ["rows.json"]

    @pytest.mark.parametrize(
        ("changed", "named"),
        [
            ({"resolution": 4}, "resolution"),
            ({"normalise": "none"}, "directions, normalise"),
            ({"ranges": [(-1, 2), (-1, 1)]}, "ranges"),
            ({"subsets": {"some": [1, 3]}}, "subsets"),
            ({"centre": draw(64)}, "centre, directions"),
            ({"risk": relu_problem().risk().move([0], draw(1, 4))}, "data"),
        ],
    )
    def test_a_file_of_other_settings_is_refused_by_name(self, tmp_path, changed, named):
        problem, file = relu_problem(), tmp_path / "rows.json"
        landscape(problem, two(problem), checkpoint=file, **self.OPTIONS)
        before = file.read_bytes()
        with pytest.raises(ValueError, match=f"`checkpoint` must be .* differs in {named}"):
            landscape(problem, two(problem), checkpoint=file, **{**self.OPTIONS, **changed})
        assert file.read_bytes() == before

    def test_a_network_that_only_its_loss_tells_apart_is_refused(self, tmp_path):
        problem, file = relu_problem(), tmp_path / "rows.json"
        landscape(problem, two(problem), checkpoint=file, **self.OPTIONS)
        problem.risk().model.activation = torch.tanh
        with pytest.raises(ValueError, match="differs in the loss at the centre"):
            landscape(problem, two(problem), checkpoint=file, **self.OPTIONS)

    @pytest.mark.parametrize("content", ["", "{}", "[1]", "not JSON"])
    def test_a_file_of_another_kind_is_left_as_it_is(self, tmp_path, content):
        problem, file = relu_problem(), tmp_path / "mine.json"
        file.write_text(content)
        with pytest.raises(ValueError, match="which is not a checkpoint of solset"):
            landscape(problem, two(problem), checkpoint=file, **self.OPTIONS)
        assert file.read_text() == content

    def test_a_folder_that_is_not_there_is_refused(self, tmp_path):
        problem = relu_problem()
        with pytest.raises(ValueError, match="a folder that exists"):
            landscape(problem, two(problem), checkpoint=tmp_path / "no" / "rows.json")

    def test_what_is_not_finite_is_kept(self, tmp_path):
        model = nn.Linear(1, 1, bias=False).double()
        nn.init.constant_(model.weight, 1.0)
        ones = torch.ones(2, 1).double()
        problem = Problem(model, _log_loss, ones, ones, target_moves=False)
        for _ in range(2):  # computed, and read back
            found = landscape(
                problem,
                {"w": torch.ones(1).double()},
                normalise="none",
                ranges=[(-2, 0)],
                resolution=3,
                checkpoint=tmp_path / "rows.json",
            )
            values = found.values["all"].tolist()
            assert math.isnan(values[0])
            assert values[1:] == [math.inf, 0.0]


def _log_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return (torch.log(outputs) - torch.log(targets)).square().mean()


def test_the_users_model_and_the_random_state_stay_as_they_were(build_case):
    case = build_case("conv-ce-sum")
    problem, before = case.problem(), copy.deepcopy(case.model.state_dict())
    state = torch.get_rng_state()
    landscape(problem, two(problem), normalise="filter", resolution=3)
    for name, value in case.model.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(p.requires_grad and p.grad is None for p in case.model.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_the_bar_is_shown_only_where_it_is_asked_for(capsys):
    problem = relu_problem()
    for progress in (None, False):
        landscape(problem, two(problem), resolution=2, progress=progress)
        assert capsys.readouterr().err == ""
    landscape(problem, two(problem), resolution=2, progress=True)
    assert "landscape" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("directions", "options", "message"),
    [
        ({}, {}, "`directions` must be one or two"),
        ({k: draw(64, seed=i) for i, k in enumerate("abc")}, {}, "`directions` must be one or two"),
        ({"a": torch.zeros(64).double()}, {}, r"`directions\['a'\]` must be not zero"),
        ({"a": draw(64), "b": -2 * draw(64)}, {}, "`directions` must be two directions that span a plane"),
        ({"a": draw(63)}, {}, r"`directions\['a'\]` must be of shape \(64,\)"),
        ({"a": draw(64).float()}, {}, r"`directions\['a'\]` must be torch.float64"),
        ({"a": draw(64) / 0}, {}, r"`directions\['a'\]` must be finite"),
        ({"a": draw(64)}, {"resolution": 1}, "`resolution` must be at least 2"),
        ({"a": draw(64)}, {"ranges": [(1, -1)]}, "`ranges` must be finite pairs"),
        ({"a": draw(64)}, {"ranges": [(0, math.inf)]}, "`ranges` must be finite pairs"),
        ({"a": draw(64)}, {"ranges": [(0, 1), (0, 1)]}, "`ranges` must be one pair for each of 1"),
        ({"a": draw(64)}, {"subsets": {"all": [0]}}, "`subsets` must be names other than"),
        ({"a": draw(64)}, {"subsets": {"b": [7]}}, r"`subsets\['b'\]` must be in 0..6"),
        ({"a": draw(64)}, {"marks": {"b": draw(2, 3)}}, r"`marks\['b'\]` must be of shape \(64,\)"),
        ({"a": draw(64)}, {"centre": draw(3)}, "`centre` must be of shape"),
        (
            {"a": draw(64)},
            {"risk": linear_problem().risk()},
            "`risk` must be a risk with the weights of the problem",
        ),
    ],
)
def test_bad_input_is_refused_by_name(directions, options, message):
    with pytest.raises(ValueError, match=message):
        landscape(relu_problem(), directions, **options)


def test_a_truth_value_is_no_number():
    with pytest.raises(TypeError, match="`resolution` must be an integer; got True"):
        landscape(relu_problem(), {"a": draw(64)}, resolution=True)


@pytest.mark.parametrize("normalise", ["length", "filter"])
def test_a_direction_of_biases_alone_needs_them_counted(normalise, build_case):
    problem = build_case("tanh-ce-mean").problem()
    parts = [
        torch.ones(shape) if len(shape) == 1 else torch.zeros(shape)
        for shape in problem.risk().layout.shapes.values()
    ]
    direction = {"biases": problem.risk().layout.join(parts).double()}
    with pytest.raises(ValueError, match="has_biases=True"):
        landscape(problem, direction, normalise=normalise, resolution=2)
    assert (
        landscape(problem, direction, normalise=normalise, has_biases=True, resolution=2).values["all"].all()
    )


def test_a_landscape_prints_its_grid_and_losses_on_one_line():
    problem = relu_problem()
    shown = landscape(problem, two(problem), marks={"w": problem.weights()}, resolution=2)
    first, second = shown.plane.axes
    assert re.fullmatch(
        rf"Landscape\(2 × 2 losses along {first} and {second}, \S+ at the centre, \S+ at the lowest\)",
        repr(shown),
    )
    assert repr(shown.marks[0]) == "Mark(w, 1 vector up to 0 off the plane)"
