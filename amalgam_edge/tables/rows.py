"""Rows of text, CSV, JSON and Parquet: each format's rows one after another, as mappings from column to value."""

from __future__ import annotations

import codecs
import csv
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from amalgam_edge.errors import AmalgamError, first_line
from amalgam_edge.storage.json_text import mended_json, without_lone_surrogates
from amalgam_edge.tables.columns import TEXT_COLUMN
from amalgam_edge.tables.formats import HEAD_BYTES, check_head
from amalgam_edge.tables.lines import MOST_ROW_BYTES, NOT_UTF8, TOO_LONG, Lines

_WHITESPACE = " \t\r\n"
_SIGN = re.compile(r"[ \t\r\n]*([\[,\]]?)[ \t\r\n]*")
_NO_OBJECT = 'no JSON object, such as {"text": "…"}'
_DECODER = json.JSONDecoder()
_ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class Row:
    """A row as it came.

    Attributes:
        place: Where it stands, for messages, such as ``line 3``.
        values: Column → value, in the order of the file.
        size: About how many bytes it takes.
    """

    place: str
    values: dict[str, Any]
    size: int


def text_rows(lines: Lines) -> Iterator[Row]:
    """The lines, each as the column ``text``, without line ends."""
    for line in lines:
        yield Row(f"line {lines.number}", {TEXT_COLUMN: line.rstrip("\r\n")}, lines.end_row())


def json_lines_rows(lines: Lines) -> Iterator[Row]:
    """The objects of JSON lines; blank lines are passed over.

    Raises:
        AmalgamError: A line is no JSON object.
    """
    for line in lines:
        size = lines.end_row()
        if not line.strip(_WHITESPACE):
            continue
        try:
            values = json.loads(mended_json(line.encode()))
        except (ValueError, RecursionError) as error:
            raise lines.error(f"no JSON ({first_line(error)})") from error
        if not isinstance(values, dict):
            raise lines.error(_NO_OBJECT)
        yield Row(f"line {lines.number}", values, size)


def csv_rows(lines: Lines, delimiter: str) -> tuple[list[str], Iterator[Row]]:
    """The header of CSV (RFC 4180), and the rows below it; blank lines are passed over.

    Cells that a row lacks at its end are empty.

    Raises:
        AmalgamError: There is no header, or two columns have one name; later, a row has more cells than the header, or
            a quotation does not end.
    """
    records = _records(lines, delimiter)
    header, _ = next(records, ([], 0))
    if not header:
        raise AmalgamError(f"{lines.name}: the file is empty, and its first line names the columns")
    repeated = next((name for name in header if header.count(name) > 1), None)
    if repeated is not None:
        raise lines.error(f"two columns are called '{repeated}'; name them apart")
    return header, _below(header, records, lines)


def _below(header: list[str], records: Iterable[tuple[list[str], int]], lines: Lines) -> Iterator[Row]:
    for cells, size in records:
        if len(cells) > len(header):
            raise lines.error(f"{len(cells)} cells, and the header names {len(header)} columns")
        cells.extend([""] * (len(header) - len(cells)))
        yield Row(f"line {lines.number}", dict(zip(header, cells, strict=True)), size)


def _records(lines: Lines, delimiter: str) -> Iterator[tuple[list[str], int]]:
    """The cells of each row, and its size."""
    csv.field_size_limit(max(csv.field_size_limit(), MOST_ROW_BYTES))
    try:
        for cells in csv.reader(lines, delimiter=delimiter, strict=True):
            size = lines.end_row()
            if cells:
                yield cells, size
    except csv.Error as error:
        raise lines.error(f"no CSV ({first_line(error)})") from error


