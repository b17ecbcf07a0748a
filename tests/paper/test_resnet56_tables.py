"""The settings and the tables of the ResNet56 experiment, without running it."""

import dataclasses
import math
from typing import Any

import pytest
import torch

from solset.paper._resnet56_report import (
    PAPER_MOVED,
    PAPER_STEPS,
    accuracy_rows,
    limit_rows,
    retraining_rows,
    step_rows,
    table_1_rows,
)
from support.resnet56_runs import SMALL, small


class TestSettings:
    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"moved": ()}, r"`moved` must be numbers in 1\.\.16"),
            ({"moved": (1, 0)}, r"`moved` must be numbers in 1\.\.16; got \(1, 0"),
            ({"moved": (17,)}, r"`moved` must be numbers in 1\.\.16; got \(17"),
            ({"figure_moved": 17}, r"`figure_moved` must be from 0 to 16; got 17"),
            ({"figure_moved": -1}, r"`figure_moved` must be from 0 to 16; got -1"),
            ({"resolution": 1}, "`resolution` must be at least 2; got 1"),
            ({"retraining_gradients": -1}, "`retraining_gradients` must be at least 0; got -1"),
            ({"samples": 0}, "`samples` must be at least 1; got 0"),
            ({"paper_steps": 0}, "`paper_steps` must be at least 1; got 0"),
            ({"batch_size": 0}, "`batch_size` must be at least 1; got 0"),
            ({"memory_gigabytes": 0.0}, "`memory_gigabytes` must be positive and finite; got 0"),
            ({"memory_gigabytes": math.nan}, "`memory_gigabytes` must be a number; got nan"),
            ({"sizes": ()}, r"`sizes` must be positive steps; got \(\)"),
            ({"sizes": (0.01, 0.0)}, r"`sizes` must be positive steps; got \(0\.01, 0\.0\)"),
            ({"sizes": (-0.01,)}, "`sizes` must be positive steps"),
        ],
    )
    def test_impossible_settings_are_refused(self, change, says):
        with pytest.raises(ValueError, match=says):
            dataclasses.replace(SMALL, **change)

    def test_all_points_may_move(self):
        assert dataclasses.replace(SMALL, moved=(16,), figure_moved=16).moved == (16,)

    def test_fewer_images_than_points_are_refused(self, tmp_path):
        start = small()
        few = dataclasses.replace(start, data=start.data.part(0, 15))
        with pytest.raises(
            ValueError, match=r"`data` must be 16 images or more; got 15\. Use fewer --points"
        ):
            few.open(tmp_path / "run")

    def test_more_images_than_points_are_left_out(self, tmp_path):
        run = small().open(tmp_path / "run", points=10)
        assert torch.equal(run.start.data.inputs, small().data.inputs[:10])
        assert run.start.problem.point_count == 10


def losses(moved: float, whole: float = 0.5) -> dict[str, float]:
    return {"moved": moved, "all": whole, "output_change_moved": 3.0, "output_change": 4.0}


def made_up(size: float, trained: float = 1.0) -> dict[str, Any]:
    """One step of one number of moved points."""
    return {
        "size": size,
        "perturbation": 10 * size,
        "distance": 2 * size,
        "sampled_distance": 3 * size,
        "relative_change": size / 2,
        "trained": losses(trained),
        "estimate": losses(trained / 8, 0.25),
        "samples": [losses(0.3), losses(0.7), losses(0.1)],
        "paper_way": losses(0.9, 7.0),
        "beyond_first_order": {"linear": 5.0, "inputs": size, "weights": 2 * size, "mixed": 3 * size},
    }


def experiment(counts: tuple[int, ...], sizes: tuple[float, ...]) -> dict[str, Any]:
    """Made-up numbers: at the trained weights the loss is the count and the size in one."""
    return {
        "moved": {
            str(count): {
                "points": list(range(count)),
                "clean": {"moved": 0.01, "all": 0.02 * count},
                "check": {"residual": 1e-3 * count, "rows": 50.0 * count},
                "sizes": [made_up(size, count + size) for size in sizes],
            }
            for count in counts
        }
    }


