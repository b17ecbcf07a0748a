"""Drawn combinations of layer, loss, dtype, training and weights: right, refused by name, or flagged.

``pytest -s`` prints the table of each part; ``python -m benchmarks zoo`` that of 3,000 combinations.
"""

import pytest
import torch

from support.zoo import Combination, Outcome, draw, judge, print_table, run_many

pytestmark = pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
FEW, MANY = 96, 288  # combinations of the fast and of the slow suite
PART = 24
MOST_NEEDLESS = 0.02  # of refusals where the truth is smooth and well posed, in every form that they ask for


def parts(count: int, seed: int) -> list:
    drawn = draw(count, seed)
    return [drawn[k : k + PART] for k in range(0, count, PART)]


def check(combinations: list) -> None:
    verdicts = run_many(combinations)
    print()
    print_table(verdicts)
    needless = [str(v) for v in verdicts if v.is_needless and v.outcome is Outcome.REFUSED]
    assert len(needless) <= max(1, MOST_NEEDLESS * len(verdicts)), "\n".join(needless)
    bad = [str(v) for v in verdicts if v.outcome in {Outcome.SILENT, Outcome.CRASH}]
    assert not bad, "\n".join(bad)


DOUBLE = torch.float64
WITH_SYMMETRY = [  # a step towards the solution that drifts along it turned the kernel by 1e-6
    Combination("linear without bias", "smooth L1", "stationary", "normalised", DOUBLE, 50189),
    Combination("LoRA of rank 2", "cross-entropy, class weights", "stationary", "free", DOUBLE, 50269),
]


@pytest.mark.parametrize("combination", WITH_SYMMETRY, ids=lambda one: one.layer)
def test_the_kernel_of_a_symmetry_is_known_to_rounding(combination):
    assert judge(combination).outcome is Outcome.RIGHT


def test_a_fault_that_one_direction_hides_is_refused():
    drawn = Combination("half detached layer", "Huber", "fitted", "normalised", DOUBLE, 52252)
    assert judge(drawn).outcome is Outcome.REFUSED


@pytest.mark.parametrize("combinations", parts(FEW, seed=0), ids=lambda part: f"from-{part[0].seed}")
def test_no_combination_is_silently_wrong_or_a_raw_crash(combinations):
    check(combinations)


@pytest.mark.slow
@pytest.mark.parametrize("combinations", parts(MANY, seed=1), ids=lambda part: f"from-{part[0].seed}")
def test_no_combination_of_many_is_silently_wrong_or_a_raw_crash(combinations):
    check(combinations)
