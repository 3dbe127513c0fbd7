"""The content of a file, unpacked where it is compressed, in chunks and within bounds."""

from __future__ import annotations

import gzip
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from amalgam_edge.errors import AmalgamError, first_line
from amalgam_edge.tables.formats import COMPRESSIONS

# A compressed file may unpack to 1 GiB, or to 100 times its size if that is more; text rarely shrinks to a twentieth.
MOST_UNPACKED = 2**30
MOST_EXPANSION = 100

_CHUNK = 2**20


def unpacked_chunks(path: Path) -> Iterator[bytes]:
    """A file's content, unpacked where its suffix names a compression.

    Raises:
        AmalgamError: It cannot be unpacked, or unpacks to too much.
        OSError: It cannot be read.
    """
    compression = COMPRESSIONS.get(path.suffix.lower())
    most = max(MOST_UNPACKED, MOST_EXPANSION * path.stat().st_size) if compression else None
    n_read = 0
    try:
        with path.open("rb") as packed, _unpacked(packed, compression) as source:
            while chunk := source.read(_CHUNK):
                n_read += len(chunk)
                if most is not None and n_read > most:
                    raise AmalgamError(
                        f"{path}: unpacks to more than {most / 1e9:.1f} GB, far more than text does; "
                        "if that is right, unpack it yourself and name what comes of it"
                    )
                yield chunk
    except (EOFError, ValueError, lzma.LZMAError, zlib.error, gzip.BadGzipFile) as error:
        raise AmalgamError(f"{path}: cannot be unpacked ({first_line(error)})") from error


def _unpacked(packed: BinaryIO, compression: str | None) -> BinaryIO:
    """What a file reads as once it is unpacked."""
    if compression is None:
        return packed
    import fsspec.compression

    known: dict[str, Any] = fsspec.compression.compr
    try:
        opened: BinaryIO = known[compression](packed, mode="rb")
    except KeyError:
        raise AmalgamError(f"{packed.name}: unpacking it needs zstandard: pip install zstandard") from None
    return opened
