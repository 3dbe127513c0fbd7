"""Which column of a table holds the text: one rule for whatever reads a table."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from amalgam_edge.errors import AmalgamError

TEXT_COLUMN = "text"


class MissingColumnError(AmalgamError):
    """A table lacks a column that was asked for.

    Args:
        source: What the table was read from.
        wanted: The column that was asked for.
        columns: Those that it has.
    """

    def __init__(self, source: str, wanted: str, columns: Sequence[str]) -> None:
        super().__init__(f"{source}: no column '{wanted}'; it has {_listed(columns)}")
        self.columns = tuple(columns)


def choose_text_column(source: str, columns: Sequence[str], of_strings: Sequence[str], wanted: str | None) -> str:
    """The column that was asked for; else ``text``, or the only column of strings.

    Args:
        source: What the table was read from, for messages.
        columns: All columns.
        of_strings: Those that hold strings.
        wanted: The column that was asked for, if any.

    Raises:
        AmalgamError: There is no such column, or several might be meant.
    """
    if wanted:
        require_column(source, columns, wanted)
        return wanted
    if TEXT_COLUMN in columns:
        return TEXT_COLUMN
    if len(of_strings) == 1:
        return of_strings[0]
    raise AmalgamError(f"{source}: which column holds the text? Name one of {_listed(columns)} with --text-column")


def require_column(source: str, columns: Sequence[str], wanted: str) -> None:
    """Refuse a column that a table does not have.

    Raises:
        MissingColumnError: It does not; the message names those that it has.
    """
    if wanted not in columns:
        raise MissingColumnError(source, wanted, columns)


def refuse_same_column(source: str, text_column: str, label_column: str | None) -> None:
    """Refuse a column that is asked for as both text and label.

    Raises:
        AmalgamError: It is.
    """
    if label_column == text_column:
        raise AmalgamError(f"{source}: column '{text_column}' cannot be both text and label")


def columns_of_strings(columns: Sequence[str], rows: Collection[Mapping[str, Any]]) -> list[str]:
    """The columns that hold strings, some of which are more than a number, as far as some rows show."""
    return [column for column in columns if _holds_strings([row.get(column) for row in rows])]


def _holds_strings(values: Sequence[Any]) -> bool:
    present = [value for value in values if value is not None]
    return all(isinstance(value, str) for value in present) and not all(map(is_number, present))


def is_number(text: str) -> bool:
    """Whether a string is nothing but a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def _listed(columns: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in columns)
