"""A user's Python file: the function in it that builds the problem, and what that function returns."""

import importlib.util
import sys
from pathlib import Path

from torch import Tensor

from solset.errors import bad_type, bad_value
from solset.problem import Problem
from solset.training import Training


def load_problem(source: str) -> Problem:
    """The Problem that a user's function returns."""
    return required_problem(returned_by(source))


def required_problem(returned: object) -> Problem:
    """What a user's function returned, refused unless it is a Problem."""
    if not isinstance(returned, Problem):
        got, expected, cure = type(returned).__name__, "a function that returns a Problem", "Return one."
        if isinstance(returned, Training):
            cure = "Return one; `solset run`, `audit` and `poison` take a Training too."
        raise bad_type("source", expected=expected, got=got, cure=cure)
    return returned


def returned_by(source: str) -> object:
    """What a user's function returns; the file finds the modules beside it, as a script does."""
    file, _, name = source.rpartition(":")
    path = Path(file)
    if not file or not name or path.suffix != ".py" or not path.is_file():
        expected = "FILE.py:FUNCTION with an existing file"
        raise bad_value("source", expected=expected, got=repr(source), cure="Check the path.")
    spec = importlib.util.spec_from_file_location(_module_name(path), path.resolve())
    if spec is None or spec.loader is None:
        raise bad_value("source", expected="an importable file", got=repr(source), cure="Check the file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[_module_name(path)] = module
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
        function = getattr(module, name, None)
        returned = function() if callable(function) else function
    except (Exception, SystemExit) as error:
        raise bad_value(
            "source",
            expected=f"a file and function {name}() that run",
            got=" ".join(f"{type(error).__name__}: {error}".split()),
            cure="Call it by itself first, or set SOLSET_TRACEBACK=1 to see where it fails.",
        ) from error
    if function is None:
        expected = f"a function {name} in {path.name}"
        raise bad_value("source", expected=expected, got="none", cure="Check the name.")
    return returned


def load_validation(source: str, name: str) -> tuple[Tensor, Tensor]:
    """What the function ``name`` of a loaded user's file returns: inputs and targets."""
    function = getattr(sys.modules[_module_name(Path(source.rpartition(":")[0]))], name, None)
    if not callable(function):
        raise bad_value("validation", expected="a function of the file", got=name, cure="Check the name.")
    try:
        returned = function()
    except Exception as error:
        got = f"{type(error).__name__}: {error}"
        raise bad_value("validation", expected=f"{name}() to run", got=got, cure="Call it.") from error
    match returned:
        case [Tensor() as inputs, Tensor() as targets]:
            return inputs, targets
    got = type(returned).__name__
    raise bad_type("validation", expected="inputs and targets", got=got, cure="Return two tensors.")


def _module_name(path: Path) -> str:
    """A name that no module has which is already in use."""
    return f"solset_user_{path.stem}"
