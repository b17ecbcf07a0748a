"""``solset choose`` at the door, and what it finds."""

import json
from itertools import combinations
from pathlib import Path

import pytest
import torch
from torch import Tensor

from support.commands import contents

TASK = """
import torch
from mine import decayed, build
from solset.goals import HeldOutLoss

def task():
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(4, 2, generator=generator, dtype=torch.float64)
    return decayed(), HeldOutLoss(inputs, torch.ones(4, 1, dtype=torch.float64))
"""


def ridge_losses() -> dict[tuple[int, ...], float]:
    """The loss on the held-out points of the task without any two training points, in closed form."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 2, generator=generator, dtype=torch.float64)
    y = torch.randn(6, 1, generator=generator, dtype=torch.float64)
    unseen = torch.randn(4, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def loss(rows: list[int]) -> float:
        matrix = 2 / len(rows) * x[rows].T @ x[rows] + 0.1 * torch.eye(2, dtype=torch.float64)
        weights: Tensor = torch.linalg.solve(matrix, 2 / len(rows) * x[rows].T @ y[rows])
        return float((unseen @ weights - 1).square().mean())

    return {pair: loss([i for i in range(6) if i not in pair]) for pair in combinations(range(6), 2)}


class TestChoose:
    @pytest.fixture(autouse=True)
    def task(self, solset):
        Path("task.py").write_text(TASK)

    def test_the_best_pair_to_drop_is_that_of_all_pairs(self, solset):
        losses = ridge_losses()
        ended = solset("choose", "task.py:task", "--change", "drop", "--most", "2", "--out", "drop")
        assert ended.code == 0
        result = json.loads(contents("drop")["result.json"])
        best = max(losses, key=losses.__getitem__)
        assert tuple(sorted(result["points"])) == best
        assert result["real"] == pytest.approx(losses[best], rel=1e-9)
        assert len(result["random"]) == 5
        assert all(one["value"] <= result["real"] + 1e-12 for one in result["random"])

    def test_labels_flip_among_those_that_are_given_and_a_run_is_resumed_to_the_same_bytes(self, solset):
        arguments = ["choose", "task.py:task", "--change", "flip", "--most", "1", "--labels=-2,2"]
        assert solset(*arguments, "--random", "2", "--out", "flip").code == 0
        whole = contents("flip")
        (one,) = json.loads(whole["result.json"])["rounds"]
        assert one["label"] in {-2.0, 2.0}
        Path("flip/random_1.json").unlink()
        assert solset(*arguments, "--random", "2", "--out", "flip", "--resume").code == 0
        assert contents("flip") == whole

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["--change", "move"], "`change` must be one of 'flip', 'drop'; got 'move'"),
            (["--change", "drop", "--most", "0"], "`most` must be at least 1; got 0"),
            (["--change", "drop", "--points", "9"], "`points` must be in 0..5; got [9]"),
            (["--change", "flip", "--labels", "a"], "`--labels` must be numbers such as 0,1.5; got 'a'"),
            ([], "`--change` must be given; got nothing"),
        ],
    )
    def test_a_bad_argument_ends_in_one_line_and_leaves_no_folder(self, solset, arguments, says):
        most = [] if "--most" in arguments else ["--most", "1"]
        ended = solset("choose", "task.py:task", *arguments, *most, "--out", "new")
        assert (ended.code, says in ended.error) == (2, True), ended.error
        assert not Path("new").exists()
