"""How ``amalgam-edge predict`` writes predictions: a table for people, JSON lines, or CSV; to a file or a stream."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, TextIO, cast

from amalgam_edge.errors import AmalgamError
from amalgam_edge.shown_text import json_lines, line, lines
from amalgam_edge.storage.staging import staged_file
from amalgam_edge.storage.syncing import folders_made
from amalgam_edge.storage.write_errors import report_write_errors
from amalgam_edge.tables.columns import is_number
from amalgam_edge.tables.formats import format_suffix

if TYPE_CHECKING:
    from amalgam_edge.heads import Heads
    from amalgam_edge.runtime.predictions import HeadPredictions, LabelSet, Prediction
    from amalgam_edge.tables.reading import TextRow, TextTable

FORMATS = ("table", "jsonl", "csv")
_FORMAT_OF_SUFFIX = {".txt": "table", ".jsonl": "jsonl", ".csv": "csv"}
_TRUNCATED = "truncated"
_PREFIX = "predicted_"
_GZIP = ".gz"
_SHOWN_CHARACTERS = 60
SOFTMAX, SET_SEPARATOR = "softmax", ";"  # as in heads and gold, which load numpy
_NO_LABEL = "–"
_FORMULA = re.compile(r"[=+\-@\t\r]")  # how cells begin that a spreadsheet would compute


class PredictionWriter(Protocol):
    """Writes one prediction after another."""

    def write(self, row: TextRow, prediction: Prediction | LabelSet | HeadPredictions) -> None:
        """Write the prediction of a text beside the row that the text came in."""


def make_writer(
    output_format: str, stream: TextIO, table: TextTable, heads: Heads, *, all_scores: bool
) -> PredictionWriter:
    """The writer of a format.

    Args:
        output_format: One of :data:`FORMATS`.
        stream: Where it writes.
        table: Where the texts come from; its columns are written too.
        heads: The classifier's heads.
        all_scores: Whether to write the probability of every label.

    Raises:
        AmalgamError: The table has columns that leave the prediction's none of their names.
    """
    if output_format == "table":
        return _TableWriter(stream, heads)
    if output_format == "jsonl":
        return _JsonLinesWriter(stream, table, heads, all_scores=all_scores)
    return _CsvWriter(stream, table, heads, all_scores=all_scores)


def prediction_columns(heads: Heads) -> list[str]:
    """The names of a prediction's columns."""
    if heads.is_one_softmax:
        return ["label", "score", _TRUNCATED, "abstained"]
    if len(heads) == 1:
        return ["labels", "label_scores", _TRUNCATED]
    columns = []
    for head in heads:
        is_softmax = head.activation == SOFTMAX
        columns += [head.name, f"{head.name}_score", f"{head.name}_abstained"] if is_softmax else [
            head.name, f"{head.name}_scores"
        ]  # fmt: skip
    return [*columns, _TRUNCATED]


def prediction_values(prediction: Prediction | LabelSet | HeadPredictions) -> list[Any]:
    """What a prediction says, in the order of its columns: sets of labels as lists."""
    if isinstance(prediction, Mapping):
        of_heads = [value for each in prediction.values() for value in _values_of_head(each)]
        return [*of_heads, prediction.truncated]
    first, second, *abstained = _values_of_head(prediction)
    return [first, second, prediction.truncated, *abstained]


def _values_of_head(prediction: Prediction | LabelSet) -> list[Any]:
    held = getattr(prediction, "held", None)
    if held is not None:
        return [[*held], [*held.values()]]
    return [prediction.answer, prediction.score, prediction.answer is None]


def _all_scores(prediction: Prediction | LabelSet | HeadPredictions) -> dict[str, Any]:
    """Label → probability; of several heads head → such a mapping."""
    if isinstance(prediction, Mapping):
        return {name: each.scores for name, each in prediction.items()}
    return prediction.scores or {}


def choose_format(output_format: str | None, output: str | None) -> str:
    """The format to write: the one asked for, or the one that the output's ending names; a table for people on screen.

    Raises:
        AmalgamError: The ending names none.
    """
    if output_format or output is None:
        return output_format or "table"
    suffix = format_suffix(output)
    if suffix not in _FORMAT_OF_SUFFIX or not output.lower().endswith((suffix, _GZIP)):
        endings = ", ".join(_FORMAT_OF_SUFFIX)
        raise AmalgamError(f"{output}: its ending ({endings}, and {_GZIP} after it) names no format; give --format")
    return _FORMAT_OF_SUFFIX[suffix]


@contextmanager
def opened_output(output: str | None) -> Iterator[TextIO]:
    """Where predictions go: standard output, or a file that appears whole or not at all; compressed if it ends in .gz.

    Raises:
        AmalgamError: The file cannot be written.
    """
    if output is None:
        yield sys.stdout
        return
    path = Path(output)
    if path.is_dir():
        raise AmalgamError(f"{output}: a folder; name a file")
    if path.exists() and not stat.S_ISREG(path.stat().st_mode):  # a pipe, say, which nothing can take the place of
        with report_write_errors(output), path.open("w", encoding="utf-8", newline="") as stream:
            yield stream
        return
    with report_write_errors(output, only_writes=True), ExitStack() as stack:
        stack.enter_context(folders_made(path.parent))
        file: BinaryIO = stack.enter_context(stack.enter_context(staged_file(path)).open("wb"))
        if output.lower().endswith(_GZIP):
            packed = gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0)  # no names and times inside
            file = cast(BinaryIO, stack.enter_context(packed))
        yield stack.enter_context(io.TextIOWrapper(file, encoding="utf-8", newline=""))


