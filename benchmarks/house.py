"""How calm the house is: what a call enters, who compares names, who opens what is private, and sizes.

None of these numbers is a goal by itself. Each is a question that a reader of the code meets: how many files
have to be opened to follow one call, and how many places have to be changed for one new map or solver.
"""

import ast
import importlib
import pkgutil
import re
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from tools.plain_english import described_entries, violations
from torch import Tensor, nn

import solset
from benchmarks.tables import table
from solset import Move
from solset.derivatives import GraphicalDerivative
from solset.sets import AffineSet

SRC = Path(solset.__file__).parent
MAPS = {"Stationary": "stationary", "GaussNewton": "gauss_newton", "Interpolating": "interpolating"}
FORMAT = re.compile(r"solset [a-z][a-z_ ]* \d+")
OPENED = re.compile(r"\.linearisation\.(system|constraint|data)\b|\bunwrapped\(|\bDeferred\b")
UNSEEN = re.compile(r"<(module|listcomp|dictcomp|setcomp|genexpr|lambda)>")


def run() -> dict[str, object]:
    """Prints every measure and returns the numbers."""
    entered = {name: _entered(*parts) for name, parts in calls().items()}
    counts = {name: (len({file for file, _, _ in seen}), len(seen)) for name, seen in entered.items()}
    rows = [[name, str(files), str(functions)] for name, (files, functions) in counts.items()]
    print(table(["call", "files", "functions"], rows), end="\n\n")
    first = next(iter(entered))
    by_file = Counter(str(Path(file).relative_to(SRC)) for file, _, _ in entered[first])
    rows = [[file, str(functions)] for file, functions in by_file.most_common()]
    print(table([first, "functions"], rows), end="\n\n")
    places = {
        "places that compare a map's name": list(_name_comparisons()),
        "private solver state opened from outside": list(_opened()),
        "formats of stored files": sorted(_formats()),
    }
    for title, lines in places.items():
        print(f"{title}: {len(lines)}", *(f"  {line}" for line in lines), sep="\n", end="\n\n")
    rooms = _lines_by_room()
    rows = [[room, str(count)] for room, count in rooms.most_common()]
    print(table(["room", "lines"], [*rows, ["all", str(rooms.total())]]), end="\n\n")
    words = _words()
    print(table(["plain English", "number"], [[name, f"{value:g}"] for name, value in words.items()]))
    return {
        "entered": counts,
        **{title: len(lines) for title, lines in places.items()},
        "lines": dict(rooms),
        "plain English": words,
    }


def calls() -> dict[str, tuple[Callable[[], Any], Callable[[Any], object]]]:
    """The main calls on tiny problems: what is made ready, and what is then counted."""
    x, y = (
        torch.tensor([[1.0], [2.0]], dtype=torch.float64),
        torch.tensor([[1.0], [2.0]], dtype=torch.float64),
    )
    model = nn.Linear(1, 1, dtype=torch.float64)
    nn.init.ones_(model.weight)
    nn.init.zeros_(model.bias)
    dx, lost = 0.01 * x, nn.MSELoss()

    def problem(_: object = None) -> solset.Problem:
        return solset.Problem(model, lost, x, y)

    return {
        "Problem(...).estimate(...).min_norm()": (
            lambda: None,
            lambda _: problem().estimate(Move(None, dx)).min_norm(),
        ),
        "min_norm() of a derivative in hand": (
            lambda: _second_answer(problem().derivative(), dx),
            lambda answer: answer.min_norm(),
        ),
        "lipschitz_modulus": (problem, lambda at: solset.lipschitz_modulus(at)),
        "follow_path": (problem, lambda at: solset.follow_path(at, Move(None, dx))),
        "retrain": (
            problem,
            lambda at: solset.retrain(at, Move(None, dx), method=solset.retraining.GradientDescent(5, 0.1)),
        ),
        "audit": (problem, lambda at: solset.audit(at)),
    }


def _second_answer(derivative: GraphicalDerivative, dx: Tensor) -> AffineSet:
    """A set that has answered nothing yet, of a derivative whose solver is ready."""
    derivative(2 * dx).min_norm()
    return derivative(dx)


