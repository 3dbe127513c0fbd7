"""The scores of one teacher on disk: Parquet shards, each with a record of what wrote it and of texts that failed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from amalgam_edge.environment import own_version
from amalgam_edge.errors import AmalgamError
from amalgam_edge.scoring.scores import ARRAYS, Failure, TeacherScores
from amalgam_edge.scoring.scores_manifest import MANIFEST, ScoreKey
from amalgam_edge.scoring.shards import ShardStore
from amalgam_edge.storage import files
from amalgam_edge.storage.files import Location
from amalgam_edge.storage.json_text import parse_json
from amalgam_edge.storage.records import to_json

__all__ = ["FAILURES", "MANIFEST", "ScoreKey", "ScoreStore", "Shard"]

FAILURES = "failures"
_MOST_SHARD_BYTES = 2**31
_MOST_SHARD_VALUES = 2**28  # a thousand texts of 40,000 classes, in each of six arrays
_MOST_FAILURE_BYTES = 16_384  # for each text
_MOST_LINEAGE_BYTES = 2**23
LINEAGE = b"amalgam-edge"  # name of the entry in a Parquet file's metadata that records what wrote it


@dataclass(frozen=True)
class Shard:
    """The content of one shard.

    Attributes:
        scores: Scores of the shard's texts, in the order of the corpus.
        lineage: What wrote the shard: ``version`` of amalgam-edge, ``key`` and ``key_fingerprint``, ``engine`` and
            ``backend`` where known, the time it was ``written`` (UTC), and the ``digest`` of its rows. Empty if an
            older version wrote it.
    """

    scores: TeacherScores
    lineage: dict[str, Any]


class ScoreStore(ShardStore):
    """The scores of one teacher over one corpus, as Parquet.

    A text that could not be scored has 0 passes and NaN in each array, and ``failures/shard-NNNNNN.json`` says why.
    """

    suffix = "parquet"
    contents = "scores"
    remedy = "score again"

    def write(self, shard: int, scores: TeacherScores, failures: Sequence[Failure] = ()) -> None:
        """Add a shard.

        Args:
            shard: Number of the shard.
            scores: Scores of all its texts, in the order of the corpus; the rows of failed texts are blank.
            failures: The texts that could not be scored.

        Raises:
            AmalgamError: The disk is full, or writing is not permitted.
            ValueError: The failures are not the blank rows, or there are more or fewer rows than texts.
        """
        rows = self.rows(shard)
        blank = (np.flatnonzero(scores.passes == 0) + rows.start).tolist()
        if len(scores) != len(rows) or sorted(failure["text"] for failure in failures) != blank:
            raise ValueError(f"shard {shard}: {len(scores)} rows, blank ones {blank}, do not fit {failures}")
        with self._writing():  # before the shard, so that no shard lacks the record of its failures
            if failures:
                in_order = sorted(failures, key=lambda failure: failure["text"])
                content = json.dumps(in_order, indent=2, ensure_ascii=False).encode()
                files.write(self.failures_path(shard), content)
            else:
                files.delete(self.failures_path(shard))
        columns: dict[str, pa.Array] = {"text": pa.array(rows, pa.int64())}
        for name in ARRAYS:
            columns[name] = _to_arrow(getattr(scores, name))
        table = pa.table(columns, metadata={LINEAGE: json.dumps(self._lineage(scores)).encode()})
        stream = pa.BufferOutputStream()
        pq.write_table(table, stream, compression="zstd", write_page_checksum=True)
        self._put(shard, stream.getvalue())

    def copy_shard(self, shard: int, source: ScoreStore) -> None:
        """Copy a shard from another store of the same key, byte for byte, with the record of its failures.

        Raises:
            AmalgamError: The shard cannot be read there, or not written here.
        """
        try:
            content = files.read(source.path(shard))
            failures = files.read(source.failures_path(shard)) if source.failures_of(shard) else b""
        except OSError as error:
            raise source._damaged(shard) from error
        with self._writing():
            if failures:
                files.write(self.failures_path(shard), failures)
            else:
                files.delete(self.failures_path(shard))
        self._put(shard, content)

    def failures(self) -> list[Failure]:
        """The texts that could not be scored in the shards that exist, in the order of the corpus.

        Raises:
            AmalgamError: A record of failures is damaged.
        """
        records = set(files.names(files.join(self.folder, FAILURES)))
        shards = [shard for shard in self.present() if _failures_name(shard) in records]
        return [failure for shard in shards for failure in self.failures_of(shard)]

    def failures_of(self, shard: int) -> list[Failure]:
        """The texts of a shard that could not be scored.

        Raises:
            AmalgamError: The record of them is damaged.
        """
        try:
            most_bytes = _MOST_FAILURE_BYTES * len(self.rows(shard))
            record = parse_json(files.read(self.failures_path(shard), most_bytes=most_bytes + 1), most_bytes)
            return [_failure(entry, self.rows(shard)) for entry in record]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError, AmalgamError) as error:
            raise self._damaged(shard) from error

    def failures_path(self, shard: int) -> Location:
        """The file that records which texts of a shard could not be scored."""
        return files.join(self.folder, FAILURES, _failures_name(shard))

    def read(self) -> TeacherScores:
        """All scores, in the order of the corpus; the rows of failed texts are blank.

        Raises:
            AmalgamError: Shards are missing or cannot be read.
        """
        return TeacherScores.concatenate(list(self.shards()))

    def shards(self) -> Iterator[TeacherScores]:
        """The scores of each shard in turn, so that a corpus of any size fits into memory.

        Raises:
            AmalgamError: Shards are missing or cannot be read.
        """
        self._require_all()
        return (self.read_shard(shard).scores for shard in range(self.n_shards))

    def read_shard(self, shard: int) -> Shard:
        """Read and check one shard.

        Raises:
            AmalgamError: The shard is missing or truncated, belongs to another key, or its rows were changed.
        """
        try:
            content = files.read(self.path(shard), most_bytes=_MOST_SHARD_BYTES + 1)
            file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
            self._require_bounds(shard, len(content), file.metadata)
            table = file.read()
            intact = np.array_equal(_to_numpy(table["text"]), self.rows(shard))
            arrays = {name: _to_numpy(table[name]) for name in ARRAYS}
            scores = TeacherScores(self.key.teacher, **arrays, activation=self.key.activation)
            lineage = parse_json((table.schema.metadata or {}).get(LINEAGE, b"{}"), _MOST_LINEAGE_BYTES)
            intact = intact and lineage.get("key_fingerprint", self.key.fingerprint) == self.key.fingerprint
            intact = intact and lineage.get("digest", "") in ("", scores.digest())
        except (OSError, ValueError, KeyError, AttributeError, AmalgamError, pa.ArrowException) as error:
            raise self._damaged(shard) from error
        if not intact:
            raise self._damaged(shard)
        return Shard(scores, lineage)

    def _require_bounds(self, shard: int, n_bytes: int, metadata: pq.FileMetaData) -> None:
        """Refuse a file that would be read as more than a shard can be: a few bytes may stand for many equal values.

        Raises:
            ValueError: It would.
        """
        chunks = (
            metadata.row_group(k).column(j) for k in range(metadata.num_row_groups) for j in range(metadata.num_columns)
        )
        sizes = [(chunk.num_values, chunk.total_uncompressed_size) for chunk in chunks]
        if n_bytes > _MOST_SHARD_BYTES or metadata.num_rows != len(self.rows(shard)):
            raise ValueError("a shard of another size")
        if sum(n for n, _ in sizes) > _MOST_SHARD_VALUES or sum(size for _, size in sizes) > _MOST_SHARD_BYTES:
            raise ValueError("a shard of too many values")

    def _lineage(self, scores: TeacherScores) -> dict[str, Any]:
        return {
            "version": own_version(),
            "key": to_json(self.key),
            "key_fingerprint": self.key.fingerprint,
            **self.made_by,
            "written": datetime.now(UTC).isoformat(),
            "digest": scores.digest(),
        }

    def _check(self, shard: int) -> None:
        """Read a shard's footer, which a truncated file lacks."""
        try:
            n_rows = pq.read_metadata(Path(self.path(shard))).num_rows
        except (OSError, ValueError, pa.ArrowException) as error:
            raise self._damaged(shard) from error
        if n_rows != len(self.rows(shard)):
            raise self._damaged(shard)


def _failure(entry: Any, rows: range) -> Failure:
    """An entry of a record of failures, checked; raises a ``ValueError`` over what is none."""
    text, error = (entry.get("text"), entry.get("error")) if isinstance(entry, dict) else (None, None)
    if type(text) is not int or text not in rows or not isinstance(error, str):
        raise ValueError("no failure of a text of this shard")
    return Failure(text=text, error=error)


def _failures_name(shard: int) -> str:
    return f"shard-{shard:06d}.json"


def _to_arrow(values: np.ndarray) -> pa.Array:
    if values.ndim == 1:
        return pa.array(values)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])


def _to_numpy(column: pa.ChunkedArray) -> np.ndarray:
    array = column.combine_chunks()
    if pa.types.is_fixed_size_list(array.type):
        return array.flatten().to_numpy().reshape(len(array), array.type.list_size)
    return array.to_numpy()
