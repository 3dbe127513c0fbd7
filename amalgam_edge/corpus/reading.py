"""From a table of any source to a corpus: which column is the text, which rows are kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np

from amalgam_edge.corpus.corpus import (
    TEXT,
    Corpus,
    digest_texts,
    fingerprint_of_digests,
    first_occurrences,
    label_key,
)
from amalgam_edge.corpus.formats import STRING
from amalgam_edge.corpus.sources import load_table, report_load_errors
from amalgam_edge.errors import AmalgamError
from amalgam_edge.tables.columns import choose_text_column, refuse_same_column, require_column


def read_corpus(
    source: str,
    *,
    text_column: str | None = None,
    label_columns: Sequence[str] = (),
    may_lack_labels: bool = False,
    split: str = "train",
    drop_duplicates: bool = True,
) -> Corpus:
    """Read a file, a folder of files, files that a pattern names, or ``hf://datasets/NAME``.

    Args:
        source: A file of a format in :data:`amalgam_edge.corpus.formats.FORMATS` (``.txt`` has one text a line),
            possibly compressed; a folder of such files; a pattern such as ``texts/*.parquet``; each as a local path or
            as a URL that fsspec knows; or a data set of the Hub.
        text_column: Column of the texts. By default ``text``, or else the only column of strings.
        label_columns: Columns of gold labels to keep, for evaluation, each once.
        may_lack_labels: Whether columns of gold labels that are not there are left out.
        split: Split of a Hub data set.
        drop_duplicates: Whether to leave out texts that came before.

    Raises:
        AmalgamError: The source does not exist, its format or a column is not known, or no text is left.
    """
    table = load_table(source, split)
    strings = [name for name, feature in table.features.items() if feature == STRING]
    text_column = choose_text_column(source, table.column_names, strings, text_column)
    if may_lack_labels:
        label_columns = [column for column in label_columns if column in table.column_names]
    table = _select_columns(table, source, text_column, label_columns)
    with report_load_errors(source):
        blank, digests = digest_texts(table)
    kept = ~blank
    if drop_duplicates:
        kept &= first_occurrences(digests)
    rows = np.flatnonzero(kept)
    n_blank = int(blank.sum())
    if len(rows) == 0:
        raise AmalgamError(f"{source}: no text in it ({table.num_rows} rows, {n_blank} of them blank)")
    return Corpus(
        dataset=table if len(rows) == table.num_rows else table.select(rows),
        digests=digests[rows],
        fingerprint=fingerprint_of_digests(digests[rows]),
        n_read=table.num_rows,
        n_blank=n_blank,
        n_duplicate=table.num_rows - n_blank - len(rows),
    )


def read_label_names(source: str, column: str, *, split: str = "train") -> list[str]:
    """The distinct names in a column of labels, in the order in which they first occur.

    Args:
        source: As for :func:`read_corpus`.
        column: Name of the column of labels.
        split: Split of a Hub data set.

    Returns:
        The names; none where there is no such column, or it does not hold single values.

    Raises:
        AmalgamError: The source cannot be read.
    """
    table = load_table(source, split)
    if not isinstance(table.features.get(column), datasets.Value | datasets.ClassLabel):
        return []
    return [name for name in dict.fromkeys(_labels_as_strings(table, column)[column]) if name]


def _select_columns(
    table: datasets.Dataset, source: str, text_column: str, label_columns: Sequence[str]
) -> datasets.Dataset:
    """The column ``text`` and those of labels that are asked for: strings, or lists of strings.

    Raises:
        AmalgamError: A column does not exist, is asked for as both, or holds something else than text.
    """
    new_names = {text_column: TEXT} | {column: label_key(column) for column in label_columns}
    for column in label_columns:
        refuse_same_column(source, text_column, column)
    for column in (text_column, *label_columns):
        require_column(source, table.column_names, column)
    for column in label_columns:
        table = _labels_as_strings(table, column)
    renamed = {old: new for old, new in new_names.items() if old != new}
    table = table.select_columns(list(new_names)).rename_columns(renamed)
    if table.features[TEXT] != STRING:
        raise AmalgamError(f"{source}: column '{text_column}' holds {table.features[TEXT].dtype}, not text")
    return table


def _labels_as_strings(table: datasets.Dataset, column: str) -> datasets.Dataset:
    """Replace class ids of a Hub data set by their names, and anything else by its string; lists stay lists."""
    feature = table.features[column]
    if isinstance(feature, datasets.List):
        return _lists_as_strings(table, column, feature.feature)
    if isinstance(feature, datasets.ClassLabel):
        return table.map(
            lambda batch: {column: [feature.int2str(label) for label in batch[column]]},
            batched=True,
            features=datasets.Features({**table.features, column: STRING}),
        )
    return table if feature == STRING else table.cast_column(column, STRING)


def _lists_as_strings(table: datasets.Dataset, column: str, inner: Any) -> datasets.Dataset:
    """A column of lists of labels as lists of their names."""

    def named(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        name = inner.int2str if isinstance(inner, datasets.ClassLabel) else str
        return {column: [None if labels is None else [name(label) for label in labels] for labels in batch[column]]}

    features = datasets.Features({**table.features, column: datasets.List(STRING)})
    return table.map(named, batched=True, features=features)
