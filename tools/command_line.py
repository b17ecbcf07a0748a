"""Writes the options of every command into the documentation: ``python tools/command_line.py``.

The options stand once, in the settings dataclasses; docs/api/command_line.md is made from them. A test holds
the page to them, and this command mends it. What stands above and below the two marks is written by hand.
"""

from pathlib import Path

from solset.cli import _FOLDER_HELP, commands
from solset.reports import Command, help_of, options_of

PAGE = Path(__file__).parents[1] / "docs" / "api" / "command_line.md"
BEGIN, END = "<!-- options: begin -->\n", "<!-- options: end -->\n"


def described(command: Command) -> str:
    """The section of a command in Markdown.

    Args:
        command: Command of the command line.
    """
    options = [(field, said) for field, said in options_of(command.settings) if said.flag]
    arguments = " ".join(said.flag for _, said in options if said.is_argument)
    lines = [f"## solset {command.name} {arguments}".rstrip(), "", command.help, ""]
    for field, said in options:
        flag = said.flag.replace("/", "`, `")
        lines += [f"`{flag}`", f": {help_of(command.settings, field)}", ""]
    return "\n".join(lines)


def options_text() -> str:
    """The sections of all commands, after the options that all of them share."""
    shared = [line for name, text in _FOLDER_HELP.items() for line in (f"`--{name}`", f": {text}", "")]
    intro = "Options of every command that makes a run folder:"
    sections = [described(command) for command in commands()]
    return "\n".join([intro, "", *shared]).format(name="NAME") + "\n" + "\n".join(sections)


def page_text(page: str) -> str:
    """The page with the options as they are now.

    Args:
        page: Text of the page, with both marks.
    """
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{options_text()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page_text(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
