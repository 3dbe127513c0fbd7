"""Reading texts: files, folders and Hub data sets, on any file system, through ``datasets``, memory-mapped."""

from __future__ import annotations

import glob
import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePath
from typing import Any

import datasets
import numpy as np

from amalgam_edge.errors import AmalgamError, first_line
from amalgam_edge.storage import files
from amalgam_edge.storage.fingerprints import of_mapping
from amalgam_edge.storage.staging import partly_written

HUB_PREFIX = "hf://datasets/"
TEXT, LABEL = "text", "label"
_DIGEST_BYTES = 16
_BATCH = 10_000
_TEXTS_PER_HELD_OUT = 5
_STRING = datasets.Value("string")

_BUILDERS: dict[str, tuple[str, dict[str, Any]]] = {
    ".txt": ("text", {}),
    ".csv": ("csv", {"keep_default_na": False}),
    ".tsv": ("csv", {"sep": "\t", "keep_default_na": False}),
    ".jsonl": ("json", {}),
    ".parquet": ("parquet", {}),
}
_NONE_INSIDE = f"no {', '.join(_BUILDERS)} file in this folder"
_COMPRESSIONS = {".gz", ".xz", ".bz2", ".zst"}


@dataclass(frozen=True)
class Corpus:
    """Texts, in the order read, and what was left out of them.

    Attributes:
        dataset: the column ``text`` and, where one was asked for, ``label`` (strings); memory-mapped.
        digests: 128-bit hash of each text, ``(n_texts, 2)`` of uint64.
        fingerprint: SHA-256 over the texts in order.
        n_read: rows before anything was dropped.
        n_blank: rows without text.
        n_duplicate: rows whose text had come before, to the character.
    """

    dataset: datasets.Dataset
    digests: np.ndarray
    fingerprint: str
    n_read: int
    n_blank: int
    n_duplicate: int

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def texts(self) -> Sequence[str]:
        """The texts, read from disk as they are asked for."""
        return self.dataset[TEXT]

    def take(self, rows: np.ndarray) -> list[str]:
        """The texts of a selection of rows, in the order of ``rows``."""
        texts = self.texts
        return [texts[int(row)] for row in rows]

    @property
    def labels(self) -> list[str]:
        """The gold labels' names."""
        return list(self.dataset[LABEL])

    def select(self, rows: np.ndarray) -> Corpus:
        """A corpus of some of the texts, in the order of ``rows``; what was left out of this one it counts too."""
        digests = self.digests[rows]
        return replace(self, dataset=self.dataset.select(rows), digests=digests, fingerprint=_fingerprint(digests))

    def split(self, held_out: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows to train on and rows to hold out, chosen by the texts' digests, whatever their order.

        Args:
            held_out: how many texts to hold out; at least one, and at most a fifth of the corpus.
        """
        size = max(1, min(held_out, len(self) // _TEXTS_PER_HELD_OUT))
        by_digest = np.lexsort(self.digests.T)
        return np.sort(by_digest[size:]), np.sort(by_digest[:size])


def read_corpus(
    source: str,
    *,
    text_column: str | None = None,
    label_column: str | None = None,
    split: str = "train",
    drop_duplicates: bool = True,
) -> Corpus:
    """Read a file, a folder of files, files that a pattern names, or ``hf://datasets/NAME``.

    Args:
        source: .txt (a line a text), .csv, .tsv, .jsonl or .parquet, each possibly compressed; a folder of them; a
            pattern such as ``texts/*.parquet``; each a local path or a URL that fsspec knows; or a data set of the Hub.
        text_column: by default ``text``, or the only column of strings.
        label_column: a gold column to keep, for evaluation.
        split: of a Hub data set.
        drop_duplicates: leave out texts that came before.

    Raises:
        AmalgamError: nothing there, a format or column that is not known, or no text left.
    """
    table = _load(source, split)
    text_column = text_column or _guess_text_column(table, source)
    if label_column == text_column:
        raise AmalgamError(f"{source}: column '{text_column}' cannot be both text and label")
    columns = {text_column: TEXT} | ({label_column: LABEL} if label_column else {})
    for column in columns:
        _require_column(table, column, source)
    if label_column:
        table = _label_names(table, label_column)
    table = table.select_columns(list(columns)).rename_columns({k: v for k, v in columns.items() if k != v})
    if table.features[TEXT] != _STRING:
        raise AmalgamError(f"{source}: column '{text_column}' holds {table.features[TEXT].dtype}, not text")
    blank, digests = _attempt(source, lambda: _digest(table))
    keep = ~blank
    if drop_duplicates:
        keep &= _first_of_each(digests)
    n_duplicate = int((~blank).sum() - keep.sum())
    rows = np.flatnonzero(keep)
    if len(rows) == 0:
        raise AmalgamError(f"{source}: no text in it ({table.num_rows} rows, {int(blank.sum())} of them blank)")
    digests = digests[rows]
    return Corpus(
        dataset=table if len(rows) == table.num_rows else table.select(rows),
        digests=digests,
        fingerprint=_fingerprint(digests),
        n_read=table.num_rows,
        n_blank=int(blank.sum()),
        n_duplicate=n_duplicate,
    )


def read_label_names(source: str, column: str, *, split: str = "train") -> list[str]:
    """The names in a column of labels, each once, in order; none where there is no such column of single values.

    Args:
        source: as for :func:`read_corpus`.
        column: of labels.
        split: of a Hub data set.

    Raises:
        AmalgamError: the source cannot be read.
    """
    table = _load(source, split)
    if not isinstance(table.features.get(column), datasets.Value | datasets.ClassLabel):
        return []
    return [name for name in dict.fromkeys(_label_names(table, column)[column]) if name]


def _load(source: str, split: str) -> datasets.Dataset:
    if source.startswith(HUB_PREFIX):
        name = source.removeprefix(HUB_PREFIX)
        return _attempt(source, lambda: datasets.load_dataset(name, split=split))
    found = _remote_files(source) if files.is_url(source) else _local_files(source)
    by_format: dict[str, list[_File]] = defaultdict(list)
    for file in found:
        if _format(file.name) not in _BUILDERS:
            raise AmalgamError(f"{file.name}: format not known; give one of {', '.join(_BUILDERS)}")
        _refuse_binary(file)
        by_format[_format(file.name)].append(file)
    parts = [_attempt(source, partial(_load_files, suffix, these)) for suffix, these in by_format.items()]
    return parts[0] if len(parts) == 1 else _attempt(source, lambda: datasets.concatenate_datasets(parts))


@dataclass(frozen=True)
class _File:
    """A file of texts.

    Attributes:
        name: its local path, or its URL.
        size: in bytes; None where the file system does not say.
        head: reads its first so many bytes.
        fetch: makes it a local file, if it is none, and says where.
    """

    name: str
    size: int | None
    head: Callable[[int], bytes]
    fetch: Callable[[], str]


def _local_files(source: str) -> list[_File]:
    path = Path(files.locate(source))
    if path.is_dir():
        paths = [file for file in path.rglob("*") if _format(file.name) in _BUILDERS]
    elif path.exists():
        paths = [path]
    else:
        paths = [file for file in Path(path.anchor).glob(str(path.relative_to(path.anchor))) if file.is_file()]
        _require_match(source, paths)
    if not paths:
        raise AmalgamError(f"{source}: {_NONE_INSIDE}")

    def head(file: Path, size: int) -> bytes:
        with file.open("rb") as opened:
            return opened.read(size)

    return [_File(str(file), file.stat().st_size, partial(head, file), partial(str, file)) for file in sorted(paths)]


def _remote_files(url: str) -> list[_File]:
    system, path = files.file_system(url)

    def find() -> dict[str, dict[str, Any]] | None:
        try:
            if glob.has_magic(path):
                return {name: info for name, info in system.glob(path, detail=True).items() if info["type"] == "file"}
            info = system.info(path)
            if info["type"] != "directory":
                return {path: info}
            inside = system.find(path, detail=True)
        except FileNotFoundError:
            return {}
        return {name: info for name, info in inside.items() if _format(name) in _BUILDERS} or None

    def head(name: str, size: int) -> bytes:
        with files.told_as_read(url):
            content: bytes = files.persistently(lambda: system.cat_file(name, start=0, end=size))
        return content

    with files.told_as_read(url):
        found = files.persistently(find)
    if found is None:
        raise AmalgamError(f"{url}: {_NONE_INSIDE}")
    _require_match(url, found)
    return [
        _File(
            system.unstrip_protocol(name), info.get("size"), partial(head, name), partial(_copied, system, name, info)
        )
        for name, info in sorted(found.items())
    ]


def _copied(system: Any, name: str, info: dict[str, Any]) -> str:
    """A local copy of a remote file, in the cache of ``datasets``; kept for as long as its version is the same.

    ``datasets`` would make one too, but looks at no version when it finds one, and makes none where the Hub is offline.
    """
    url = system.unstrip_protocol(name)
    version = info.get("ETag") or info.get("etag")
    called = f"{of_mapping({'url': url, 'version': version})[:32]}{''.join(PurePath(name).suffixes[-2:])}"
    copy = Path(datasets.config.DOWNLOADED_DATASETS_PATH, "amalgam-edge", called)
    if version is None or not copy.exists():
        copy.parent.mkdir(parents=True, exist_ok=True)
        with partly_written(copy) as part, files.told_as_read(url):
            files.persistently(lambda: system.get_file(name, str(part)))
    return str(copy)


def _require_match(source: str, found: Sized) -> None:
    if found:
        return
    if glob.has_magic(source):
        raise AmalgamError(f"{source}: no file matches; in a shell, put the pattern in quotes")
    raise AmalgamError(f"{source}: no such file or folder (Hub data sets are written {HUB_PREFIX}NAME)")


def _load_files(suffix: str, found: list[_File]) -> datasets.Dataset:
    builder, options = _BUILDERS[suffix]
    table = datasets.load_dataset(builder, data_files=[file.fetch() for file in found], split="train", **options)
    # CSV comes as large strings, other formats as strings; tables of both kinds must fit together.
    large = [name for name, feature in table.features.items() if getattr(feature, "dtype", "") == "large_string"]
    return table.cast(datasets.Features({**table.features, **dict.fromkeys(large, _STRING)})) if large else table


def _attempt(source: str, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except (datasets.exceptions.DatasetsError, OSError, ValueError, UnicodeDecodeError) as error:
        cause = error.__cause__ or error
        raise AmalgamError(f"{source}: cannot be read ({first_line(cause)})") from error


def _format(name: str) -> str:
    suffixes = [suffix.lower() for suffix in PurePath(name).suffixes]
    if suffixes and suffixes[-1] in _COMPRESSIONS:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def _refuse_binary(file: _File) -> None:
    if file.size == 0:
        raise AmalgamError(f"{file.name}: the file is empty")
    if PurePath(file.name).suffix.lower() in _COMPRESSIONS or _format(file.name) == ".parquet":
        return
    if b"\0" in file.head(1 << 16):
        raise AmalgamError(f"{file.name}: a binary file, not text (UTF-8 is expected)")


def _guess_text_column(table: datasets.Dataset, source: str) -> str:
    if TEXT in table.column_names:
        return TEXT
    strings = [name for name, feature in table.features.items() if feature == _STRING]
    if len(strings) == 1:
        return strings[0]
    raise AmalgamError(f"{source}: which column holds the text? Name one of {_listed(table)} with --text-column")


def _require_column(table: datasets.Dataset, column: str, source: str) -> None:
    if column not in table.column_names:
        raise AmalgamError(f"{source}: no column '{column}'; it has {_listed(table)}")


def _listed(table: datasets.Dataset) -> str:
    return ", ".join(f"'{name}'" for name in table.column_names)


def _label_names(table: datasets.Dataset, column: str) -> datasets.Dataset:
    """Class ids of a Hub data set become their names; anything else becomes a string."""
    feature = table.features[column]
    if isinstance(feature, datasets.ClassLabel):
        return table.map(
            lambda batch: {column: [feature.int2str(label) for label in batch[column]]},
            batched=True,
            features=datasets.Features({**table.features, column: _STRING}),
        )
    return table if feature == _STRING else table.cast_column(column, _STRING)


def _digest(table: datasets.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Which rows are blank ``(n,)``, and each text's 128-bit BLAKE2b ``(n, 2)``; one pass, a batch in memory."""
    blank = np.zeros(table.num_rows, dtype=bool)
    digests = np.zeros((table.num_rows, 2), dtype="<u8")
    start = 0
    for batch in table.select_columns([TEXT]).iter(batch_size=_BATCH):
        for row, text in enumerate(batch[TEXT], start):
            if text is None or not text.strip():
                blank[row] = True
            else:
                digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES).digest()
                digests[row] = np.frombuffer(digest, dtype="<u8")
        start += len(batch[TEXT])
    return blank, digests


def _fingerprint(digests: np.ndarray) -> str:
    return hashlib.sha256(digests.tobytes()).hexdigest()


def _first_of_each(digests: np.ndarray) -> np.ndarray:
    """Where a digest is seen for the first time, ``(n,)`` of bool."""
    order = np.lexsort(digests.T)  # stable: equal digests stay in the order of the corpus
    new = np.zeros(len(digests), dtype=bool)
    new[:1] = True
    for column in digests.T:
        ordered = column[order]
        new[1:] |= ordered[1:] != ordered[:-1]
    first = np.empty(len(digests), dtype=bool)
    first[order] = new
    return first
