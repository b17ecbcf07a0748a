"""The core works without the extras; what needs one says which."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXTRAS = ("matplotlib", "jinja2", "typer", "sklearn", "pandas", "jaxtyping")
BLOCK = f"""
import sys
from importlib.machinery import PathFinder

class WithoutExtras(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {EXTRAS} else PathFinder.find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = WithoutExtras
"""


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs Python in which no extra is installed."""
    command = [sys.executable, "-c", BLOCK + code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_the_ten_lines_of_the_readme_run_without_the_extras():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    code, printed = readme.split("```python\n")[1].split("```\n\n```text\n")
    ended = run("import solset\n" + code)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == printed.split("```")[0]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import solset.plotting", "a figure needs matplotlib: pip install 'solset[report]'"),
        ("import solset.reports._report", "needs matplotlib: pip install 'solset[report]'"),
        ("from solset.paper import digits; digits()", "needs sklearn.datasets: pip install 'solset[demo]'"),
    ],
)
def test_what_needs_an_extra_names_it(code, message):
    ended = run(code)
    assert ended.returncode == 1
    assert message in ended.stderr.splitlines()[-1]


@pytest.mark.parametrize("arguments", [("--help",), ("toy",), ("demo",)])
def test_the_command_line_names_the_extra_in_one_line(arguments):
    ended = run("from solset.cli import main; main()", *arguments)
    assert ended.returncode == 1
    assert ended.stderr == "error: the command line needs typer: pip install 'solset[report]'\n"


def test_importing_the_library_loads_only_what_every_call_needs():
    # SciPy's rooms take longer to import than the library itself: they load where they are first used.
    code = "import sys; import solset; print(*[name for name in sys.modules if name.count('.') < 2])"
    loaded = set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split())
    late = {"scipy.linalg", "scipy.optimize", "scipy.sparse", "scipy.stats", *EXTRAS}
    assert "solset.problem" in loaded
    assert not late & loaded


def test_every_room_is_there_after_importing_the_library():
    rooms = sorted(path.parent.name for path in (ROOT / "src/solset").glob("*/__init__.py"))
    code = f"import solset; print(all(hasattr(solset, room) for room in {rooms}), hasattr(solset, 'rome'))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.stdout == "True False\n"
