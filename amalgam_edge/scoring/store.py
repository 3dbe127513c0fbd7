"""Scores on disk: a folder a teacher, Parquet shards that appear by rename, and a manifest of what they answer to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from amalgam_edge.errors import AmalgamError, first_line
from amalgam_edge.fingerprints import of_mapping
from amalgam_edge.scores import ARRAYS, TeacherScores
from amalgam_edge.staging import write_by_rename

MANIFEST = "manifest.json"
_LONGEST_SHOWN = 20


@dataclass(frozen=True)
class ScoreKey:
    """All that scores depend on; two runs with equal keys may share them.

    Attributes:
        teacher: its name.
        teacher_fingerprint: of its weights, config and tokenizer.
        corpus_fingerprint: of the texts in order.
        n_texts: how many.
        settings: passes, seed, masks, dropout, max_length and the like.
    """

    teacher: str
    teacher_fingerprint: str
    corpus_fingerprint: str
    n_texts: int
    settings: dict[str, object]

    def as_dict(self) -> dict[str, object]:
        """The key as it stands in the manifest."""
        return dict(vars(self))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the key."""
        return of_mapping(self.as_dict())


class ShardStore:
    """Files of rows, one teacher's over one corpus, in a folder that says what they answer to.

    Shard ``i`` holds the texts ``i · shard_size`` to ``(i + 1) · shard_size`` in the corpus' order. A shard is there
    whole or not at all, so a killed run goes on where it stopped.

    Args:
        folder: of this store alone.
        key: what the rows depend on.
        shard_size: texts a shard.
    """

    suffix: str  # of a shard's file
    what: str  # its rows are, in words
    remedy: str  # for rows that are not there

    def __init__(self, folder: Path, key: ScoreKey, *, shard_size: int = 1024) -> None:
        self.folder = folder
        self.key = key
        self.shard_size = shard_size

    @property
    def n_shards(self) -> int:
        """How many shards the corpus makes."""
        return -(-self.key.n_texts // self.shard_size)

    @property
    def begun(self) -> bool:
        """Whether anything was ever stored here."""
        return (self.folder / MANIFEST).exists()

    def open(self) -> None:
        """Make the folder and its manifest, or check the manifest and the shards that are there.

        Raises:
            AmalgamError: the folder holds rows of something else, something in it is damaged, or it cannot be
                written to. Nothing that was stored is touched.
        """
        wanted = {"key": self.key.as_dict(), "shard_size": self.shard_size}
        if self.begun:
            self._check_manifest(json.loads(json.dumps(wanted)))
            for shard in set(range(self.n_shards)) - set(self.missing()):
                self._check(shard)
            for stale in self.folder.glob("*.part"):  # what a killed run was writing
                stale.unlink(missing_ok=True)
            return
        if any(self.folder.glob(f"shard-*.{self.suffix}")):
            raise AmalgamError(f"{self.folder}: shards without a {MANIFEST}; restore it, or name another folder")
        with self._writing():
            self.folder.mkdir(parents=True, exist_ok=True)
            write_by_rename(self.folder / MANIFEST, json.dumps(wanted, indent=2, sort_keys=True).encode())

    def _check_manifest(self, wanted: dict[str, Any]) -> None:
        manifest = self.folder / MANIFEST
        found = _read_json(manifest)
        if not isinstance(found, dict) or not isinstance(found.get("key"), dict):
            raise AmalgamError(f"{manifest}: damaged; restore it, or move the folder away and {self.remedy}")
        changes = _changes(_flat(found), _flat(wanted))
        if changes:
            raise AmalgamError(
                f"{self.folder}: holds {self.what} of another run ({'; '.join(changes)}); "
                "name another folder, or delete this one"
            )

    def rows(self, shard: int) -> range:
        """The texts of a shard."""
        return range(shard * self.shard_size, min((shard + 1) * self.shard_size, self.key.n_texts))

    def missing(self) -> list[int]:
        """Shards that are not there yet."""
        return [shard for shard in range(self.n_shards) if not self._path(shard).exists()]

    def has(self, shard: int) -> bool:
        """Whether a shard is there."""
        return self._path(shard).exists()

    def _put(self, shard: int, content: bytes | pa.Buffer) -> None:
        """Add a shard's file.

        Raises:
            AmalgamError: there is no room, or no right, to write it.
        """
        with self._writing():
            write_by_rename(self._path(shard), memoryview(content))

    def _require_all(self) -> None:
        """Refuse to read a store that is not whole.

        Raises:
            AmalgamError: shards are missing.
        """
        missing = self.missing()
        if missing:
            raise AmalgamError(f"{self.folder}: {len(missing)} of {self.n_shards} shards are missing; {self.remedy}")

    def _check(self, shard: int) -> None:
        """Look whether a shard's file is whole, without reading all of it; raise :meth:`_damaged` if not."""
        raise NotImplementedError

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise AmalgamError(
                f"{self.folder}: cannot be written to ({error.strerror or first_line(error)}); "
                "what was scored is kept, and the next run goes on from there"
            ) from error

    def _damaged(self, shard: int) -> AmalgamError:
        return AmalgamError(f"{self._path(shard)}: a damaged shard; delete it and {self.remedy}")

    def _path(self, shard: int) -> Path:
        return self.folder / f"shard-{shard:06d}.{self.suffix}"


class ScoreStore(ShardStore):
    """The scores of one teacher over one corpus, as Parquet."""

    suffix = "parquet"
    what = "scores"
    remedy = "score again"

    def write(self, shard: int, scores: TeacherScores) -> None:
        """Add a shard.

        Raises:
            AmalgamError: there is no room, or no right, to write it.
        """
        columns: dict[str, pa.Array] = {"text": pa.array(self.rows(shard), pa.int64())}
        for name in ARRAYS:
            columns[name] = _to_arrow(getattr(scores, name))
        content = pa.BufferOutputStream()
        pq.write_table(pa.table(columns), content, compression="zstd", write_page_checksum=True)
        self._put(shard, content.getvalue())

    def read(self) -> TeacherScores:
        """All scores, in the corpus' order.

        Raises:
            AmalgamError: shards are missing or cannot be read.
        """
        return TeacherScores.concatenate(list(self.shards()))

    def shards(self) -> Iterator[TeacherScores]:
        """The scores of each shard in turn, so that a corpus of any size can be gone through.

        Raises:
            AmalgamError: shards are missing or cannot be read.
        """
        self._require_all()
        return (self._read(shard) for shard in range(self.n_shards))

    def _read(self, shard: int) -> TeacherScores:
        try:
            table = pq.read_table(self._path(shard), page_checksum_verification=True)
            whole = np.array_equal(_to_numpy(table["text"]), self.rows(shard))
            arrays = {name: _to_numpy(table[name]) for name in ARRAYS}
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            raise self._damaged(shard) from error
        if not whole:
            raise self._damaged(shard)
        return TeacherScores(self.key.teacher, **arrays)

    def _check(self, shard: int) -> None:
        """Look at a shard's end, which a truncated file lacks."""
        try:
            n_rows = pq.read_metadata(self._path(shard)).num_rows
        except (OSError, ValueError, pa.ArrowException) as error:
            raise self._damaged(shard) from error
        if n_rows != len(self.rows(shard)):
            raise self._damaged(shard)


def _read_json(path: Path) -> object:
    """A JSON file's content; None where it is damaged."""
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError:
        return None


def _flat(manifest: dict[str, Any]) -> dict[str, Any]:
    """A manifest's entries without their nesting."""
    flat: dict[str, Any] = {}
    for name, value in manifest.items():
        flat |= _flat(value) if isinstance(value, dict) else {name: value}
    return flat


def _changes(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """What differs between two flat manifests, in words; long values are left out."""
    names = [name for name in {**found, **wanted} if found.get(name) != wanted.get(name)]
    return [_change(name.replace("_", " "), found.get(name), wanted.get(name)) for name in names]


def _change(name: str, was: Any, now: Any) -> str:
    short = all(len(str(value)) <= _LONGEST_SHOWN for value in (was, now))
    if short:
        return f"{name} {was} there, {now} here"
    return f"other {name}" if isinstance(now, list) else f"another {name}"


def _to_arrow(values: np.ndarray) -> pa.Array:
    if values.ndim == 1:
        return pa.array(values)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])


def _to_numpy(column: pa.ChunkedArray) -> np.ndarray:
    array = column.combine_chunks()
    if pa.types.is_fixed_size_list(array.type):
        return array.flatten().to_numpy().reshape(len(array), array.type.list_size)
    return array.to_numpy()
