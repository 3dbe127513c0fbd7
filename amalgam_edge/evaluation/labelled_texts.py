"""Labelled texts to measure a bundle on. Of a file of text, CSV or JSON they are read without the training extra."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from amalgam_edge.errors import AmalgamError, needs_extra
from amalgam_edge.storage import files
from amalgam_edge.tables.columns import refuse_same_column, require_column
from amalgam_edge.tables.formats import FORMAT_OF_SUFFIX, PARQUET, format_suffix
from amalgam_edge.tables.reading import read_file


@dataclass(frozen=True)
class LabelledTexts:
    """Texts that are not blank, and the name of each one's gold label, ``(n_texts,)`` each."""

    texts: list[str]
    labels: list[str]


def read_labelled_texts(data: str, *, text_column: str | None, label_column: str, split: str) -> LabelledTexts:
    """Read labelled texts in any form that a corpus may have.

    Args:
        data: A file, or what else a corpus may be: a folder, a pattern, a URL, a data set of the Hub.
        text_column: The column that holds the text; by default ``text``, or the only column of strings.
        label_column: The column that holds the gold label.
        split: The split of a Hub data set.

    Raises:
        AmalgamError: They cannot be read, a column is not known, or no text is left.
    """
    path = None if files.is_url(data) else Path(files.locate(data))
    if path is not None and path.is_file() and FORMAT_OF_SUFFIX.get(format_suffix(path.name), PARQUET) != PARQUET:
        return _read_table(str(path), text_column, label_column)
    with needs_extra("train", "reading labelled texts from anything but one file of CSV or JSON"):
        from amalgam_edge.corpus import read_corpus  # it knows the names of Parquet's class ids, too
    corpus = read_corpus(
        data, text_column=text_column, label_columns=[label_column], split=split, drop_duplicates=False
    )
    return LabelledTexts(list(corpus.texts), corpus.labels(label_column))


def _read_table(path: str, text_column: str | None, label_column: str) -> LabelledTexts:
    table = read_file(path, text_column=text_column)
    refuse_same_column(path, table.text_column, label_column)
    if table.columns:  # a file of JSON without a row has none
        require_column(path, table.columns, label_column)
    texts, labels, n_blank = [], [], 0
    for row in chain.from_iterable(table.chunks):
        if row.text.strip():
            texts.append(row.text)
            labels.append(_as_name(row.values.get(label_column)))
        else:
            n_blank += 1
    if not texts:
        raise AmalgamError(f"{path}: no text in it ({n_blank} rows, {n_blank} of them blank)")
    return LabelledTexts(texts, labels)


def _as_name(label: Any) -> str:
    """A label as the string that a data set would make of it."""
    return label if isinstance(label, str) else "None" if label is None else json.dumps(label, ensure_ascii=False)
