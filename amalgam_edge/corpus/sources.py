"""Where a corpus comes from: local files and folders, URLs that fsspec knows, data sets of the Hugging Face Hub.

:func:`load_table` is the entry. A file, local or remote, is described by a :class:`SourceFile`; to read files from
another kind of place, find them there and return their descriptions.
"""

from __future__ import annotations

import glob
from collections import defaultdict
from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import datasets

from amalgam_edge.corpus.formats import FORMATS, known_suffixes, load_files
from amalgam_edge.corpus.local_copies import fetched_copy, local_copy
from amalgam_edge.errors import AmalgamError, first_line
from amalgam_edge.storage import files
from amalgam_edge.storage.own_files import own_file
from amalgam_edge.tables.formats import HEAD_BYTES, check_head, format_suffix, is_compressed


@dataclass(frozen=True)
class SourceFile:
    """A file of texts that was found, but not read yet.

    Attributes:
        name: Local path or URL.
        size: Size in bytes; None where the file system does not say.
        read_head: Reads the first bytes, as many as it is asked for.
        fetch: Returns a local path that ``datasets`` can open, of the file itself or of a copy.
    """

    name: str
    size: int | None
    read_head: Callable[[int], bytes]
    fetch: Callable[[], str]


def load_table(source: str, split: str) -> datasets.Dataset:
    """Read all rows of a source into one memory-mapped table.

    Args:
        source: A file, a folder, a pattern or a URL of them, or ``hf://datasets/NAME``.
        split: The split of a Hub data set; without meaning for files.

    Raises:
        AmalgamError: The source does not exist, cannot be read, or holds a format that is not known.
    """
    if source.startswith(files.HUB_DATASETS):
        files.check_url(source)
        with report_load_errors(source):
            return datasets.load_dataset(source.removeprefix(files.HUB_DATASETS), split=split)
    found = _remote_files(source) if files.is_url(source) else _local_files(source)
    by_format: dict[str, list[SourceFile]] = defaultdict(list)
    for file in found:
        _refuse_unknown_format(file)
        _refuse_wrong_content(file)
        by_format[format_suffix(file.name)].append(file)
    with report_load_errors(source):
        tables = [load_files(suffix, [file.fetch() for file in group]) for suffix, group in by_format.items()]
        return tables[0] if len(tables) == 1 else datasets.concatenate_datasets(tables)


@contextmanager
def report_load_errors(source: str) -> Iterator[None]:
    """Turn what ``datasets`` raises over unreadable files into one line.

    Raises:
        AmalgamError: The block raised such an error.
    """
    try:
        yield
    except (datasets.exceptions.DatasetsError, OSError, ValueError, UnicodeDecodeError) as error:
        cause = error.__cause__ or error
        raise AmalgamError(f"{source}: cannot be read ({first_line(cause)})") from error


def _local_files(source: str) -> list[SourceFile]:
    path = Path(files.locate(source))
    if path.is_dir():
        paths = [file for file in path.rglob("*") if format_suffix(file.name) in FORMATS and not file.is_dir()]
        for file in paths:
            own_file(path, file.relative_to(path).as_posix())
        if not paths:
            raise _no_known_file(source)
    elif path.exists():
        paths = [path]
    else:
        paths = [file for file in Path(path.anchor).glob(str(path.relative_to(path.anchor))) if file.is_file()]
        _require_match(source, paths)
    return [
        SourceFile(str(file), file.stat().st_size, partial(_read_local_head, file), partial(local_copy, file))
        for file in sorted(paths)
    ]


def _read_local_head(path: Path, size: int) -> bytes:
    with path.open("rb") as file:
        return file.read(size)


def _remote_files(url: str) -> list[SourceFile]:
    system, path = files.file_system(url)
    with files.report_unreadable(url):
        found = files.with_retries(partial(_find_remote, system, path))
    if found is None:
        raise _no_known_file(url)
    _require_match(url, found)
    return [
        SourceFile(
            system.unstrip_protocol(name),
            info.get("size"),
            partial(_read_remote_head, system, name, url),
            partial(fetched_copy, system, name, info),
        )
        for name, info in sorted(found.items())
    ]


def _find_remote(system: Any, path: str) -> dict[str, dict[str, Any]] | None:
    """The files that a remote path names, by name; None for a folder without any of a known format."""
    try:
        if glob.has_magic(path):
            return {name: info for name, info in system.glob(path, detail=True).items() if info["type"] == "file"}
        info = system.info(path)
        if info["type"] != "directory":
            return {path: info}
        inside = system.find(path, detail=True)
    except FileNotFoundError:
        return {}
    return {name: info for name, info in inside.items() if format_suffix(name) in FORMATS} or None


def _read_remote_head(system: Any, name: str, url: str, size: int) -> bytes:
    with files.report_unreadable(url):
        content: bytes = files.with_retries(lambda: system.cat_file(name, start=0, end=size))
    return content


def _no_known_file(source: str) -> AmalgamError:
    return AmalgamError(f"{source}: no {known_suffixes()} file in this folder")


def _require_match(source: str, found: Sized) -> None:
    if found:
        return
    if glob.has_magic(source):
        raise AmalgamError(f"{source}: no file matches; in a shell, put the pattern in quotes")
    raise files.no_such_source(source)


def _refuse_unknown_format(file: SourceFile) -> None:
    if format_suffix(file.name) not in FORMATS:
        raise AmalgamError(f"{file.name}: format not known; give one of {known_suffixes()}")


def _refuse_wrong_content(file: SourceFile) -> None:
    if file.size == 0:
        raise AmalgamError(f"{file.name}: the file is empty")
    if not is_compressed(file.name):  # else it is looked at as it is unpacked
        check_head(file.name, file.read_head(HEAD_BYTES), FORMATS[format_suffix(file.name)].begins)
