"""File formats of a corpus: one table, from a file's suffix to how it is read.

To add a format, add one entry to :data:`FORMATS`: the suffix, and a function from local paths to a
``datasets.Dataset`` with one text a row. Folders, patterns, URLs, compressed files and error messages need no change.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import PurePath
from typing import Any

import datasets

from amalgam_edge.errors import AmalgamError

HEAD_BYTES = 2**16  # of a file, by which its format is checked

STRING = datasets.Value("string")
COMPRESSIONS = {".gz": "gzip", ".xz": "xz", ".bz2": "bz2", ".zst": "zstd"}  # suffix → its name in fsspec

# How archives begin, whatever their name; ``datasets`` would unpack them.
_ARCHIVES = re.compile(
    rb"\x1f\x8b|BZh[1-9]1AY&SY|\xfd7zXZ\0|\x5d\0\0|\x28\xb5\x2f\xfd|\x04\x22\x4d\x18|7z\xbc\xaf\x27\x1c|Rar!\x1a\x07"
    rb"|PK(\x03\x04|\x05\x06|\x07\x08)|.{257}ustar",
    re.DOTALL,
)


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
    ".parquet": Format(partial(_load_with_builder, "parquet"), begins=b"PAR1"),
}


def known_suffixes() -> str:
    """The suffixes that can be read, for error messages."""
    return ", ".join(FORMATS)


def format_suffix(name: str) -> str:
    """The suffix that says a file's format, in lower case and below a compression: ``.csv`` of ``A.CSV.gz``."""
    suffixes = [suffix.lower() for suffix in PurePath(name).suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def is_compressed(name: str) -> bool:
    """Whether a file's last suffix names a compression."""
    return PurePath(name).suffix.lower() in COMPRESSIONS


def check_head(name: str, suffix: str, head: bytes) -> None:
    """Refuse a file that is of another format than its suffix says, as far as its first bytes show.

    Args:
        name: The file's name, for the message.
        suffix: Its suffix, below a compression.
        head: Its first bytes, unpacked.

    Raises:
        AmalgamError: It is an archive, or binary where text is expected, or the other way round.
    """
    begins = FORMATS[suffix].begins
    if begins is not None:
        if not head.startswith(begins):
            raise AmalgamError(f"{name}: no {suffix} file, whatever its name says")
    elif _ARCHIVES.match(head):
        raise AmalgamError(f"{name}: an archive inside; unpack it, and name what comes of it")
    elif b"\0" in head:
        raise AmalgamError(f"{name}: a binary file, not text (UTF-8 is expected)")


def load_files(suffix: str, paths: Sequence[str]) -> datasets.Dataset:
    """Read local files of one format into one table, whose columns of text are all of type ``string``.

    CSV comes as large strings and other formats as strings; only tables of one type can be concatenated.
    """
    table = FORMATS[suffix].load(paths)
    large = [name for name, feature in table.features.items() if getattr(feature, "dtype", "") == "large_string"]
    return table.cast(datasets.Features({**table.features, **dict.fromkeys(large, STRING)})) if large else table
