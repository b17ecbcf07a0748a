"""Calls of every public function with one argument that is not one."""

import math
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import solset
import solset.landscapes
from solset import SolverError
from solset.solvers import filters
from support.tiny import tiny_model, tiny_problem

DX = torch.full((2, 3), 0.01, dtype=torch.float64)
BAD: dict[str, Any] = {
    "an object": object(),
    "a text": "x",
    "an empty text": "",
    "bytes": b"x",
    "minus one": -1,
    "a fraction": 0.5,
    "not a number": math.nan,
    "infinity": math.inf,
    "minus infinity": -math.inf,
    "10^30": 10**30,
    "an empty list": [],
    "a list of texts": ["x"],
    "a mapping": {"x": 1},
    "a tensor that is not finite": torch.full((2, 3), math.nan, dtype=torch.float64),
    "an empty tensor": torch.zeros(0),
    "integers": torch.ones(2, 3, dtype=torch.int64),
    "a function": lambda: None,
    "a class": int,
}
# Calls that take long by right: a number of steps, of samples, of points on a grid.
PATIENT = {"10^30", "infinity"}
# A function of the user's that fails raises what it likes.
USERS = {("Problem", "loss"), ("audit", "checkpoint")}
SECONDS = 20


@dataclass(frozen=True)
class Call:
    """A public function with arguments that it takes."""

    function: Callable[..., Any]
    arguments: Mapping[str, Any]

    def with_one(self, name: str, value: Any) -> Any:
        return self.function(**{**self.arguments, name: value})


