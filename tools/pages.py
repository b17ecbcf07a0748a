"""Writes into pages of the documentation what their code prints: ``python tools/pages.py PAGE ...``.

Runs the Python blocks of each page from top to bottom, in one namespace. A block of ``text`` or of
``{raw} html`` that follows one is replaced by what was printed. The tests hold the pages to the same rule: a
page that shows old output fails, and this command mends it. Read the difference before you commit it.
"""

import argparse
import contextlib
import io
import re
import sys
from pathlib import Path

BLOCK = re.compile(r"^```(python|text|\{raw\} html)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def refreshed(page: str, name: str) -> str:
    """The text of a page with the output that its code prints now.

    Args:
        page: Text of the page in Markdown.
        name: Name of the page for tracebacks.
    """
    namespace: dict[str, object] = {"__name__": "page"}
    printed = ""

    def block(match: re.Match[str]) -> str:
        nonlocal printed
        language, content = match.groups()
        if language != "python":
            return f"```{language}\n{printed}```"
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(compile(content, name, "exec"), namespace)
        printed = out.getvalue()
        return match.group()

    return BLOCK.sub(block, page)


def main() -> None:
    """Refreshes the pages named on the command line and says which of them changed."""
    parser = argparse.ArgumentParser(description="Writes into pages what their code prints.")
    parser.add_argument("pages", nargs="+", type=Path, help="pages in Markdown")
    for page in parser.parse_args().pages:
        before = page.read_text(encoding="utf-8")
        after = refreshed(before, str(page))
        page.write_text(after, encoding="utf-8")
        print(f"{page}: {'changed' if after != before else 'as before'}", file=sys.stderr)


if __name__ == "__main__":
    main()
