"""The page of the documentation says of the command line what the command line says of itself."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_page_holds_the_options_of_every_command():
    spec = importlib.util.spec_from_file_location("command_line", ROOT / "tools" / "command_line.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = module.PAGE.read_text(encoding="utf-8")
    assert page == module.page_text(page), "run `python tools/command_line.py` and read the difference"