class TestTables:
    def test_table_1_has_the_three_smallest_steps_of_each_number(self):
        rows = table_1_rows(experiment((1, 3), (0.05, 0.002, 0.01, 0.005)))
        assert [(row["moved"], row["step_percent"]) for row in rows] == [
            *((1, 0.2), (1, 0.5), (1, 1.0)),
            *((3, 0.2), (3, 0.5), (3, 1.0)),
        ]
        assert rows[3]["trained"] == 3.002
        assert rows[3]["estimate"] == 3.002 / 8
        assert rows[3]["all"] == 0.25
        assert rows[3]["clean"] == 0.06

    @pytest.mark.parametrize("count", [1, 2, 10, 100])
    @pytest.mark.parametrize("sizes", [(0.002, 0.005), (0.001, 0.002), (0.005, 0.01), (0.01,)])
    def test_the_papers_table_1_stands_beside_its_own_rows(self, count, sizes):
        printed = {1: (0.0041, 1.9e-5), 10: (0.0045, 6.2e-5)}
        assert printed == PAPER_MOVED
        rows = table_1_rows(experiment((count,), sizes))
        assert len(rows) == len(sizes)
        for size, row in zip(sizes, rows, strict=True):
            expected = printed.get(count, (None, None)) if size == 0.002 else (None, None)
            assert (row["paper_trained"], row["paper_estimate"]) == expected

    @pytest.mark.parametrize("counts", [(1,), (10,), (1, 10), (10, 1), (2, 10, 9), (10, 100)])
    def test_the_papers_table_3_stands_beside_ten_moved_images(self, counts):
        printed = {0.005: (0.15, 0.005), 0.01: (1.19, 0.3), 0.02: (3.35, 1.9)}
        assert printed == PAPER_STEPS
        sizes = (0.002, 0.005, 0.01, 0.02, 0.05)
        rows = step_rows(experiment(counts, sizes))
        for size, row in zip(sizes, rows, strict=True):
            expected = printed.get(size, (None, None)) if max(counts) == 10 else (None, None)
            assert (row["paper_trained"], row["paper_estimate"]) == expected

    def test_table_3_is_of_the_largest_number_not_of_the_largest_word(self):
        (row,) = step_rows(experiment((9, 10, 1), (0.03,)))
        assert row["trained"] == 10.03
        assert row["step_percent"] == 3.0
        assert row["samples"] == 0.7  # the worst of them
        assert (row["paper_way"], row["paper_way_all"]) == (0.9, 7.0)
        assert (row["change_moved"], row["change_all"]) == (3.0, 4.0)
        assert (row["distance"], row["sampled_distance"]) == (0.06, 0.09)

    def test_table_3_without_samples(self):
        numbers = experiment((1,), (0.01,))
        numbers["moved"]["1"]["sizes"][0]["samples"] = []
        assert step_rows(numbers)[0]["samples"] is None

    def test_table_2_has_the_estimate_and_every_method(self):
        numbers = experiment((1, 2), (0.01,))
        numbers["moved"]["2"]["retraining"] = {
            "size": 0.01,
            "trained": losses(1.0),
            "estimate": {"relative_change": 0.1, **losses(0.2)},
            "L-BFGS": {"gradients": 21, "relative_change": 0.3, "cosine": 0.6, **losses(0.4, 0.8)},
        }
        estimate, method = retraining_rows(numbers)
        assert (estimate["method"], estimate["gradients"], estimate["cosine"]) == ("estimate", None, None)
        assert (estimate["moved"], estimate["relative_change"], estimate["loss_moved"]) == (2, 0.1, 0.2)
        assert method == {
            "moved": 2,
            "method": "L-BFGS",
            "gradients": 21,
            "relative_change": 0.3,
            "cosine": 0.6,
            "loss_moved": 0.4,
            "loss_all": 0.8,
            "output_change": 4.0,
        }

    def test_table_2_of_no_retraining_is_empty(self):
        assert retraining_rows(experiment((1, 2), (0.01,))) == []

    def test_accuracy_has_a_row_for_each_number(self):
        rows = accuracy_rows(experiment((1, 10), (0.01,)))
        assert rows == [
            {"moved": 1, "residual": 1e-3, "rows": 50.0},
            {"moved": 10, "residual": 1e-2, "rows": 500.0},
        ]

    def test_limits_are_of_the_largest_number(self):
        numbers = experiment((9, 10), (0.01, 0.02))
        numbers["moved"]["9"]["sizes"][0]["beyond_first_order"]["linear"] = math.inf
        first, second = limit_rows(numbers)
        assert first == {"step_percent": 1.0, "linear": 5.0, "inputs": 0.01, "weights": 0.02, "mixed": 0.03}
        assert second["step_percent"] == 2.0
