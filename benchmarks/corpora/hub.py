"""Labelled corpora of the Hugging Face Hub, kept as CSV files once they have been downloaded."""

from __future__ import annotations

import csv
import re
from itertools import islice
from pathlib import Path

import datasets

from amalgam_edge.errors import first_line
from benchmarks.common.errors import UnavailableError
from benchmarks.corpora.sampling import choose, write_sample
from examples.corpora import Rows, by_hash

HUB_PREFIX = "hf://"
# The corpora of the paper, as OWNER/NAME:TEXT_COLUMN:LABEL_COLUMN:SPLIT; None where no copy on the Hub is known.
PAPER: dict[str, str | None] = {
    "ag_news": "fancyzhx/ag_news:text:label:train",
    "thucnews": "oyxy2019/THUCNewsText:text:label:train",
    "google_snippets": None,
    "5abstracts": None,
}
_CANDIDATES = 4  # texts looked at for each one that is kept, since some are near duplicates


def is_on_hub(corpus: str) -> bool:
    """Whether the corpus of this name is read from the Hub."""
    return corpus in PAPER or corpus.startswith(HUB_PREFIX)


def folder_name(corpus: str) -> str:
    """The name of a corpus as a folder name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", corpus.removeprefix(HUB_PREFIX))


def parse(corpus: str) -> tuple[str, str, str, str]:
    """The data set, column of texts, column of labels and split that the name of a corpus stands for.

    Raises:
        UnavailableError: No data set is known by this name.
    """
    spec = PAPER.get(corpus, corpus.removeprefix(HUB_PREFIX))
    if spec is None:
        raise UnavailableError(
            f"no copy on the Hub is known; name one: {HUB_PREFIX}OWNER/NAME:TEXT_COLUMN:LABEL_COLUMN"
        )
    name, *rest = spec.split(":")
    text, label, split = (*rest, *("text", "label", "train")[len(rest) :])[:3]
    return name, text, label, split


def read(corpus: str, folder: Path, most: int) -> tuple[list[str], list[str]]:
    """Read a corpus, from ``folder`` if it has been read before.

    Args:
        corpus: Name of the corpus.
        folder: Where corpora are kept as CSV.
        most: How many texts per label to take at most; they are chosen by hash.

    Returns:
        Texts and their labels.

    Raises:
        UnavailableError: The Hub cannot be reached, or has no such data set.
    """
    kept = folder / f"{folder_name(corpus)}-{most}.csv"
    if not kept.exists():
        rows = _download(corpus, most)
        folder.mkdir(parents=True, exist_ok=True)
        part = kept.with_suffix(".tmp")
        with part.open("w", encoding="utf-8", newline="") as file:
            write_sample(rows, file)
        part.replace(kept)
    with kept.open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    return [row["text"] for row in found], [row["label"] for row in found]


def _download(corpus: str, most: int) -> Rows:
    name, text, label, split = parse(corpus)
    try:
        table = datasets.load_dataset(name, split=split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:  # being offline is a kind of OSError
        raise UnavailableError(f"{name} cannot be read from the Hub ({first_line(error)})") from error
    missing = [column for column in (text, label) if column not in table.column_names]
    if missing:
        raise UnavailableError(f"{name} has no column {missing[0]}; it has {', '.join(table.column_names)}")
    feature = table.features[label]
    names = feature.int2str if isinstance(feature, datasets.ClassLabel) else str
    rows = [(row, str(names(of))) for row, of in zip(table[text], table[label], strict=True) if row and row.strip()]
    rows.sort(key=lambda row: by_hash(row[0]))
    labels = sorted({row[1] for row in rows})
    candidates = [row for name in labels for row in islice((row for row in rows if row[1] == name), _CANDIDATES * most)]
    return choose(candidates, labels, most)
