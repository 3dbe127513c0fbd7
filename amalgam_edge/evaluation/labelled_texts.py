"""Labelled texts to measure a bundle on. Of a file of text, CSV or JSON they are read without the training extra."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from amalgam_edge.errors import AmalgamError, needs_extra
from amalgam_edge.gold import Cell
from amalgam_edge.storage import files
from amalgam_edge.tables.columns import refuse_same_column, require_column
from amalgam_edge.tables.formats import FORMAT_OF_SUFFIX, PARQUET, format_suffix
from amalgam_edge.tables.reading import read_file


@dataclass(frozen=True)
class LabelledTexts:
    """Texts that are not blank, with gold labels.

    Attributes:
        texts: The texts, ``(n_texts,)``.
        labels: Column of gold labels → what it holds of each text, ``(n_texts,)``.
    """

    texts: list[str]
    labels: dict[str, list[Cell]]


def read_labelled_texts(
    data: str, *, text_column: str | None, label_columns: Sequence[str], may_lack_labels: bool = False, split: str
) -> LabelledTexts:
    """Read labelled texts in any form that a corpus may have.

    Args:
        data: A file, or what else a corpus may be: a folder, a pattern, a URL, a data set of the Hub.
        text_column: The column that holds the text; by default ``text``, or the only column of strings.
        label_columns: The columns that hold gold labels, each once.
        may_lack_labels: Whether columns of gold labels that are not there are left out.
        split: The split of a Hub data set.

    Raises:
        AmalgamError: They cannot be read, a column is not known, or no text is left.
    """
    path = None if files.is_url(data) else Path(files.locate(data))
    if path is not None and path.is_file() and FORMAT_OF_SUFFIX.get(format_suffix(path.name), PARQUET) != PARQUET:
        return _read_table(str(path), text_column, label_columns, may_lack_labels=may_lack_labels)
    with needs_extra("train", "reading labelled texts from anything but one file of CSV or JSON"):
        from amalgam_edge.corpus import read_corpus  # it knows the names of Parquet's class ids, too
    corpus = read_corpus(
        data,
        text_column=text_column,
        label_columns=label_columns,
        may_lack_labels=may_lack_labels,
        split=split,
        drop_duplicates=False,
    )
    labels = {column: corpus.labels(column) for column in label_columns if corpus.has_labels(column)}
    return LabelledTexts(list(corpus.texts), labels)


def _read_table(
    path: str, text_column: str | None, label_columns: Sequence[str], *, may_lack_labels: bool
) -> LabelledTexts:
    table = read_file(path, text_column=text_column)
    columns = [column for column in label_columns if column in table.columns or not may_lack_labels]
    for column in columns:
        refuse_same_column(path, table.text_column, column)
        if table.columns:  # a file of JSON without a row has none
            require_column(path, table.columns, column)
    texts: list[str] = []
    labels: dict[str, list[Cell]] = {column: [] for column in columns}
    n_blank = 0
    for row in chain.from_iterable(table.chunks):
        if row.text.strip():
            texts.append(row.text)
            for column, cells in labels.items():
                cells.append(_as_cell(row.values.get(column)))
        else:
            n_blank += 1
    if not texts:
        raise AmalgamError(f"{path}: no text in it ({n_blank} rows, {n_blank} of them blank)")
    return LabelledTexts(texts, labels)


def _as_cell(value: Any) -> Cell:
    """Gold labels as the strings that a data set would make of them."""
    if isinstance(value, list):
        return [_as_name(label) for label in value]
    return None if value is None else _as_name(value)


def _as_name(label: Any) -> str:
    return label if isinstance(label, str) else json.dumps(label, ensure_ascii=False)
