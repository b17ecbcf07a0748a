"""The examples run through the command line as their docstrings say, and their estimates lower the risk."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from solset.cli import app

ROOT = Path(__file__).parents[1]
COMMAND = re.compile(r"solset ((?:run|poison|audit) examples/.*?)\s+--out (\S+)", re.DOTALL)


def run_as_documented(name: str, out: Path, monkeypatch: pytest.MonkeyPatch) -> dict:
    """The result of the command in an example's docstring, written to another folder."""
    monkeypatch.chdir(ROOT)
    found = COMMAND.search((ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8"))
    assert found is not None
    arguments = [word for word in found[1].split() if word != "\\"]
    assert arguments[1].startswith(f"examples/{name}.py:")
    outcome = CliRunner().invoke(app(), [*arguments, "--out", str(out)])
    assert outcome.exit_code == 0, outcome.output
    assert (out / "report.html").is_file()
    return json.loads((out / "result.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("name", "gradient_norm"),
    [("logistic_regression", 1e-8), pytest.param("conv_batchnorm", 1e-4, marks=pytest.mark.slow)],
)
def test_an_example_runs_as_documented(
    name: str, gradient_norm: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Warnings are errors here, so neither example may say that its weights are not stationary.
    result = run_as_documented(name, tmp_path / "run", monkeypatch)
    assert result["setup"]["gradient_norm"] <= gradient_norm
    assert result["setup"]["optimality"] == "stationary"
    (row,) = result["sizes"]
    assert row["size"] == 0.01
    assert row["status"] == "converged"
    assert not row["is_empty"]
    assert row["distance"] > 0
    # Stationary to first order, the estimate has a lower risk on the moved data than the trained weights.
    assert row["estimate"]["risk"] < row["trained"]["risk"]
    assert row["estimate"]["all"] <= row["trained"]["all"]
    assert row["estimate"]["moved"] < row["trained"]["moved"]


@pytest.mark.slow
def test_the_poisoning_example_runs_as_documented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run_as_documented("poison_logistic", tmp_path / "run", monkeypatch)
    assert result["judgement"]["is_confirmed"]
    assert [row["name"] for row in result["gain"]][-1] == "from scratch, seed 1"
    # The solution is isolated: every retraining ends where the model said, no random perturbation near it.
    for row in result["gain"]:
        assert row["change"] == pytest.approx(row["predicted_change"], rel=1e-4)
        assert row["times_chance"] > 3
        assert row["change"] > row["random_best"]


def test_the_audit_example_runs_as_documented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run_as_documented("fitted_digits", tmp_path / "run", monkeypatch)
    assert result["optimality"] == "interpolating"
    assert len(result["ranking"]) == 100
    for row in result["ranking"]:
        assert 0 < row["isolated_modulus"] <= row["modulus"]
        assert row["validation_change"] <= row["validation_slope"] * (1 + 1e-9)
