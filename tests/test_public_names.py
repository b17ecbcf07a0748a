"""Each public name has one address, and no module is hidden by a function of its name."""

import ast
import importlib
import importlib.metadata
import pkgutil
import re
from pathlib import Path
from types import ModuleType

import pytest

import solset

NAMES = [
    info.name for info in pkgutil.walk_packages(solset.__path__, "solset.") if info.name != "solset.__main__"
]
ROOMS = [name for name in NAMES if name.count(".") == 1 and not name.rpartition(".")[2].startswith("_")]


def test_the_version_stands_in_one_place():
    assert solset.__version__ == importlib.metadata.version("solset")


def test_the_top_has_about_twenty_names():
    assert len(solset.__all__) <= 25
    assert all(hasattr(solset, name) for name in solset.__all__)


@pytest.mark.parametrize("name", NAMES)
def test_no_module_is_hidden_by_something_of_its_name(name):
    package, _, leaf = name.rpartition(".")
    module = importlib.import_module(name)
    assert isinstance(getattr(importlib.import_module(package), leaf, module), ModuleType)


@pytest.mark.parametrize("name", [name for name in NAMES if name.count(".") > 1])
def test_modules_inside_a_room_are_private(name):
    assert name.rpartition(".")[2].startswith("_") or name == "solset.solvers.filters"


def test_no_room_opens_a_private_module_of_another():
    root = Path(solset.__file__).parent
    opened = []
    for path in root.rglob("*.py"):
        room = path.relative_to(root).parts[0]
        imported = re.findall(r"^\s*(?:from|import) solset\.(\w+)\._", path.read_text(), flags=re.MULTILINE)
        opened += [f"{path}: {other}" for other in imported if other != room]
    assert not opened


@pytest.mark.parametrize("folder", ["benchmarks", "examples", "tools"])
def test_scripts_import_names_that_exist(folder):
    missing = []
    for path in (Path(__file__).parents[1] / folder).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("solset"):
                module = importlib.import_module(node.module)
                missing += [f"{path}: {each.name}" for each in node.names if not hasattr(module, each.name)]
    assert not missing


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_has_what_it_says(room):
    module = importlib.import_module(room)
    assert all(hasattr(module, name) for name in getattr(module, "__all__", []))
