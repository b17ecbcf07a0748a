"""``solset poison`` at the door."""

import json
from pathlib import Path

import pytest

from solset.reports import _poison as poison
from support.commands import ATTACK as BASE
from support.commands import contents

ATTACK = (
    BASE
    + """
def solved(x, y, seed):
    return (torch.linalg.pinv(x) @ y).reshape(-1)

def flipped():
    from torch import nn
    from solset import Problem
    problem = build()
    inputs, targets = problem.risk().points[range(6)]
    return Problem(problem.risk().model, nn.MSELoss(), inputs.flip(0), targets.flip(0))

def lengths():
    from solset.goals import WeightFunction
    return build(), WeightFunction(lambda weights: weights.square().sum())

def nowhere():
    from solset.goals import WeightFunction
    return build(), WeightFunction(lambda weights: weights.detach().sum())
"""
)
POISON = (
    "poison",
    "attack.py:attack",
    "--points",
    "4,1",
    "--radius",
    "0.1",
    "--training",
    "0",
    "--random",
    "2",
)


class TestPoison:
    @pytest.fixture(autouse=True)
    def attack(self, solset):
        Path("attack.py").write_text(ATTACK)

    def test_writes_results_and_resumes_to_the_same_bytes(self, solset, monkeypatch):
        arguments = [*POISON, "--from-scratch", "1,2", "--image", "1x2"]
        ended = solset(*arguments, "--out", "whole")
        assert ended.code == 0
        assert "Open the report: whole/report.html" in ended.out
        whole = contents("whole")
        result = json.loads(whole["result.json"])
        assert [row["name"] for row in result["gain"]][-2:] == [
            "from scratch, seed 1",
            "from scratch, seed 2",
        ]
        assert all(row["is_success"] for row in result["gain"])
        judge, calls = poison.judge_poisoning, []

        def stopping(*given, **options):
            calls.append(given)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return judge(*given, **options)

        monkeypatch.setattr(poison, "judge_poisoning", stopping)
        assert solset(*arguments, "--out", "stopped").code == 130
        assert solset(*arguments, "--out", "stopped", "--resume").code == 0
        assert len(calls) == 4
        assert contents("stopped") == whole
        refused = solset(*arguments, "--radius", "0.2", "--out", "stopped", "--resume")
        assert (refused.code, "radius (now 0.2, was 0.1)" in refused.error) == (2, True)

    @pytest.mark.parametrize(
        ("old", "new", "says"),
        [
            ("torch.ones(4, 1", "torch.zeros(4, 1", "differ in goal"),
            ("HeldOutLoss(inputs, ", "HeldOutLoss(2 * inputs, ", "differ in goal"),
            ("build(), goal, lambda", "flipped(), goal, lambda", "differ in data"),
            ("build(), goal, lambda", "build(), goal, lambda x, y, seed: None #", ""),
            ("lambda x, y, seed: (torch.linalg.pinv(x) @ y).reshape(-1)", "solved", "differ in trainer"),
        ],
    )
    def test_a_run_of_another_task_is_not_resumed(self, solset, old, new, says):
        arguments = [*POISON, "--random", "0", "--rounds", "1", "--out", "kept"]
        assert solset(*arguments).code == 0
        kept = contents("kept")
        assert ATTACK.count(old) == 1
        Path("attack.py").write_text(ATTACK.replace(old, new))
        ended = solset(*arguments, "--resume")
        assert (ended.code, says in ended.err) == (2 if says else 0, True)
        assert contents("kept") == kept

    def test_a_goal_whose_code_changed_is_noticed_by_its_value(self, solset):
        arguments = [
            "poison",
            "attack.py:lengths",
            *POISON[2:],
            "--random",
            "0",
            "--rounds",
            "1",
            "--out",
            "kept",
        ]
        assert solset(*arguments).code == 0
        Path("attack.py").write_text(ATTACK.replace("weights.square().sum()", "2.0 * weights.square().sum()"))
        ended = solset(*arguments, "--resume")
        assert ended.code == 2
        assert "goal at the trained weights (now" in ended.error

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["attack.py:build"], "returns (problem, goal) or (problem, goal, train); got (Problem)"),
            (["attack.py:nowhere"], "`goal` must be differentiable in the weights"),
            (["attack.py:attack", "--points", "9"], "`points` must be in 0..5; got [9]"),
            (["attack.py:attack", "--radius", "0"], "`radius` must be positive and finite; got 0.0"),
            (["attack.py:attack", "--radius", "nan"], "`radius` must be a number; got nan"),
            (["attack.py:attack", "--norm", "l1"], "`norm` must be one of 'l2', 'linf'; got 'l1'"),
            (
                ["attack.py:attack", "--scope", "all"],
                "`scope` must be one of 'per_point', 'total'; got 'all'",
            ),
            (["attack.py:attack", "--lower", "5"], "got an empty feasible set"),
            (["attack.py:attack", "--image", "8"], "`--image` must be height and width such as 8x8; got '8'"),
            (["attack.py:attack", "--image", "3x3"], "`image` must be of 2 pixels; got (3, 3)"),
            (["attack.py:attack", "--from-scratch", "a"], "`--from-scratch` must be seeds such as 1,2"),
            (["attack.py:attack", "--rounds", "0"], "`rounds` must be at least 1; got 0"),
        ],
    )
    def test_a_bad_argument_ends_in_one_line_and_leaves_no_folder(self, solset, arguments, says):
        defaults = ["--points", "0", "--radius", "0.1", "--out", "new"]
        ended = solset("poison", arguments[0], *defaults, *arguments[1:])
        assert ended.code == 2
        assert says in ended.error
        assert not Path("new").exists()
