"""What a file's name and its first bytes say of its format."""

from __future__ import annotations

import re
from pathlib import PurePath

from amalgam_edge.errors import AmalgamError

HEAD_BYTES = 2**16  # of a file, by which its format is checked

TEXT, CSV, TSV, JSON_LINES, JSON, PARQUET = "text", "csv", "tsv", "jsonl", "json", "parquet"
FORMAT_OF_SUFFIX = {
    ".txt": TEXT,
    ".csv": CSV,
    ".tsv": TSV,
    ".jsonl": JSON_LINES,
    ".json": JSON,
    ".parquet": PARQUET,
}
COMPRESSIONS = {".gz": "gzip", ".xz": "xz", ".bz2": "bz2", ".zst": "zstd"}  # suffix → its name in fsspec
PARQUET_BEGINS = b"PAR1"
HOLDS_NUL = "holds a NUL byte; in a text, remove those: tr -d '\\000'"

# How archives begin, whatever their name.
_ARCHIVES = re.compile(
    rb"\x1f\x8b|BZh[1-9]1AY&SY|\xfd7zXZ\0|\x5d\0\0|\x28\xb5\x2f\xfd|\x04\x22\x4d\x18|7z\xbc\xaf\x27\x1c|Rar!\x1a\x07"
    rb"|PK(\x03\x04|\x05\x06|\x07\x08)|.{257}ustar",
    re.DOTALL,
)
# Byte order mark → encoding. UTF-32 comes first: its little-endian mark begins with that of UTF-16.
_OTHER_ENCODINGS = {
    b"\xff\xfe\0\0": "UTF-32",
    b"\0\0\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}


def format_suffix(name: str) -> str:
    """The suffix that says a file's format, in lower case and below a compression: ``.csv`` of ``A.CSV.gz``."""
    suffixes = [suffix.lower() for suffix in PurePath(name).suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def is_compressed(name: str) -> bool:
    """Whether a file's last suffix names a compression."""
    return PurePath(name).suffix.lower() in COMPRESSIONS


def check_head(name: str, head: bytes, begins: bytes | None = None) -> None:
    """Refuse a file that is of another format than is expected, as far as its first bytes show.

    Args:
        name: The file's name, for the message.
        head: Its first bytes, unpacked.
        begins: How files of its format begin if they hold bytes that are not text; None for text.

    Raises:
        AmalgamError: It is an archive, in another encoding, or binary where text is expected, or the other way round.
    """
    if begins is not None:
        if not head.startswith(begins):
            raise AmalgamError(f"{name}: no {format_suffix(name)} file, whatever its name says")
        return
    if _ARCHIVES.match(head):
        raise AmalgamError(f"{name}: an archive inside; unpack it, and name what comes of it")
    for mark, encoding in _OTHER_ENCODINGS.items():
        if head.startswith(mark):
            raise AmalgamError(
                f"{name}, line 1: {encoding}, and UTF-8 is expected; convert it: iconv -f {encoding.lower()} -t utf-8"
            )
    if b"\0" in head:
        line = 1 + head[: head.index(b"\0")].count(b"\n")
        raise AmalgamError(f"{name}: a binary file, not text (UTF-8 is expected); line {line} {HOLDS_NUL}")
