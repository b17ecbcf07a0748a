"""From a result to a run folder and one page, and the commands that do it for a user's own model."""

from solset.reports._commands import COMMANDS, Command, Job
from solset.reports._options import Settings, help_of, hint_of, options_of, settings_from_texts
from solset.reports._report import write_report
from solset.reports._report_parts import Column, Finding, Picture, Report, Section, Table, columns
from solset.reports._run_folder import RunFolder
from solset.reports._settings_file import SETTINGS_FILE, read_settings, settings_of_table, settings_text

__all__ = [
    "COMMANDS",
    "Column",
    "Command",
    "Finding",
    "Job",
    "Picture",
    "Report",
    "RunFolder",
    "SETTINGS_FILE",
    "Section",
    "Settings",
    "Table",
    "columns",
    "help_of",
    "hint_of",
    "options_of",
    "read_settings",
    "settings_from_texts",
    "settings_of_table",
    "settings_text",
    "write_report",
]