class JsonElements:
    """The objects of a JSON array, or JSON objects one after another; decoded as their text comes.

    Args:
        name: What is read, for messages.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._text = ""
        self._position = 0
        self._number = 0
        self._is_array = False
        self._has_ended = False

    @property
    def must_wait(self) -> bool:
        """Whether nothing of the next object has come yet."""
        match = _SIGN.match(self._text, self._position)
        return match is not None and match.end() == len(self._text)

    def rows(self, chunks: Iterable[bytes]) -> Iterator[Row]:
        """The objects in some text.

        Args:
            chunks: The text's bytes.

        Raises:
            AmalgamError: An element is no JSON object, or the text ends too early or goes on too long.
        """
        for text in _decoded(self._name, chunks):
            yield from self._read(text)
        self._end()

    def _read(self, text: str) -> Iterator[Row]:
        """The objects that are complete with this part of the text."""
        self._text = self._text[self._position :] + text
        self._position = 0
        while (begin_and_values := self._next()) is not None:
            begin, values = begin_and_values
            self._number += 1
            yield Row(f"row {self._number}", without_lone_surrogates(values), self._position - begin)

    def _end(self) -> None:
        """Refuse a text that is not complete, or has something after its end."""
        self._pass_sign()
        if self._position < len(self._text) or (self._is_array and not self._has_ended):
            raise self._error(self._number + 1, "no JSON, or cut off")

    def _next(self) -> tuple[int, dict[str, Any]] | None:
        """Where the next object begins, and the object; None where it is not complete yet."""
        self._pass_sign()
        if self._has_ended or self._position == len(self._text):
            return None
        try:
            begin = self._position
            values, self._position = _DECODER.raw_decode(self._text, self._position)
        except RecursionError as error:
            raise self._error(self._number + 1, "nested too deeply") from error
        except ValueError as error:
            if len(self._text) - self._position > MOST_ROW_BYTES:
                raise self._error(self._number + 1, f"no JSON ({first_line(error)}), or {TOO_LONG}") from error
            return None
        if not isinstance(values, dict):
            raise self._error(self._number + 1, _NO_OBJECT)
        return begin, values

    def _pass_sign(self) -> None:
        """Go on to where the next element begins, past whitespace and one sign of the array."""
        match = _SIGN.match(self._text, self._position)
        assert match is not None  # noqa: S101  (it matches nothing, too)
        sign = match[1]
        begins = sign == "[" and not self._is_array and self._number == 0
        goes_on = sign in (",", "]") and self._is_array and not self._has_ended
        self._is_array |= begins
        self._has_ended |= goes_on and sign == "]"
        self._position = match.end() if begins or goes_on or not sign else match.start(1)

    def _error(self, number: int, what: str) -> AmalgamError:
        return AmalgamError(f"{self._name}, row {number}: {what}")


def _decoded(name: str, chunks: Iterable[bytes]) -> Iterator[str]:
    """A text's parts, decoded.

    Raises:
        AmalgamError: They are no UTF-8.
    """
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    n_lines = 1
    for position, chunk in enumerate(chunks):
        if position == 0:
            check_head(name, chunk[:HEAD_BYTES])
        try:
            yield decoder.decode(chunk)
        except UnicodeDecodeError as error:
            n_lines += error.object[: error.start].count(b"\n")
            raise AmalgamError(f"{name}, line {n_lines}: {NOT_UTF8}") from None
        n_lines += chunk.count(b"\n")
    try:
        yield decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        raise AmalgamError(f"{name}, line {n_lines}: {NOT_UTF8}") from None


def parquet_rows(path: Path) -> tuple[list[str], Iterator[Row]]:
    """The names of a Parquet file's columns, and its rows.

    Raises:
        AmalgamError: pyarrow is not installed, or cannot read the file.
    """
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ModuleNotFoundError as error:
        raise AmalgamError(f"{path}: reading Parquet needs pyarrow: pip install pyarrow") from error
    try:
        file = ParquetFile(path)
    except (ArrowException, OSError) as error:
        raise AmalgamError(f"{path}: cannot be read ({first_line(error)})") from error
    return list(file.schema_arrow.names), _rows_of_parquet(path, file, ArrowException)


def _rows_of_parquet(path: Path, file: Any, failures: type[Exception]) -> Iterator[Row]:
    number = 0
    try:
        for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE):
            for values in batch.to_pylist():
                number += 1
                as_json = {name: _as_json(value) for name, value in values.items()}
                yield Row(f"row {number}", as_json, batch.nbytes // batch.num_rows)
    except (failures, OSError) as error:
        raise AmalgamError(f"{path}, row {number + 1}: cannot be read ({first_line(error)})") from error


def _as_json(value: Any) -> Any:
    """A value of Parquet as JSON has it: a time as its string, NaN as nothing."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if isfinite(value) else None
    return json.loads(json.dumps(value, default=str))
