"""Texts of a file or a stream, a few rows at a time, with the columns that came with them."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from os import fstat
from pathlib import Path
from typing import Any

from amalgam_edge.errors import AmalgamError, first_line
from amalgam_edge.tables.columns import TEXT_COLUMN, choose_text_column, columns_of_strings, require_column
from amalgam_edge.tables.formats import (
    CSV,
    FORMAT_OF_SUFFIX,
    JSON,
    JSON_LINES,
    PARQUET,
    PARQUET_BEGINS,
    TEXT,
    TSV,
    check_head,
    format_suffix,
)
from amalgam_edge.tables.lines import Lines
from amalgam_edge.tables.rows import JsonElements, Row, csv_rows, json_lines_rows, parquet_rows, text_rows
from amalgam_edge.tables.unpacking import unpacked_chunks

_ROWS_AT_ONCE = 1024
_BYTES_AT_ONCE = 2**24
_STREAM_CHUNK = 2**16
_DELIMITERS = {CSV: ",", TSV: "\t"}


@dataclass(frozen=True)
class TextRow:
    """A text, and the row that it came in.

    Attributes:
        text: The text; empty where the row has none.
        values: Column → value, as they came and in their order.
        place: Where the row stands, for messages, such as ``line 3``.
    """

    text: str
    values: Mapping[str, Any]
    place: str


@dataclass(frozen=True)
class TextTable:
    """Texts that are read as they are asked for.

    Attributes:
        name: What is read, for messages.
        columns: The columns of the header; of JSON, those of the first rows.
        text_column: The one that holds the texts.
        chunks: The rows, at most 1,024 at once; of a stream, those that are there.
    """

    name: str
    columns: tuple[str, ...]
    text_column: str
    chunks: Iterator[list[TextRow]]


def texts_as_table(texts: Sequence[str]) -> TextTable:
    """A table of nothing but texts."""
    rows = [TextRow(text, {TEXT_COLUMN: text}, f"text {number}") for number, text in enumerate(texts, 1)]
    starts = range(0, len(rows), _ROWS_AT_ONCE)
    return TextTable("texts", (TEXT_COLUMN,), TEXT_COLUMN, (rows[start : start + _ROWS_AT_ONCE] for start in starts))


def format_of(path: str) -> str:
    """The format that a file's ending names; lines of text for an ending that is not known."""
    return FORMAT_OF_SUFFIX.get(format_suffix(path), TEXT)


def read_file(path: str, *, file_format: str | None = None, text_column: str | None = None) -> TextTable:
    """The texts of a file, which may be compressed; of a pipe, as they come.

    Args:
        path: The file.
        file_format: One of the formats of :mod:`~amalgam_edge.tables.formats`; by default the one that the file's
            ending names, and lines of text where it names none.
        text_column: The column that holds the text; by default ``text``, or the only column of strings.

    Raises:
        AmalgamError: The file cannot be read or is of another format; later, while rows are read, too.
    """
    file_format = file_format or format_of(path)
    try:
        if stat.S_ISREG(Path(path).stat().st_mode):
            chunks = _reported(path, unpacked_chunks(Path(path)))
            if file_format == PARQUET:
                return _parquet_table(path, chunks, text_column)
            return _table(path, chunks, file_format, text_column)
        stream = open(path, "rb")  # noqa: SIM115, PTH123  (it is read until it ends)
    except OSError as error:
        raise _unreadable(path, error) from error
    return read_stream(stream, path, file_format=file_format, text_column=text_column)


def read_stream(stream: Any, name: str, *, file_format: str = TEXT, text_column: str | None = None) -> TextTable:
    """The texts of a stream, as they come.

    Args:
        stream: A buffered stream of bytes.
        name: What to call it in messages.
        file_format: Its format.
        text_column: The column that holds the text; by default ``text``, or the only column of strings.

    Raises:
        AmalgamError: As of :func:`read_file`.
    """
    if file_format == PARQUET:
        raise AmalgamError(f"{name}: Parquet cannot be read as it comes; name a file")
    chunks = _reported(name, iter(lambda: stream.read1(_STREAM_CHUNK), b""))
    return _table(name, chunks, file_format, text_column, is_live=not _is_regular_file(stream))


def _table(
    name: str, chunks: Iterable[bytes], file_format: str, text_column: str | None, *, is_live: bool = False
) -> TextTable:
    if file_format == JSON:
        elements = JsonElements(name)
        return _with_texts(name, None, elements.rows(chunks), text_column, lambda: is_live and elements.must_wait)
    lines = Lines(name, chunks, is_live=is_live)
    header = None
    if file_format in _DELIMITERS:
        header, rows = csv_rows(lines, _DELIMITERS[file_format])
    else:
        rows = json_lines_rows(lines) if file_format == JSON_LINES else text_rows(lines)
    return _with_texts(name, header, rows, text_column, lambda: lines.must_wait)


def _parquet_table(path: str, chunks: Iterator[bytes], text_column: str | None) -> TextTable:
    check_head(path, next(chunks, b""), PARQUET_BEGINS)
    columns, rows = parquet_rows(Path(path))
    return _with_texts(path, columns, rows, text_column)


def _with_texts(
    name: str,
    header: Sequence[str] | None,
    rows: Iterable[Row],
    text_column: str | None,
    must_wait: Callable[[], bool] = lambda: False,
) -> TextTable:
    """A table whose text column is chosen by its first rows."""
    chunks = _in_chunks(rows, must_wait)
    first = next(chunks, [])
    columns = tuple(header or dict.fromkeys(column for row in first for column in row.values))
    if not first:
        if text_column and header:
            require_column(name, columns, text_column)
        return TextTable(name, columns, text_column or TEXT_COLUMN, iter(()))
    of_strings = columns_of_strings(columns, [row.values for row in first])
    chosen = choose_text_column(name, columns, of_strings, text_column)
    texts = ([_text_row(name, row, chosen) for row in chunk] for chunk in chain([first], chunks))
    return TextTable(name, columns, chosen, texts)


def _text_row(name: str, row: Row, text_column: str) -> TextRow:
    value = row.values.get(text_column)
    if value is not None and not isinstance(value, str):
        shown = json.dumps(value, ensure_ascii=False)
        raise AmalgamError(f"{name}, {row.place}: column '{text_column}' holds {shown[:40]}, not text")
    return TextRow(value or "", row.values, row.place)


def _in_chunks(rows: Iterable[Row], must_wait: Callable[[], bool]) -> Iterator[list[Row]]:
    """Rows, a few at a time: no more than memory takes, and none that would have to wait for the next."""
    chunk: list[Row] = []
    n_bytes = 0
    for row in rows:
        chunk.append(row)
        n_bytes += row.size
        if len(chunk) >= _ROWS_AT_ONCE or n_bytes >= _BYTES_AT_ONCE or must_wait():
            yield chunk
            chunk, n_bytes = [], 0
    if chunk:
        yield chunk


def _reported(name: str, chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Chunks of a file, with what the system refuses in one line."""
    try:
        yield from chunks
    except OSError as error:
        raise _unreadable(name, error) from error


def _unreadable(name: str, error: OSError) -> AmalgamError:
    return AmalgamError(f"{name}: cannot be read ({error.strerror or first_line(error)})")


def _is_regular_file(stream: Any) -> bool:
    try:
        return stat.S_ISREG(fstat(stream.fileno()).st_mode)
    except OSError:  # it is none of the system's
        return False
