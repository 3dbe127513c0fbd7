"""Tables, drawn alike in the terminal, the report and the model card, and how numbers look in them."""

from __future__ import annotations

from dataclasses import dataclass

from amalgam_edge.shown_text import line, markdown

MISSING = "–"


@dataclass(frozen=True)
class Column:
    """A column's title and whether it holds numbers."""

    title: str
    numeric: bool = True


@dataclass(frozen=True)
class Table:
    """Titles and cells, ready to be shown."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]

    def to_markdown(self) -> str:
        """As a GitHub table."""
        rows = [
            [column.title for column in self.columns],
            ["---:" if column.numeric else "---" for column in self.columns],
            *([markdown(cell) for cell in row] for row in self.rows),
        ]
        return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)

    def to_text(self) -> str:
        """With columns aligned by spaces."""
        cells = [[column.title for column in self.columns], *([line(cell) for cell in row] for row in self.rows)]
        widths = [max(len(row[k]) for row in cells) for k in range(len(self.columns))]
        aligned = (
            [
                text.rjust(width) if column.numeric else text.ljust(width)
                for text, width, column in zip(row, widths, self.columns, strict=True)
            ]
            for row in cells
        )
        return "\n".join("  ".join(row).rstrip() for row in aligned)


def share(value: float | None) -> str:
    """A share in percent, a dash where there is none."""
    return number(value, ".1%")


def number(value: float | None, form: str) -> str:
    """A number in a form of Python's ``format``, a dash where there is none."""
    return MISSING if value is None else format(value, form)
