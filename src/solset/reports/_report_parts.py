"""What a report consists of, as values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from solset.problem import Problem


@dataclass(frozen=True)
class Finding:
    """One number or word of the summary.

    Attributes:
        label: Short name of the number or word.
        value: Number, text, boolean, or ``None`` for no value.
        meaning: Sentence that says what the value tells, and when it does not.
        format: Format specification for numbers.
    """

    label: str
    value: object
    meaning: str = ""
    format: str = ".4g"


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        key: Key of the column's value in every row.
        header: Text that stands above the column.
        format: Format specification for numbers.
        unit: Unit that is written under the header.
    """

    key: str
    header: str
    format: str = ".4g"
    unit: str = ""


def columns(form: str = ".4g", /, **heads: str) -> tuple[Column, ...]:
    """Columns of one format by key, each with the text that stands above it."""
    return tuple(Column(key, head, form) for key, head in heads.items())


@dataclass(frozen=True)
class Table:
    """Rows under named columns.

    Attributes:
        caption: Phrase that says what the rows are.
        columns: Columns of the table, from the left.
        rows: Mappings with every column's key, one for each row; other keys are not shown.
    """

    caption: str
    columns: tuple[Column, ...]
    rows: Sequence[Mapping[str, object]]


@dataclass(frozen=True)
class Picture:
    """A figure that the run folder holds.

    Attributes:
        name: Name under which the run folder holds the figure, without a suffix.
        caption: Sentence that says what the figure shows and how to read it.
        alt: Description for a reader who cannot see the figure.
    """

    name: str
    caption: str
    alt: str


@dataclass(frozen=True)
class Section:
    """One part of the report.

    Attributes:
        title: Heading of the section.
        meaning: One or two sentences that say what the section shows and how to read it.
        parts: Pictures, tables, and sentences that are notes; each kind keeps its order.
    """

    title: str
    meaning: str
    parts: Sequence[Picture | Table | str]

    @property
    def pictures(self) -> list[Picture]:
        """The pictures, which stand before the tables."""
        return [part for part in self.parts if isinstance(part, Picture)]

    @property
    def tables(self) -> list[Table]:
        """The tables, which stand before the notes."""
        return [part for part in self.parts if isinstance(part, Table)]

    @property
    def notes(self) -> list[str]:
        """The remarks at the end."""
        return [part for part in self.parts if isinstance(part, str)]


@dataclass(frozen=True)
class Report:
    """Everything that the page says; the settings and versions of the run are added to it.

    Attributes:
        title: Title of the whole page.
        question: Sentence with the question that the page answers.
        summary: Numbers and words that answer the question.
        sections: Sections that give the grounds for the answer.
        warnings: Premises that do not hold, for the whole report.
    """

    title: str
    question: str
    summary: Sequence[Finding] = ()
    sections: Sequence[Section] = ()
    warnings: Sequence[str] = ()


def sentence(message: str) -> str:
    """A message of a result as a sentence, with a capital and a full stop."""
    return f"{message[0].upper()}{message[1:]}."


def leftover_gradient(problem: Problem) -> tuple[str, ...]:
    """The warning that training had not stopped, where the gradient of the risk says so."""
    if problem.is_stationary:
        return ()
    norm = float(problem.gradient().norm())
    return (
        f"Training had not stopped: the gradient norm of the risk is {norm:.3g}. The numbers of this page "
        "are those of a linear model at these weights, not of where your training would have gone.",
    )


STEP = Column("step_percent", "step", ".3g", "%")  # every table by step begins with it