def own_columns(table: TextTable, own: Sequence[str]) -> list[str]:
    """The names of a prediction's columns beside those that came with the text: a name that is taken gets a prefix.

    Args:
        table: Where the text came from.
        own: The prediction's columns.

    Raises:
        AmalgamError: A name is taken with its prefix, too.
    """
    names: list[str] = []
    for column in own:
        taken = {*table.columns, *names}
        name = f"{_PREFIX}{column}" if column in taken else column
        if name in taken:
            raise AmalgamError(
                f"{table.name}: columns '{column}' and '{name}' are both taken, and a prediction needs one; rename one"
            )
        names.append(name)
    return names


class _TableWriter:
    """Writes columns for people; long texts are shortened."""

    def __init__(self, stream: TextIO, heads: Heads) -> None:
        self._stream = stream
        self._width = max(len(line(label)) for label in heads.labels) if heads.is_one_softmax else 0

    def write(self, row: TextRow, prediction: Prediction | LabelSet | HeadPredictions) -> None:
        shown = line(" ".join(row.text.split()))
        if len(shown) > _SHOWN_CHARACTERS:
            shown = f"{shown[: _SHOWN_CHARACTERS - 1]}…"
        self._stream.write(f"{self._answer(prediction)}  {shown}\n")

    def _answer(self, prediction: Prediction | LabelSet | HeadPredictions) -> str:
        if isinstance(prediction, Mapping):
            return " · ".join(f"{line(name)} {_shown_answer(each)}" for name, each in prediction.items())
        if self._width:
            label = prediction.answer if isinstance(prediction.answer, str) else _NO_LABEL
            return f"{line(label).ljust(self._width)}  {prediction.score:.3f}"
        return _shown_answer(prediction)


def _shown_answer(prediction: Prediction | LabelSet) -> str:
    """A label with its score, or the labels that hold with theirs."""
    held = getattr(prediction, "held", None)
    if held is None:
        label = prediction.answer if isinstance(prediction.answer, str) else _NO_LABEL
        return f"{line(label)} {prediction.score:.2f}"
    return ", ".join(f"{line(label)} {score:.2f}" for label, score in held.items()) or _NO_LABEL


class _JsonLinesWriter:
    """Writes one JSON object on each line: all that the row had, and the prediction."""

    def __init__(self, stream: TextIO, table: TextTable, heads: Heads, *, all_scores: bool) -> None:
        self._stream = stream
        self._table = table
        self._names = own_columns(table, [*prediction_columns(heads), *(["scores"] if all_scores else [])])

    def write(self, row: TextRow, prediction: Prediction | LabelSet | HeadPredictions) -> None:
        late = next((name for name in self._names if name in row.values), None)
        if late is not None:
            raise AmalgamError(
                f"{self._table.name}, {row.place}: has a column '{late}', which the first rows do not have; rename it"
            )
        own = dict(zip(self._names, [*prediction_values(prediction), _all_scores(prediction)], strict=False))
        self._stream.write(f"{json_lines({**row.values, **own})}\n")


class _CsvWriter:
    """Writes CSV (RFC 4180, with line feeds): all columns that the row had, the prediction's, those of all scores.

    A cell of text that a spreadsheet would compute gets a leading quote, as the web page does it. In a terminal no
    character does anything.
    """

    def __init__(self, stream: TextIO, table: TextTable, heads: Heads, *, all_scores: bool) -> None:
        self._stream = stream
        self._table = table
        self._heads = heads if all_scores else None
        self._known = set(table.columns)
        scores = heads.labels if all_scores else ()
        self._row([*table.columns, *own_columns(table, [*prediction_columns(heads), *scores])])

    def write(self, row: TextRow, prediction: Prediction | LabelSet | HeadPredictions) -> None:
        new = next((name for name in row.values if name not in self._known), None)
        if new is not None:
            raise AmalgamError(
                f"{self._table.name}, {row.place}: has a column '{new}', which the first rows do not have; "
                "write --format jsonl"
            )
        values = [row.values.get(name) for name in self._table.columns]
        own = [_joined(value) if isinstance(value, list) else value for value in prediction_values(prediction)]
        self._row(map(_cell, [*values, *own, *self._scores(prediction)]))

    def _scores(self, prediction: Prediction | LabelSet | HeadPredictions) -> list[float]:
        """The probability of every label, in the order of the heads, if they are asked for."""
        if self._heads is None:
            return []
        scores = _all_scores(prediction)
        of_heads = scores.values() if isinstance(prediction, Mapping) else [scores]
        return [given[label] for head, given in zip(self._heads, of_heads, strict=True) for label in head.labels]

    def _row(self, cells: Iterable[Any]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow([_harmless(cell) for cell in cells])
        self._stream.write(lines(text.getvalue()) if self._stream.isatty() else text.getvalue())


def _joined(items: list[Any]) -> str:
    """Several values in one cell, as ``evaluate`` reads labels; as a list in JSON if one has the separator in it."""
    texts = [str(item) for item in items]
    if any(SET_SEPARATOR in text for text in texts):
        return json.dumps(items, ensure_ascii=False)
    return SET_SEPARATOR.join(texts)


def _cell(value: Any) -> Any:
    """A value as a cell: a string as it is, nothing as an empty one, anything else as JSON."""
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _harmless(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) and not is_number(cell) else cell
