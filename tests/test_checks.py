"""The door for types: what is let in, and by which words the rest is refused."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from solset import retrain
from solset.checks import checked


@checked
def taken(
    number: float = 0.0,
    count: int = 0,
    *,
    text: str | None = None,
    choice: Literal["a", "b"] = "a",
    several: Sequence[int] = (),
    named: Mapping[str, float] | None = None,
    tensor: Tensor | None = None,
    anything: Any = None,
    points: Sequence[int] | None = None,
) -> dict[str, Any]:
    return dict(locals())


@checked
@dataclass(frozen=True)
class Settings:
    tol: float
    steps: int = 3

    def __post_init__(self) -> None:
        assert self.steps > 0


@pytest.mark.parametrize(
    "arguments",
    [
        {"number": 1, "count": np.int64(3)},
        {"number": np.float32(0.5), "text": None},
        {"choice": "c"},  # what it may be, what is called says
        {"several": [1, 2], "named": {"x": 1.0}},
        {"several": range(3), "tensor": torch.ones(2)},
        {"anything": object(), "points": torch.arange(2)},
    ],
)
def test_lets_in_what_the_signature_says(arguments):
    assert arguments.items() <= taken(**arguments).items()


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"number": "1"}, TypeError, "`number` must be a number; got '1'. See the signature of taken."),
        ({"number": True}, TypeError, "`number` must be a number; got True."),
        ({"number": float("nan")}, ValueError, "`number` must be a number; got nan."),
        (
            {"number": 10**400},
            ValueError,
            "`number` must be at most 9223372036854775807; got a number of more",
        ),
        ({"count": 1.0}, TypeError, "`count` must be an integer; got 1.0."),
        ({"text": b"x"}, TypeError, "`text` must be a text or None; got bytes."),
        ({"choice": 1}, TypeError, "`choice` must be one of 'a', 'b'; got 1."),
        ({"several": "12"}, TypeError, "`several` must be a Sequence of integer; got '12'."),
        ({"several": ["x"]}, TypeError, "`several` must be a Sequence of integer; got list."),
        ({"named": {"x": "y"}}, TypeError, "`named` must be a Mapping of number or None; got dict."),
        ({"tensor": [1.0]}, TypeError, "`tensor` must be a tensor or None; got list."),
        ({"text": 1000 * "x", "count": ""}, TypeError, "`count` must be an integer; got ''."),
    ],
)
def test_refuses_the_rest_by_name(arguments, error, says):
    with pytest.raises(error) as caught:
        taken(**arguments)
    assert str(caught.value).startswith(says)


def test_a_class_is_checked_where_it_is_made():
    assert Settings(0.1).steps == 3
    with pytest.raises(TypeError, match="`tol` must be a number; got 'x'. See the signature of Settings"):
        Settings("x")


def test_what_is_called_wrongly_is_as_without_it():
    with pytest.raises(TypeError, match=r"`nothing` must be an argument of taken; got nothing="):
        taken(nothing=1)


def test_an_argument_that_is_missing_is_named():
    with pytest.raises(TypeError, match="`method` must be given; got nothing. retrain takes problem, change"):
        retrain(None, None)
