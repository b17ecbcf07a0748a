"""Every result prints as one line, converts to JSON, and applies its weights to a copy."""

import json
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from solset.errors import Status
from solset.results import TableResult, WeightsResult


@dataclass(frozen=True, eq=False, repr=False)
class Found(WeightsResult, TableResult):
    value: Tensor
    distance: float

    def _named_weights(self):
        return self.value, {"weight": torch.Size([1, 2]), "bias": torch.Size([1])}

    @property
    def headline(self) -> str:
        return f"distance {self.distance:.3g}"

    def rows(self):
        return [{"point": 0, "distance": self.distance}]


def example(distance: float = 0.5) -> Found:
    return Found(torch.tensor([1.0, 2.0, 3.0]), distance)


def test_prints_as_one_line():
    assert repr(example()) == "Found(distance 0.5)"


def test_a_notebook_shows_a_table_without_markup_from_values():
    text = example()._repr_html_()
    assert text.startswith("<table>")
    assert "distance" in text
    assert "0.5" in text


def test_converts_to_json_even_where_a_number_is_not_finite():
    content = example(float("inf")).to_dict()
    assert json.loads(json.dumps(content, allow_nan=False))["distance"] == "Infinity"
    assert content["value"] == [1.0, 2.0, 3.0]
    assert content["status"] == Status.CONVERGED


def test_weights_go_to_a_copy_and_leave_the_model_alone():
    model = nn.Linear(2, 1)
    before = model.weight.detach().clone()
    changed = example().apply_to(model)
    assert changed.weight.tolist() == [[1.0, 2.0]]
    assert changed.bias.tolist() == [3.0]
    assert torch.equal(model.weight, before)


def test_weights_of_another_model_are_refused_by_name():
    with pytest.raises(ValueError, match="'weight' of shape"):
        example().apply_to(nn.Linear(3, 1))


def test_rows_become_a_dataframe_or_name_what_is_missing():
    try:
        import pandas as pd
    except ImportError:
        with pytest.raises(ImportError, match=r"solset\[report\]"):
            example().to_dataframe()
    else:
        assert isinstance(example().to_dataframe(), pd.DataFrame)


@dataclass(frozen=True, eq=False, repr=False)
class Stored(WeightsResult):
    weights: Tensor
    status: Status
    message: str

    def _named_weights(self):
        return self.weights, None

    @property
    def headline(self) -> str:
        return f"{self.status}"


def test_a_result_may_store_what_others_compute():
    stored = Stored(torch.ones(2), Status.MAX_STEPS, "too few steps")
    assert (stored.status, stored.message) == (Status.MAX_STEPS, "too few steps")
    assert stored.to_dict() == {"weights": [1.0, 1.0], "status": "max_steps", "message": "too few steps"}
    with pytest.raises(TypeError, match="message"):
        Stored(torch.ones(2), Status.CONVERGED)  # type: ignore[call-arg]
