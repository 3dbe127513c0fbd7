"""Scores on disk: a folder a teacher, Parquet shards that appear by rename, and a manifest of what they answer to."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from amalgam_edge.errors import AmalgamError
from amalgam_edge.fingerprints import of_mapping
from amalgam_edge.scores import ARRAYS, TeacherScores

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class ScoreKey:
    """All that scores depend on; two runs with equal keys may share them.

    Attributes:
        teacher: its name.
        teacher_fingerprint: of its weights, config and tokenizer.
        corpus_fingerprint: of the texts in order.
        n_texts: how many.
        settings: passes, seed, masks, dropout, max_length.
    """

    teacher: str
    teacher_fingerprint: str
    corpus_fingerprint: str
    n_texts: int
    settings: dict[str, object]

    def as_dict(self) -> dict[str, object]:
        """The key as it stands in the manifest."""
        return dict(vars(self))


class ScoreStore:
    """The shards of one teacher over one corpus.

    Shard ``i`` holds the texts ``i · shard_size`` to ``(i + 1) · shard_size`` in the corpus' order. A shard is there
    whole or not at all, so a killed run goes on where it stopped.

    Args:
        root: the folder of all stores.
        key: what the scores depend on; it names the store's own folder.
        shard_size: texts a shard.
    """

    def __init__(self, root: Path, key: ScoreKey, *, shard_size: int = 1024) -> None:
        self.key = key
        self.shard_size = shard_size
        self.folder = root / f"{key.teacher}-{of_mapping(key.as_dict())[:12]}"

    @property
    def n_shards(self) -> int:
        """How many shards the corpus makes."""
        return -(-self.key.n_texts // self.shard_size)

    def open(self) -> None:
        """Make the folder and its manifest, or check the one that is there.

        Raises:
            AmalgamError: the folder holds scores of something else.
        """
        manifest = self.folder / MANIFEST
        wanted = {"key": self.key.as_dict(), "shard_size": self.shard_size}
        if manifest.exists():
            if _read_json(manifest) != wanted:
                raise AmalgamError(f"{self.folder}: scores of another run stand here; delete the folder or use another")
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        write_by_rename(manifest, json.dumps(wanted, indent=2, sort_keys=True).encode())

    def rows(self, shard: int) -> range:
        """The texts of a shard."""
        return range(shard * self.shard_size, min((shard + 1) * self.shard_size, self.key.n_texts))

    def missing(self) -> list[int]:
        """Shards that are not there yet."""
        return [shard for shard in range(self.n_shards) if not self._path(shard).exists()]

    def write(self, shard: int, scores: TeacherScores) -> None:
        """Add a shard."""
        columns: dict[str, pa.Array] = {"text": pa.array(self.rows(shard), pa.int64())}
        for name in ARRAYS:
            columns[name] = _to_arrow(getattr(scores, name))
        target = self._path(shard)
        part = target.with_suffix(f".{os.getpid()}.part")
        pq.write_table(pa.table(columns), part, compression="zstd")
        os.replace(part, target)

    def read(self) -> TeacherScores:
        """All scores, in the corpus' order.

        Raises:
            AmalgamError: shards are missing or cannot be read.
        """
        if self.missing():
            raise AmalgamError(
                f"{self.folder}: {len(self.missing())} of {self.n_shards} shards are missing; score again"
            )
        return TeacherScores.concatenate([self._read(shard) for shard in range(self.n_shards)])

    def _read(self, shard: int) -> TeacherScores:
        try:
            table = pq.read_table(self._path(shard))
            whole = np.array_equal(_to_numpy(table["text"]), self.rows(shard))
            arrays = {name: _to_numpy(table[name]) for name in ARRAYS}
        except (OSError, pa.ArrowInvalid, KeyError) as error:
            raise self._damaged(shard) from error
        if not whole:
            raise self._damaged(shard)
        return TeacherScores(self.key.teacher, **arrays)

    def _damaged(self, shard: int) -> AmalgamError:
        return AmalgamError(f"{self._path(shard)}: a damaged shard; delete it and score again")

    def _path(self, shard: int) -> Path:
        return self.folder / f"shard-{shard:06d}.parquet"


def _read_json(path: Path) -> object:
    """A JSON file's content; None where it is damaged."""
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError:
        return None


def write_by_rename(path: Path, content: bytes) -> None:
    """Write a file that is either there whole or not at all."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_bytes(content)
    os.replace(part, path)


def _to_arrow(values: np.ndarray) -> pa.Array:
    if values.ndim == 1:
        return pa.array(values)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])


def _to_numpy(column: pa.ChunkedArray) -> np.ndarray:
    array = column.combine_chunks()
    if pa.types.is_fixed_size_list(array.type):
        return array.flatten().to_numpy().reshape(len(array), array.type.list_size)
    return array.to_numpy()
