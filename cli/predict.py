"""``amalgam-edge predict``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, TextIO

import click

from amalgam_edge.cli.hub_options import with_hub_options
from amalgam_edge.cli.output import CsvOutput, show_json, show_lines
from amalgam_edge.errors import AmalgamError
from amalgam_edge.shown_text import line

if TYPE_CHECKING:
    from amalgam_edge.runtime.classifier import Prediction
    from amalgam_edge.runtime.hub import HubOptions

_TEXTS_AT_ONCE = 1024
_SHOWN_CHARACTERS = 60
_NO_LABEL = "–"


@click.command("predict")
@click.argument("bundle", type=click.Path())
@click.argument("texts", nargs=-1)
@click.option(
    "--file", "file", type=click.Path(), help="Read texts from this file, one on each line; - is standard input."
)
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["table", "jsonl", "csv"]),
    default="table",
    show_default=True,
    help="Format of the output.",
)
@click.option("--all-scores", is_flag=True, help="Write the probability of every label (jsonl and csv).")
@click.option(
    "--abstain", type=click.FloatRange(0, 1), help="Give no label below this score.  [default: the bundle's threshold]"
)
@click.option("--precision", help="One of the bundle's precisions.  [default: the bundle's choice]")
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    help="Threads to compute with, at most one per usable core.  [default: that many]",
)
@click.option(
    "--device",
    default="cpu",
    show_default=True,
    metavar="DEVICE",
    help="cpu, cuda or cuda:N. A GPU runs fp16 or fp32 where the bundle has it and --precision names no other.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    help="Most texts in a batch.  [default: 32, or 256 for a static student]",
)
@click.option(
    "--cascade/--no-cascade",
    default=None,
    help="Let the bundle's static student answer where it is sure.  [default: if the bundle has one]",
)
@with_hub_options
def command(
    bundle: str,
    texts: tuple[str, ...],
    file: str | None,
    output_format: str,
    all_scores: bool,
    abstain: float | None,
    precision: str | None,
    threads: int | None,
    device: str,
    batch_size: int | None,
    cascade: bool | None,
    hub: HubOptions,
) -> None:
    """Classify texts with a bundle.

    Texts come as arguments, or one on each line of a file or of standard input, and are answered in that order. Texts
    longer than the model's input are cut; standard error tells how many. If the score is below the threshold, the label
    is null (jsonl), empty (csv) or a dash (table).

    \b
    Examples:
      amalgam-edge predict student/ "a puzzle game about falling blocks"
      amalgam-edge predict student/ --file texts.txt --format csv > labels.csv
      cat texts.txt | amalgam-edge predict student/ --format jsonl --all-scores
    """  # noqa: D301  (click reads \b as "do not rewrap")
    if texts and file:
        raise AmalgamError("texts given both as arguments and with --file: give one of them")
    from amalgam_edge.runtime.finding import find_bundle

    opened = find_bundle(bundle, **hub)  # a mistyped name is told before the runtime is loaded
    from amalgam_edge.runtime.classifier import EdgeClassifier

    classifier = EdgeClassifier(
        opened, precision=precision, threads=threads, abstain=abstain, cascade=cascade, device=device
    )
    write = _WRITERS[output_format](classifier.labels, all_scores)
    n_truncated = n_empty = 0
    for chunk in _chunks(texts or _lines(file)):
        predictions = classifier(chunk, all_scores=all_scores, batch_size=batch_size)
        for text, prediction in zip(chunk, predictions, strict=True):
            write(text, prediction)
            n_truncated += prediction.truncated
            n_empty += not text.strip()
    if n_truncated:
        show_lines(f"{n_truncated} text(s) longer than {classifier.max_length} tokens were cut", err=True)
    if n_empty:
        show_lines(f"{n_empty} text(s) were empty; their labels mean nothing", err=True)


def _lines(file: str | None) -> Iterator[str]:
    """The lines of a file or of standard input, without their line ends."""
    if file in (None, "-"):
        if sys.stdin.isatty():
            raise AmalgamError("no text given: name texts, --file FILE, or pipe them in, one on each line")
        yield from _decoded_lines(sys.stdin, "standard input")
        return
    try:
        with open(str(file), encoding="utf-8") as handle:  # noqa: PTH123  (a pipe or /dev/fd works too)
            yield from _decoded_lines(handle, str(file))
    except OSError as error:
        raise AmalgamError(f"{file}: cannot be read ({error.strerror})") from error


def _decoded_lines(handle: TextIO, name: str) -> Iterator[str]:
    try:
        for read in handle:
            yield read.rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise AmalgamError(f"{name}: not a text file (UTF-8 is expected)") from error


def _chunks(texts: Iterable[str]) -> Iterator[list[str]]:
    rest = iter(texts)
    while chunk := list(islice(rest, _TEXTS_AT_ONCE)):
        yield chunk


class _TableWriter:
    """Writes columns for people; long texts are shortened."""

    def __init__(self, labels: tuple[str, ...], all_scores: bool) -> None:
        self._width = max(len(line(label)) for label in labels)

    def __call__(self, text: str, prediction: Prediction) -> None:
        shown = line(" ".join(text.split()))
        if len(shown) > _SHOWN_CHARACTERS:
            shown = f"{shown[: _SHOWN_CHARACTERS - 1]}…"
        show_lines(f"{line(prediction.label or _NO_LABEL).ljust(self._width)}  {prediction.score:.3f}  {shown}")


class _JsonLinesWriter:
    """Writes one JSON object on each line."""

    def __init__(self, labels: tuple[str, ...], all_scores: bool) -> None:
        self._all_scores = all_scores

    def __call__(self, text: str, prediction: Prediction) -> None:
        row: dict[str, object] = {"text": text, "label": prediction.label, "score": prediction.score}
        if self._all_scores:
            row["scores"] = prediction.scores
        show_json(row, indent=None)


class _CsvWriter:
    """Writes CSV with a header, and a column for each label if all scores are requested."""

    def __init__(self, labels: tuple[str, ...], all_scores: bool) -> None:
        self._labels = labels if all_scores else ()
        self._output = CsvOutput()
        self._output.row(["text", "label", "score", *self._labels])

    def __call__(self, text: str, prediction: Prediction) -> None:
        scores = [(prediction.scores or {})[label] for label in self._labels]
        self._output.row([text, prediction.label, prediction.score, *scores])


_Writer = Callable[[str, "Prediction"], None]
_WRITERS: dict[str, Callable[[tuple[str, ...], bool], _Writer]] = {
    "table": _TableWriter,
    "jsonl": _JsonLinesWriter,
    "csv": _CsvWriter,
}
