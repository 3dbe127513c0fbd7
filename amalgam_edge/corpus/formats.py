"""File formats of a corpus: one table, from a file's suffix to how it is read.

To add a format, add one entry to :data:`FORMATS`: the suffix, and a function from local paths to a
``datasets.Dataset`` with one text a row. Folders, patterns, URLs, compressed files and error messages need no change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import datasets

from amalgam_edge.tables.formats import PARQUET_BEGINS

STRING = datasets.Value("string")


def _load_with_builder(builder: str, paths: Sequence[str], **options: Any) -> datasets.Dataset:
    """Read files with one of the builders of ``datasets``, such as ``text``, ``csv``, ``json`` or ``parquet``."""
    return datasets.load_dataset(builder, data_files=list(paths), split="train", **options)


@dataclass(frozen=True)
class Format:
    """How files of one suffix are read.

    Attributes:
        load: Reads local files, possibly compressed, into one table with one text a row.
        begins: How files begin if they hold bytes that are not text; None for text.
    """

    load: Callable[[Sequence[str]], datasets.Dataset]
    begins: bytes | None = None


# "NA" and "null" are texts, not missing values: keep_default_na=False.
FORMATS: dict[str, Format] = {
    ".txt": Format(partial(_load_with_builder, "text")),
    ".csv": Format(partial(_load_with_builder, "csv", keep_default_na=False)),
    ".tsv": Format(partial(_load_with_builder, "csv", sep="\t", keep_default_na=False)),
    ".jsonl": Format(partial(_load_with_builder, "json")),
    ".json": Format(partial(_load_with_builder, "json")),
    ".parquet": Format(partial(_load_with_builder, "parquet"), begins=PARQUET_BEGINS),
}


def known_suffixes() -> str:
    """The suffixes that can be read, for error messages."""
    return ", ".join(FORMATS)


def load_files(suffix: str, paths: Sequence[str]) -> datasets.Dataset:
    """Read local files of one format into one table, whose columns of text are all of type ``string``.

    CSV comes as large strings and other formats as strings; only tables of one type can be concatenated.
    """
    table = FORMATS[suffix].load(paths)
    large = [name for name, feature in table.features.items() if getattr(feature, "dtype", "") == "large_string"]
    return table.cast(datasets.Features({**table.features, **dict.fromkeys(large, STRING)})) if large else table
