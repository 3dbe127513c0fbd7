"""File formats of a corpus: one table, from a file's suffix to how it is read.

To add a format, add one entry to :data:`FORMATS`: the suffix, and a function from local paths to a
``datasets.Dataset`` with one text a row. Folders, patterns, URLs, compressed files and error messages need no change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import PurePath
from typing import Any

import datasets

STRING = datasets.Value("string")
COMPRESSED_SUFFIXES = frozenset({".gz", ".xz", ".bz2", ".zst"})


def _load_with_builder(builder: str, paths: Sequence[str], **options: Any) -> datasets.Dataset:
    """Read files with one of the builders of ``datasets``, such as ``text``, ``csv``, ``json`` or ``parquet``."""
    return datasets.load_dataset(builder, data_files=list(paths), split="train", **options)


@dataclass(frozen=True)
class Format:
    """How files of one suffix are read.

    Attributes:
        load: Reads local files, possibly compressed, into one table with one text a row.
        binary: Whether files hold bytes that are not text, so that a null byte is no sign of a wrong file.
    """

    load: Callable[[Sequence[str]], datasets.Dataset]
    binary: bool = False


# "NA" and "null" are texts, not missing values: keep_default_na=False.
FORMATS: dict[str, Format] = {
    ".txt": Format(partial(_load_with_builder, "text")),
    ".csv": Format(partial(_load_with_builder, "csv", keep_default_na=False)),
    ".tsv": Format(partial(_load_with_builder, "csv", sep="\t", keep_default_na=False)),
    ".jsonl": Format(partial(_load_with_builder, "json")),
    ".parquet": Format(partial(_load_with_builder, "parquet"), binary=True),
}


def known_suffixes() -> str:
    """The suffixes that can be read, for error messages."""
    return ", ".join(FORMATS)


def format_suffix(name: str) -> str:
    """The suffix that says a file's format, in lower case and below a compression: ``.csv`` of ``A.CSV.gz``."""
    suffixes = [suffix.lower() for suffix in PurePath(name).suffixes]
    if suffixes and suffixes[-1] in COMPRESSED_SUFFIXES:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def is_compressed(name: str) -> bool:
    """Whether a file's last suffix names a compression."""
    return PurePath(name).suffix.lower() in COMPRESSED_SUFFIXES


def load_files(suffix: str, paths: Sequence[str]) -> datasets.Dataset:
    """Read local files of one format into one table, whose columns of text are all of type ``string``.

    CSV comes as large strings and other formats as strings; only tables of one type can be concatenated.
    """
    table = FORMATS[suffix].load(paths)
    large = [name for name, feature in table.features.items() if getattr(feature, "dtype", "") == "large_string"]
    return table.cast(datasets.Features({**table.features, **dict.fromkeys(large, STRING)})) if large else table
