"""Checks the words of solset: ``python tools/plain_english.py [--max N] [PATH ...]``.

Three rules, checked on the syntax tree of every Python file (of ``src`` where no path is given):

1. An entry of ``Args:`` or ``Attributes:`` has at least four words and begins with a noun phrase.
2. So does every help text of the command line: ``Option(help=...)``, ``Argument(help=...)``, and
   ``option(help=...)`` or ``metadata={"help": ...}`` of a settings dataclass.
3. No local variable is called ``found``, ``own``, ``kept`` or ``known``: a name says what it holds.

Prints every violation as ``file:line: entry`` and the count. Ends with status 1 where there are more than N
of them; N is 0 by default.
"""

import argparse
import ast
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

SHORTEST = 4
BANNED_STARTS = {
    "Of", "Those", "What", "How", "Whose", "As", "Given", "By", "With", "Where", "Which", "For", "In", "From",
}  # fmt: skip
ALLOWED_STARTS = re.compile(r"As (for\b|in :\w+:`)")  # a reference to another entry
EMPTY_NAMES = {"found", "own", "kept", "known"}
SECTION = re.compile(r"(Args|Arguments|Attributes):\s*$")
ENTRY = re.compile(r"\*{0,2}\w+(?:, \*{0,2}\w+)*(?: \([^)]*\))?:(?:\s|$)")
Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


class Violation(NamedTuple):
    """A text or a name that a reader would stumble on.

    Attributes:
        line: Line of the file, counted from 1.
        text: Objection and the words themselves, in one line.
    """

    line: int
    text: str


def violations(source: str) -> list[Violation]:
    """Every violation in the source text of a Python file, in the order of lines.

    Args:
        source: Text of a Python file.

    Example:
        >>> for line, text in violations('help = typer.Option(help="Of everything random.")'):
        ...     print(line, text)
        1 help text has 3 words: Of everything random.
    """
    tree = ast.parse(source)
    return sorted([*_entries(tree), *_help_texts(tree), *_names(tree)])


def described_entries(source: str) -> list[str]:
    """The text of every entry of ``Args:`` and ``Attributes:`` in a Python file.

    Args:
        source: Text of a Python file.
    """
    docstrings = [docstring for _, docstring in _docstrings(ast.parse(source))]
    return [text for docstring in docstrings for _, _, text in _described(docstring)]


def _objection(kind: str, label: str, text: str) -> str | None:
    """The objection to a description, or nothing."""
    words = text.split()
    shown = f"{label}{' '.join(words)}"
    if ALLOWED_STARTS.match(text):
        return None
    if len(words) < SHORTEST:
        return f"{kind} has {len(words)} word{'s' * (len(words) != 1)}: {shown}"
    first = re.sub(r"\W.*", "", words[0]).capitalize()
    return f"{kind} begins with '{first}': {shown}" if first in BANNED_STARTS else None


def _entries(tree: ast.Module) -> Iterator[Violation]:
    for start, docstring in _docstrings(tree):
        for line, label, text in _described(docstring):
            if objection := _objection("entry", f"{label}: ", text):
                yield Violation(start + line, objection)


def _docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, Documented) and (docstring := ast.get_docstring(node, clean=False)) is not None:
            yield node.body[0].lineno, docstring


def _described(docstring: str) -> Iterator[tuple[int, str, str]]:
    """Line in the docstring, name and text of every entry of ``Args:`` and ``Attributes:``."""
    lines = docstring.expandtabs().split("\n")
    margin = min((_indent(line) for line in lines[1:] if line.strip()), default=0)
    lines = [lines[0].lstrip(), *(line[margin:] for line in lines[1:])]
    at = 0
    while at < len(lines):
        at += 1
        if not SECTION.match(lines[at - 1]):
            continue
        step = next((_indent(line) for line in lines[at:] if line.strip()), 0)
        entry: list[str] = []
        begun = at
        while at < len(lines) and (not lines[at].strip() or _indent(lines[at]) > 0):
            if _indent(lines[at]) == step and ENTRY.match(lines[at].strip()):
                yield from _entry(begun, entry)
                entry, begun = [], at
            entry.append(lines[at].strip())
            at += 1
        yield from _entry(begun, entry)


def _entry(line: int, parts: list[str]) -> Iterator[tuple[int, str, str]]:
    if parts and (match := ENTRY.match(text := " ".join(parts).strip() + " ")):
        yield line, match.group().strip().rstrip(":"), text[match.end() :].strip()


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _help_texts(tree: ast.Module) -> Iterator[Violation]:
    for node in ast.walk(tree):
        texts: list[ast.expr] = []
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in {
            "Option",
            "Argument",
            "option",
        }:
            texts = [part.value for part in node.keywords if part.arg == "help"]
        if isinstance(node, ast.Dict):
            pairs = zip(node.keys, node.values, strict=True)
            texts = [value for key, value in pairs if isinstance(key, ast.Constant) and key.value == "help"]
        for text in texts:
            if not isinstance(text, ast.Constant) or not isinstance(text.value, str):
                continue
            if objection := _objection("help text", "", inspect.cleandoc(text.value)):
                yield Violation(text.lineno, objection)


def _names(tree: ast.Module) -> Iterator[Violation]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            name, line = node.id, node.lineno
        elif isinstance(node, ast.arg):
            name, line = node.arg, node.lineno
        else:
            continue
        if name in EMPTY_NAMES:
            yield Violation(line, f"name says nothing of what it holds: {name}")


def main() -> int:
    """The status of the process: 0 where the words are plain enough."""
    parser = argparse.ArgumentParser(description="Checks docstrings, help texts and names of solset.")
    parser.add_argument("paths", nargs="*", type=Path, help="files and folders to check; src by default")
    parser.add_argument("--max", type=int, default=0, help="largest number of violations that is let pass")
    chosen = parser.parse_args()
    paths = chosen.paths or [Path(__file__).parents[1] / "src"]
    files = sorted({file for path in paths for file in (path.rglob("*.py") if path.is_dir() else [path])})
    count = 0
    for file in files:
        for line, text in violations(file.read_text(encoding="utf-8")):
            print(f"{file}:{line}: {text}")
            count += 1
    print(f"{count} violation{'s' * (count != 1)} in {len(files)} files; at most {chosen.max} are let pass")
    return int(count > chosen.max)


if __name__ == "__main__":
    sys.exit(main())
