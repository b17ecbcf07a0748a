"""A run, a training or an ensemble in the place of a problem is told what to call instead."""

import importlib
import inspect
import re
from functools import partial

import pytest
import torch
from torch import nn

import solset
from solset import Problem, Training
from solset.training import Ensemble, Run

ROOMS = ("", ".landscapes", ".modulus", ".paths", ".planning", ".poisoning", ".removal", ".retraining")
DEFAULT = inspect.Parameter.empty


def studies() -> dict[str, object]:
    """The public functions whose first argument is a problem."""
    functions = {}
    for room in (*ROOMS, ".testing"):
        module = importlib.import_module(f"solset{room}")
        for name, each in inspect.getmembers(module, inspect.isfunction):
            arguments = list(inspect.signature(each).parameters.values())
            is_public = not name.startswith("_") and name not in {"check_path"}
            if is_public and arguments and "Problem" in str(arguments[0].annotation):
                functions[name] = each
    return functions


@pytest.fixture(scope="module")
def training() -> Training:
    x, y = torch.linspace(-1, 1, 6)[:, None], torch.linspace(0, 1, 6)[:, None]
    sgd = partial(torch.optim.SGD, lr=0.1)
    return Training(lambda: nn.Linear(1, 1), nn.MSELoss(), x, y, optimizer=sgd, steps=2)


def refusal(function, value) -> str:
    first, *others = inspect.signature(function).parameters.values()
    needed = {one.name: None for one in others if one.default is DEFAULT}
    with pytest.raises(TypeError, match=f"^`{first.name}` must be") as error:
        function(value, **needed)
    return str(error.value)


def calls(text: str, name: str) -> list[str]:
    """The methods of a run or an ensemble that a message names."""
    return re.findall(rf"\b{name}(?:\(\))?\.(\w+)\(", text)


@pytest.mark.parametrize("name", sorted(studies()))
def test_a_run_in_the_place_of_a_problem_is_told_what_to_call(name, training):
    function, run = studies()[name], training.run(progress=False)
    values = [training] if name in {"audit", "compare"} else [run, training]  # which take a run
    for value in values:
        text = refusal(function, value)
        assert all(hasattr(Run, method) for method in calls(text, "run")), text
        assert all(hasattr(solset, each) for each in re.findall(r"solset\.(\w+)", text)), text
        own = text.split("For the set of solutions")[0].split("got ")[1]
        assert re.search(r"Ask .*\(", own), text
        if isinstance(value, Training):
            assert "(run." not in text
        if isinstance(value, Training) and "run." in own:
            assert "training.run()." in own or "poison_training(" in own
    many = refusal(function, training.ensemble([0, 1], progress=False))
    assert all(hasattr(Ensemble, method) for method in calls(many, "ensemble"))
    assert "ensemble.estimate(" in many


def test_a_problem_of_a_run_is_one_of_its_model(training):
    for value, call in ((training.run(progress=False), "run.model"), (training, "training.run().model")):
        with pytest.raises(TypeError, match=re.escape(f"Pass {call}, its trained module")):
            Problem(value, nn.MSELoss(), torch.zeros(2, 1), torch.zeros(2, 1))


def test_a_problem_in_the_place_of_a_training_is_told_what_to_call(training):
    x, y = torch.linspace(-1, 1, 6)[:, None], torch.linspace(0, 1, 6)[:, None]
    problem = Problem(nn.Linear(1, 1), nn.MSELoss(), x, y, gradient_tol=float("inf"))
    assert "Ask solset.design_poisoning(" in refusal(solset.poisoning.poison_training, problem)
    assert "Pass the training" in refusal(solset.poisoning.poison_training, training.run(progress=False))
