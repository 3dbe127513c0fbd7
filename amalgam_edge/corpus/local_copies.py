"""Local files that ``datasets`` can open as they are: fetched, unpacked within bounds, and under plain names.

``datasets`` unpacks whatever looks like an archive, without a bound, and takes names of files for patterns and for
chains of file systems. Files that would invite that are copied into its cache first, under names made of digits.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path, PurePath
from typing import Any

import datasets

from amalgam_edge.corpus.formats import FORMATS
from amalgam_edge.storage import files
from amalgam_edge.storage.fingerprints import sha256_of_mapping
from amalgam_edge.storage.staging import staged_file
from amalgam_edge.tables.formats import HEAD_BYTES, check_head, format_suffix, is_compressed
from amalgam_edge.tables.unpacking import unpacked_chunks

_NOT_PLAIN = re.compile(r"[*?\[\]]|::|://")  # a pattern, or a chain of file systems


def local_copy(path: Path) -> str:
    """The path of a local file, or of a copy in the cache where it is compressed or has a name that is not plain.

    Raises:
        AmalgamError: It cannot be unpacked, or unpacks to too much or to another archive.
        OSError: It cannot be read, or the cache cannot be written to.
    """
    if not is_compressed(path.name) and not _NOT_PLAIN.search(str(path.absolute())):
        return str(path)
    found = path.stat()
    version = f"{found.st_mtime_ns} {found.st_size}"
    return str(_cached(str(path.absolute()), version, format_suffix(path.name), lambda part: _unpack(path, part)))


def fetched_copy(system: Any, name: str, info: dict[str, Any]) -> str:
    """The path of a copy of a remote file in the cache, unpacked; a copy of the same version (ETag) is used again.

    ``datasets`` would copy it too, but uses an old copy without comparing versions, and copies nothing where
    ``HF_HUB_OFFLINE`` is set.

    Raises:
        AmalgamError: It cannot be fetched, or as for :func:`local_copy`.
    """
    url = system.unstrip_protocol(name)
    version = info.get("ETag") or info.get("etag")

    def fetch(part: Path) -> None:
        with files.report_unreadable(url):
            files.with_retries(lambda: system.get_file(name, str(part)))

    return local_copy(_cached(url, version, "".join(PurePath(name).suffixes[-2:]), fetch))


def _cached(name: str, version: str | None, suffix: str, write: Callable[[Path], None]) -> Path:
    """A file in the cache that ``write`` has written, unless there is one of that name and version."""
    key = sha256_of_mapping({"url": name, "version": version})[:32]
    copy = Path(datasets.config.DOWNLOADED_DATASETS_PATH, "amalgam-edge", f"{key}{suffix}")
    if version is None or not copy.exists():
        copy.parent.mkdir(parents=True, exist_ok=True)
        with staged_file(copy) as part:
            write(part)
    return copy


def _unpack(path: Path, part: Path) -> None:
    """Write the content of a file, unpacked where it is compressed."""
    suffix = format_suffix(path.name)
    with part.open("wb") as target:
        for position, chunk in enumerate(unpacked_chunks(path)):
            if position == 0:
                check_head(path.name, chunk[:HEAD_BYTES], FORMATS[suffix].begins)
            target.write(chunk)
