"""What a report consists of, as values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Finding:
    """One number or word of the summary.

    Attributes:
        label: What it is.
        value: A number, text, boolean or ``None``.
        meaning: One sentence: what it tells, and when it does not.
        format: Format specification for numbers.
        unit: Behind the number.
    """

    label: str
    value: object
    meaning: str = ""
    format: str = ".4g"
    unit: str = ""


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        key: Of its value in every row.
        header: Above it.
        format: Format specification for numbers.
        unit: Under the header.
    """

    key: str
    header: str
    format: str = ".4g"
    unit: str = ""


@dataclass(frozen=True)
class Table:
    """Rows under named columns.

    Attributes:
        caption: What the rows are, in a phrase.
        columns: In their order.
        rows: One mapping per row with every column's key; what has no column is not shown.
    """

    caption: str
    columns: tuple[Column, ...]
    rows: Sequence[Mapping[str, object]]


@dataclass(frozen=True)
class Picture:
    """A figure that the run folder holds.

    Attributes:
        name: As given to :meth:`RunFolder.write_figure`.
        caption: What it shows and how to read it.
        alt: What a reader who cannot see it needs to know.
    """

    name: str
    caption: str
    alt: str


@dataclass(frozen=True)
class Section:
    """One part of the report.

    Attributes:
        title: Its heading.
        meaning: One or two sentences: what this shows and how to read it.
        table: Its numbers, if any.
        figures: Its pictures, before the table.
        notes: Remarks after the table.
        warnings: Premises that do not hold, before everything else.
    """

    title: str
    meaning: str
    table: Table | None = None
    figures: tuple[Picture, ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """Everything that the page says.

    Attributes:
        title: Of the page.
        question: The one sentence that it answers.
        summary: The answer.
        sections: The grounds for it.
        warnings: Premises that do not hold, for the whole report.
        settings: What reproduces the run; usually ``folder.settings``.
        versions: Usually ``folder.versions``.
    """

    title: str
    question: str
    summary: tuple[Finding, ...] = ()
    sections: tuple[Section, ...] = ()
    warnings: tuple[str, ...] = ()
    settings: Mapping[str, object] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