def calls() -> dict[str, Call]:
    """Every public function that takes a problem or makes one, and every value that has settings."""
    model, inputs, targets = tiny_model()
    problem, weights = tiny_problem(), tiny_problem().weights()
    goal = solset.goals.WeightFunction(lambda w: w.square().sum(), name="square")
    budget, moved = (
        solset.poisoning.Budget([0, 2], 0.05),
        {"problem": problem, "change": solset.Move([0, 2], DX)},
    )
    short, one = solset.poisoning.Ascent(max_rounds=1, max_steps=1), torch.ones_like(weights)
    change = solset.Move([0, 2], DX)
    none = {"optimality": "auto", "solver": None}
    found = {
        "Problem": (
            solset.Problem,
            {
                **{"model": model, "loss": nn.MSELoss(), "inputs": inputs, "targets": targets},
                **{"weight_decay": 0.0, "parameters": None, "batch_size": 4, "memory_budget": 2**30},
                **{"spill_folder": None, "gradient_tol": 1e-3},
            },
        ),
        "derivative": (problem.derivative, {"points": [0], "rows": None, **none}),
        "coderivative": (problem.coderivative, {"points": [0], "rows": None, **none}),
        "estimate": (problem.estimate, {"change": solset.Move([0, 2], DX), "rows": None, **none}),
        "moved_to": (problem.moved_to, {"change": solset.Move([0, 2], DX), "weights": weights}),
        "restrict": (problem.restrict, {"points": [0, 2], "parameters": None}),
        "load_derivative": (problem.load_derivative, {"folder": "nowhere"}),
        "training_stability": (
            solset.training_stability,
            {**moved, **none, "samples": 1, "radius": 0.1, "generator": torch.Generator(), "rows": None},
        ),
        "lipschitz_modulus": (
            solset.lipschitz_modulus,
            {
                **{"problem": problem, "points": [0], "layer": None, "joint": True, **none},
                **{"max_steps": 5, "probes": 1, "margin_candidates": 5},
            },
        ),
        "modulus_chain": (solset.modulus.modulus_chain, {"problem": problem, "points": [0], "layer": None}),
        "activation_margin": (solset.modulus.activation_margin, {"risk": problem.risk(), "candidates": 5}),
        "audit": (
            solset.audit,
            {
                **{"problem": problem, "points": [0], "validation": (inputs, targets), "layer": None},
                **{"joint": None, "optimality": "auto", "influence": True, "prior_precision": 1.0},
                **{"checkpoint": None, "progress": False},
            },
        ),
        "attribute": (
            problem.attribute,
            {"goal": goal, "element": None, "rows": None, "features": True, "names": None, **none},
        ),
        "retrain": (solset.retrain, {**moved, "method": solset.retraining.GradientDescent(2, 0.01)}),
        "tangent_recursion": (
            solset.retraining.tangent_recursion,
            {**moved, "steps": 2, "learning_rate": 0.01, "progress": False},
        ),
        "filter_normalised": (
            solset.landscapes.filter_normalised,
            {"problem": problem, "direction": one, "has_biases": False},
        ),
        "landscape": (
            solset.landscapes.landscape,
            {
                **{"problem": problem, "directions": {"a": one}, "normalise": "length", "has_biases": False},
                **{"ranges": None, "resolution": 2, "risk": None, "subsets": None, "marks": None},
                **{"centre": None, "checkpoint": None, "progress": False},
            },
        ),
        "follow_path": (
            solset.follow_path,
            {
                **moved,
                **{"optimality": "auto", "max_error": 1e-2, "rows": None, "nearest": False},
                **{"max_gradients": 1e3, "checkpoint": None, "progress": False},
            },
        ),
        "follow_retraining": (
            solset.retraining.follow_retraining,
            {
                **moved,
                **{"steps": 3, "learning_rate": 0.01, "record_at": [2], "max_defect": 0.1, "max_builds": 1},
                **{"checkpoint": None, "progress": False},
            },
        ),
        "adjoint_gradient": (
            solset.poisoning.adjoint_gradient,
            {"problem": problem, "goal": goal, "points": [0], "element": None, **none},
        ),
        "design_poisoning": (
            solset.design_poisoning,
            {
                **{"problem": problem, "goal": goal, "budget": budget, "element": None, "ascent": short},
                **{"follower": None, "start": None, **none, "checkpoint": None, "progress": False},
            },
        ),
        "judge_poisoning": (
            solset.poisoning.judge_poisoning,
            {
                **{"problem": problem, "goal": goal, "change": change, "train": None, "seeds": ()},
                **{"methods": {"few": solset.retraining.GradientDescent(2, 0.01)}, "clean": None},
            },
        ),
        "stability_margin": (
            solset.poisoning.stability_margin,
            {
                **{"problem": problem, "inputs": inputs[:1], "budget": budget, "element": None},
                **{"method": None, "ascent": short, "radius_tol": 0.1, **none},
            },
        ),
        "Ascent": (solset.poisoning.Ascent, {"max_rounds": 1, "max_steps": 1, "stride": 0.5}),
        "Budget": (
            solset.poisoning.Budget,
            {
                **{"points": [0], "radius": 1.0, "norm": "l2", "scope": "per_point"},
                **{"lower": -1.0, "upper": 1.0},
            },
        ),
        "InformativeRows": (solset.operators.InformativeRows, {"tol": 0.1, "max_rows": 10}),
        "GradientFlow": (filters.GradientFlow, {"steps": 3, "learning_rate": 0.1}),
        "Tikhonov": (filters.Tikhonov, {"damping": 0.1}),
        "RankCut": (filters.RankCut, {"tolerance": 0.1}),
        "GradientDescent": (solset.retraining.GradientDescent, {"steps": 3, "learning_rate": 0.1}),
        "LBFGS": (solset.retraining.LBFGS, {"gradient_tol": 1e-8, "max_gradients": 5}),
        "Newton": (solset.retraining.Newton, {"gradient_tol": 1e-8, "max_steps": 5}),
        "LevenbergMarquardt": (solset.retraining.LevenbergMarquardt, {"output_tol": 1e-8, "max_steps": 5}),
        "LSMR": (solset.solvers.LSMR, {"tol": 1e-8, "max_steps": 5}),
        "MINRES": (solset.solvers.MINRES, {"tol": 1e-8, "max_steps": 5}),
        "CG": (solset.solvers.CG, {"tol": 1e-8, "max_steps": 5}),
    }
    return {name: Call(*parts) for name, parts in found.items()}


def cases() -> Iterator[tuple[str, str, str]]:
    """Function, argument, and what is wrong with it."""
    for name, call in calls().items():
        for argument in call.arguments:
            for wrong in BAD:
                if (name, argument) not in USERS or wrong not in {"a function", "a class"}:
                    yield name, argument, wrong


@contextmanager
def _at_most(seconds: int) -> Iterator[None]:
    def late(*_: object) -> None:
        raise InterruptedError(f"not done after {seconds} seconds")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def complaint(call: Call, argument: str, wrong: str) -> str:
    """What is wrong with how the call ended; nothing if it was taken or refused by name."""
    try:
        with _at_most(SECONDS):
            call.with_one(argument, BAD[wrong])
    except (ValueError, TypeError, SolverError) as error:
        text = str(error)
        if "`" in text and " must be " in text:
            return ""
        return f"{type(error).__name__}: {text[:150]}"
    except InterruptedError as error:
        return "" if wrong in PATIENT else str(error)
    except BaseException as error:  # noqa: BLE001 - whatever else gets out is a failure
        return f"{type(error).__name__}: {str(error)[:150]}"
    return ""
