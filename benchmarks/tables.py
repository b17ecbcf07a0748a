"""Plain text tables."""

from collections.abc import Sequence


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned: the first to the left, the others to the right."""
    lines = [list(heads), *map(list, rows)]
    widths = [max(len(line[j]) for line in lines) for j in range(len(heads))]

    def text(line: Sequence[str]) -> str:
        others = (cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))
        return "  ".join([line[0].ljust(widths[0]), *others]).rstrip()

    return "\n".join([text(heads), "  ".join("-" * width for width in widths), *map(text, rows)])


def number(value: float | None, digits: int = 2) -> str:
    """A number with so many decimals, or a dash where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"
