"""What a report consists of, as values: numbers, tables, pictures and points that are images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

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


def as_images(inputs: Tensor, shape: tuple[int, int] | None = None) -> Tensor | None:
    """Points as images ``(k, height, width)`` or ``(k, height, width, 3)``; ``None`` if they are none.

    Args:
        inputs: Points ``(k, *input)``; colours stand first, and flat points of 64 or more features are
            images where these make a square.
        shape: Height and width of the images; by default those that the inputs have.
    """
    size, values = tuple(inputs.shape[1:]), inputs.detach().to("cpu", torch.float64)
    if shape is not None:
        return values.reshape(len(values), *shape)
    if len(size) == 3 and size[0] in {1, 3}:
        return values[:, 0] if size[0] == 1 else values.movedim(1, 3)
    side = round(size[0] ** 0.5) if len(size) == 1 else 0
    if side >= 8 and side * side == size[0]:
        return values.reshape(len(values), side, side)
    return values if len(size) == 2 else None


def as_maps(maps: Tensor) -> Tensor | None:
    """Maps of images as ``(k, height, width)``: colours together, by root of squares."""
    images = as_images(maps)
    return images if images is None or images.ndim == 3 else images.square().sum(dim=3).sqrt()
