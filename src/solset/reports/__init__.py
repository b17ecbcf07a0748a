"""From a result to a run folder and one page, and the commands that do it for a user's own model."""

from solset.reports._audit_report import audit_sections, draw_audit
from solset.reports._commands import COMMANDS, Command, Job
from solset.reports._directions import cross_entropy_directions, random_directions, step_of, unit
from solset.reports._moves import mean_losses
from solset.reports._options import (
    Settings,
    help_of,
    hint_of,
    integers,
    option,
    options_of,
    path_of,
    seed_option,
    settings_from_texts,
    steps_option,
)
from solset.reports._poison import PoisonRun
from solset.reports._poison_report import poison_sections
from solset.reports._poison_task import PoisonSettings, PoisonTask
from solset.reports._records import flat_rows
from solset.reports._report import write_report
from solset.reports._report_parts import STEP, Column, Finding, Picture, Report, Section, Table, columns
from solset.reports._run_folder import RunFolder
from solset.reports._settings_file import SETTINGS_FILE, read_settings, settings_of_table, settings_text

__all__ = [
    "COMMANDS",
    "Column",
    "Command",
    "Finding",
    "Job",
    "Picture",
    "PoisonRun",
    "PoisonSettings",
    "PoisonTask",
    "Report",
    "RunFolder",
    "SETTINGS_FILE",
    "STEP",
    "Section",
    "Settings",
    "Table",
    "audit_sections",
    "columns",
    "cross_entropy_directions",
    "draw_audit",
    "flat_rows",
    "help_of",
    "hint_of",
    "integers",
    "mean_losses",
    "option",
    "options_of",
    "path_of",
    "poison_sections",
    "random_directions",
    "read_settings",
    "seed_option",
    "settings_from_texts",
    "settings_of_table",
    "settings_text",
    "step_of",
    "steps_option",
    "unit",
    "write_report",
]
