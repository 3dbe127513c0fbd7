"""What the commands write: lines for people and JSON, in which nothing that others wrote does anything."""

from __future__ import annotations

from typing import Any

import click

from amalgam_edge.shown_text import json_lines, line, lines


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
