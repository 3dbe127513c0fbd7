"""``amalgam-edge predict``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from amalgam_edge.cli.by_head import numbers_by_head
from amalgam_edge.cli.hub_options import with_hub_options
from amalgam_edge.cli.model_options import with_cascade, with_device, with_precision, with_threads
from amalgam_edge.cli.output import show_lines
from amalgam_edge.cli.prediction_output import FORMATS, choose_format, make_writer, opened_output
from amalgam_edge.console_progress import Meter
from amalgam_edge.errors import AmalgamError
from amalgam_edge.tables.formats import FORMAT_OF_SUFFIX, TEXT
from amalgam_edge.tables.reading import TextRow, TextTable, read_file, read_stream, texts_as_table

if TYPE_CHECKING:
    from amalgam_edge.runtime.hub import HubOptions
    from amalgam_edge.runtime.predictions import HeadPredictions, LabelSet, Prediction


@click.command("predict")
@click.argument("bundle", type=click.Path())
@click.argument("texts", nargs=-1)
@click.option(
    "--file",
    "file",
    type=click.Path(),
    help="Read texts from this file, whose ending says how: .txt (one on each line), .csv, .tsv, .jsonl, .json or "
    ".parquet, and .gz after it; - is standard input.",
)
@click.option(
    "--input-format",
    type=click.Choice([*FORMAT_OF_SUFFIX.values()]),
    help="How to read standard input, or a file whose ending does not say it.  [default: text, one on each line]",
)
@click.option("--text-column", help="Column that holds the text.  [default: text, or the only column of strings]")
@click.option(
    "--output",
    type=click.Path(),
    metavar="FILE",
    help="Write to this file (.csv, .jsonl, or .txt for a table, and .gz after it), whole or not at all.",
)
@click.option(
    "--format",
    "output_format",
    type=click.Choice(FORMATS),
    help="Format of the output.  [default: by the ending of --output, or table]",
)
@click.option("--all-scores", is_flag=True, help="Write the probability of every label (jsonl and csv).")
@click.option(
    "--abstain",
    multiple=True,
    metavar="[HEAD=]SCORE",
    callback=numbers_by_head,
    help="Give no label below this score.  [default: the bundle's threshold]",
)
@with_precision
@with_threads
@with_device
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    help="Most texts in a batch.  [default: 32, or 256 for a static student]",
)
@with_cascade
@with_hub_options
def command(
    bundle: str,
    texts: tuple[str, ...],
    file: str | None,
    input_format: str | None,
    text_column: str | None,
    output: str | None,
    output_format: str | None,
    all_scores: bool,
    abstain: float | dict[str, float] | None,
    precision: str | None,
    threads: int | None,
    device: str,
    batch_size: int | None,
    cascade: bool | None,
    hub: HubOptions,
) -> None:
    """Classify texts with a bundle.

    Texts come as arguments, from a file, or from standard input, which is answered as it comes. Answers keep the order.
    The columns of a table are written too, before those of the prediction: label, score, truncated (whether the text's
    end was not read) and abstained (whether the score is below the threshold, so that the label is null in jsonl, empty
    in csv and a dash in a table). If a column has one of these names already, the prediction's is predicted_label and
    so on. A head whose labels do not exclude each other has the columns labels and label_scores in place of label and
    score. Of several heads each has a column of its name with its answer, and NAME_score and NAME_abstained, or
    NAME_scores.

    \b
    Examples:
      amalgam-edge predict student/ "a puzzle game about falling blocks"
      amalgam-edge predict student/ --file texts.csv --text-column body --output labels.csv
      cat texts.txt | amalgam-edge predict student/ --format jsonl --all-scores
      tail -f log.jsonl | amalgam-edge predict student/ --input-format jsonl --format jsonl
    """  # noqa: D301  (click reads \b as "do not rewrap")
    if texts and (file or input_format or text_column):
        raise AmalgamError("texts given both as arguments and with --file, or how to read one: give one of them")
    output_format = choose_format(output_format, output)
    from amalgam_edge.runtime.finding import find_bundle

    opened = find_bundle(bundle, **hub)  # a mistyped name is told before the runtime is loaded
    from amalgam_edge.runtime.classifier import EdgeClassifier

    classifier = EdgeClassifier(
        opened, precision=precision, threads=threads, abstain=abstain, cascade=cascade, device=device
    )
    table = _open_table(texts, file, input_format, text_column)
    with opened_output(output) as stream:
        writer = make_writer(output_format, stream, table, classifier.heads, all_scores=all_scores)
        counts = _Counts(shows_progress=file not in (None, "-") and not stream.isatty())
        for rows in table.chunks:
            predictions = classifier([row.text for row in rows], all_scores=all_scores, batch_size=batch_size)
            for row, prediction in zip(rows, predictions, strict=True):
                writer.write(row, prediction)
            stream.flush()
            counts.add(rows, predictions)
    counts.show(classifier.max_length)


def _open_table(
    texts: tuple[str, ...], file: str | None, input_format: str | None, text_column: str | None
) -> TextTable:
    """The texts to classify: arguments, a file, or standard input."""
    if texts:
        return texts_as_table([_as_utf8(text, number) for number, text in enumerate(texts, 1)])
    if file not in (None, "-"):
        return read_file(str(file), file_format=input_format, text_column=text_column)
    if sys.stdin is None or sys.stdin.isatty():
        raise AmalgamError("no text given: name texts, --file FILE, or pipe them in, one on each line")
    return read_stream(sys.stdin.buffer, "standard input", file_format=input_format or TEXT, text_column=text_column)


def _as_utf8(argument: str, number: int) -> str:
    """An argument as UTF-8, in which it was typed or written, whatever the locale took it for."""
    try:
        return os.fsencode(argument).decode()
    except UnicodeError:
        raise AmalgamError(f"text {number}: not UTF-8; put the texts into a file, and name it with --file") from None


class _Counts:
    """What standard error tells of the texts, while that takes long and when it is done."""

    def __init__(self, *, shows_progress: bool) -> None:
        self._meter = Meter(None, "texts")
        self._shows_progress = shows_progress
        self._n_truncated = 0
        self._n_empty = 0

    def add(self, rows: Sequence[TextRow], predictions: Sequence[Prediction | LabelSet | HeadPredictions]) -> None:
        """Count some texts, and tell how many there were if the last report is long ago."""
        self._n_truncated += sum(prediction.truncated for prediction in predictions)
        self._n_empty += sum(not row.text.strip() for row in rows)
        self._meter.add(len(rows))
        if self._shows_progress and self._meter.due():
            show_lines(f"{self._meter.done} texts, {self._meter.rate_and_rest()}", err=True)

    def show(self, max_length: int) -> None:
        """Tell what was odd about the texts."""
        if self._n_truncated:
            show_lines(f"{self._n_truncated} text(s) longer than {max_length} tokens were cut", err=True)
        if self._n_empty:
            show_lines(f"{self._n_empty} text(s) were empty; their labels mean nothing", err=True)