def _entered(prepare: Callable[[], Any], call: Callable[[Any], object]) -> set[tuple[str, str, int]]:
    """File, name and line of the functions of solset that a call enters; everything is imported before."""
    _import_all()
    entered: set[tuple[str, str, int]] = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(str(SRC)) and not UNSEEN.search(code.co_name):
            entered.add((code.co_filename, code.co_name, code.co_firstlineno))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ready = prepare()
        sys.setprofile(note)
        try:
            call(ready)
        finally:
            sys.setprofile(None)
    return entered


def _import_all() -> None:
    for module in pkgutil.walk_packages(solset.__path__, "solset."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def _trees() -> Iterator[tuple[str, ast.Module]]:
    for file in sorted(SRC.rglob("*.py")):
        yield str(file.relative_to(SRC)), ast.parse(file.read_text(encoding="utf-8"))


def _name_comparisons() -> Iterator[str]:
    """Comparisons, match cases and keys of dicts with a map's name, outside the file of that map."""
    for name, tree in _trees():
        classes = {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
        names_of_the_file = {MAPS[each] for each in classes & MAPS.keys()}
        for node in ast.walk(tree):
            if _compared_names(node) - names_of_the_file:
                yield f"{name}:{getattr(node, 'lineno', 0)}: {ast.unparse(node)[:80].splitlines()[0]}"


def _compared_names(node: ast.AST) -> set[str]:
    parts: list[ast.expr | None] = []
    if isinstance(node, ast.Compare):
        parts = [node.left, *node.comparators]
    elif isinstance(node, ast.MatchValue):
        parts = [node.value]
    elif isinstance(node, ast.Dict):
        parts = list(node.keys)
    leaves = [leaf for part in parts if part is not None for leaf in _leaves(part)]
    names = {leaf.value for leaf in leaves if isinstance(leaf, ast.Constant) and isinstance(leaf.value, str)}
    is_choice = "auto" in names and "optimality" in ast.unparse(node)
    return names & (set(MAPS.values()) | ({"auto"} if is_choice else set()))


def _leaves(part: ast.expr) -> list[ast.expr]:
    return list(part.elts) if isinstance(part, ast.Set | ast.Tuple | ast.List) else [part]


def _opened() -> Iterator[str]:
    """Lines outside the solvers and the derivatives that open what a solver keeps for itself."""
    trees = dict(_trees())
    kinds, rooms = {"Prepared"}, {"Prepared": "solvers"}
    for _ in range(4):  # kinds of kinds
        for name, tree in trees.items():
            for node in ast.walk(tree):
                if isinstance(node, ast.ClassDef) and {ast.unparse(base) for base in node.bases} & kinds:
                    kinds.add(node.name)
                    rooms[node.name] = name.split("/")[0]
    for name, tree in trees.items():
        if name.startswith(("solvers", "derivatives")):
            continue
        foreign = {kind for kind in kinds - {"Prepared"} if rooms[kind] != name.split("/")[0]}
        asked = {
            node.lineno
            for node in ast.walk(tree)
            if isinstance(node, ast.Call)
            and ast.unparse(node.func) == "isinstance"
            and foreign & set(re.findall(r"\w+", ast.unparse(node.args[1])))
        }
        for number, line in enumerate((SRC / name).read_text(encoding="utf-8").splitlines(), 1):
            is_import = line.startswith(("from ", "import "))
            if not is_import and (number in asked or OPENED.search(line)):
                yield f"{name}:{number}: {line.strip()}"


def _formats() -> set[str]:
    """Names of formats, each with a number of its version, that the code writes or reads."""
    return {
        node.value
        for _, tree in _trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and FORMAT.fullmatch(node.value)
    }


def _lines_by_room() -> Counter[str]:
    rooms: Counter[str] = Counter()
    for name, _ in _trees():
        rooms[name.split("/")[0]] += len((SRC / name).read_text(encoding="utf-8").splitlines())
    return rooms


def _words() -> dict[str, float]:
    sources = [file.read_text(encoding="utf-8") for file in SRC.rglob("*.py")]
    lengths = [len(text.split()) for source in sources for text in described_entries(source)]
    return {
        "entries of Args and Attributes": len(lengths),
        "mean words of an entry": round(sum(lengths) / len(lengths), 1),
        "violations": sum(len(violations(source)) for source in sources),
    }
