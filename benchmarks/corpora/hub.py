"""Labelled corpora of the Hugging Face Hub, kept as CSV once they were read."""

from __future__ import annotations

import csv
import re
from itertools import islice
from pathlib import Path

import datasets
from corpora import Rows
from sampling import by_hash, choose, write_sample
from settings import LeftOut

from amalgam_edge.errors import first_line

HUB_PREFIX = "hf://"
# The paper's corpora: OWNER/NAME:TEXT_COLUMN:LABEL_COLUMN:SPLIT. None: no copy on the Hub is known to us.
PAPER: dict[str, str | None] = {
    "ag_news": "fancyzhx/ag_news:text:label:train",
    "thucnews": "oyxy2019/THUCNewsText:text:label:train",
    "google_snippets": None,
    "5abstracts": None,
}
_CANDIDATES = 4  # for each text that is kept: some are near twins of others


def is_of_the_hub(corpus: str) -> bool:
    """Whether a corpus of this name is read from the Hub."""
    return corpus in PAPER or corpus.startswith(HUB_PREFIX)


def folder_name(corpus: str) -> str:
    """A corpus' name as a folder may bear it."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", corpus.removeprefix(HUB_PREFIX))


def parse(corpus: str) -> tuple[str, str, str, str]:
    """Data set, column of texts, column of labels, and split, of what a corpus is called by.

    Raises:
        LeftOut: no data set is known by this name.
    """
    spec = PAPER.get(corpus, corpus.removeprefix(HUB_PREFIX))
    if spec is None:
        raise LeftOut(f"no copy on the Hub is known; name one: {HUB_PREFIX}OWNER/NAME:TEXT_COLUMN:LABEL_COLUMN")
    name, *rest = spec.split(":")
    text, label, split = (*rest, *("text", "label", "train")[len(rest) :])[:3]
    return name, text, label, split


def read(corpus: str, folder: Path, most: int) -> tuple[list[str], list[str]]:
    """Texts and labels of a corpus, at most ``most`` a label, chosen by hash; from ``folder`` where they are kept.

    Raises:
        LeftOut: the Hub cannot be reached, or has no such data set.
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
        raise LeftOut(f"{name} cannot be had from the Hub ({first_line(error)})") from error
    missing = [column for column in (text, label) if column not in table.column_names]
    if missing:
        raise LeftOut(f"{name} has no column {missing[0]}; it has {', '.join(table.column_names)}")
    feature = table.features[label]
    names = feature.int2str if isinstance(feature, datasets.ClassLabel) else str
    rows = [(row, str(names(of))) for row, of in zip(table[text], table[label], strict=True) if row and row.strip()]
    rows.sort(key=lambda row: by_hash(row[0]))
    labels = sorted({row[1] for row in rows})
    some = [row for one in labels for row in islice((row for row in rows if row[1] == one), _CANDIDATES * most)]
    return choose(some, labels, most)
