"""What the commands write: lines for people, JSON and CSV, in which nothing that others wrote does anything."""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Iterable
from typing import Any

import click

from amalgam_edge.shown_text import json_lines, line, lines

_FORMULA = re.compile(r"[=+\-@\t\r]")  # how cells begin that a spreadsheet would compute


def show_lines(text: str = "", *, err: bool = False) -> None:
    """Write lines for people.

    Args:
        text: The lines; a line break is added.
        err: Whether they go to standard error.
    """
    click.echo(lines(text), err=err)


def show_line(text: str, *, err: bool = False) -> None:
    """Write one line for people, whatever line breaks the names in it have.

    Args:
        text: The line.
        err: Whether it goes to standard error.
    """
    click.echo(line(text), err=err)


def show_json(document: Any, *, indent: int | None = 2) -> None:
    """Write a document as JSON to standard output."""
    click.echo(json_lines(document, indent))


class CsvOutput:
    """Writes rows as CSV (RFC 4180, with line feeds) to standard output.

    A cell of text that a spreadsheet would compute gets a leading quote, as the web page does it.
    """

    def __init__(self) -> None:
        self._writer = csv.writer(self, lineterminator="\n")

    def row(self, cells: Iterable[Any]) -> None:
        """Write a row."""
        self._writer.writerow([_harmless(cell) for cell in cells])

    def write(self, text: str) -> None:
        """Write finished CSV; in a terminal its characters do nothing."""
        sys.stdout.write(lines(text) if sys.stdout.isatty() else text)


def _harmless(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) and not _is_number(cell) else cell


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
