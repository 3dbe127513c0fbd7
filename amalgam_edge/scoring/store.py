"""Scores of a teacher as Parquet: shards that say who wrote them, and which texts could not be scored."""

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
from amalgam_edge.scoring.scores import ARRAYS, Failure, TeacherScores
from amalgam_edge.scoring.scores_manifest import MANIFEST, ScoreKey
from amalgam_edge.scoring.shards import ShardStore
from amalgam_edge.storage import files
from amalgam_edge.storage.files import Location
from amalgam_edge.storage.records import to_json

__all__ = ["FAILURES", "MANIFEST", "ScoreKey", "ScoreStore", "Shard"]

FAILURES = "failures"
LINEAGE = b"amalgam-edge"  # the entry of a Parquet file's metadata


@dataclass(frozen=True)
class Shard:
    """What one file of scores holds.

    Attributes:
        scores: of its texts, in the corpus' order.
        lineage: ``version`` of amalgam-edge, ``key`` and ``key_fingerprint``, ``engine`` and ``backend`` where known,
            when it was ``written`` (UTC), and the ``digest`` of its rows; empty where an older version wrote it.
    """

    scores: TeacherScores
    lineage: dict[str, Any]


class ScoreStore(ShardStore):
    """The scores of one teacher over one corpus, as Parquet.

    A text that could not be scored has 0 passes and NaN in each array; why stands in ``failures/shard-NNNNNN.json``.
    """

    suffix = "parquet"
    what = "scores"
    remedy = "score again"

    def write(self, shard: int, scores: TeacherScores, failures: Sequence[Failure] = ()) -> None:
        """Add a shard.

        Args:
            shard: its number.
            scores: of all its texts, in the corpus' order; rows of failed texts are blank, see
                :meth:`TeacherScores.among`.
            failures: texts that could not be scored, by their row in the corpus, and why.

        Raises:
            AmalgamError: there is no room, or no right, to write it.
            ValueError: the failures are not the blank rows, or there are more or fewer rows than texts.
        """
        rows = self.rows(shard)
        blank = (np.flatnonzero(scores.passes == 0) + rows.start).tolist()
        if len(scores) != len(rows) or sorted(failure["text"] for failure in failures) != blank:
            raise ValueError(f"shard {shard}: {len(scores)} rows, blank ones {blank}, do not fit {failures}")
        why = self.failures_path(shard)
        with self._writing():  # before the shard, so that whatever is there was told of
            if failures:
                told = sorted(failures, key=lambda failure: failure["text"])
                files.write(why, json.dumps(told, indent=2, ensure_ascii=False).encode())
            else:
                files.delete(why)
        columns: dict[str, pa.Array] = {"text": pa.array(rows, pa.int64())}
        for name in ARRAYS:
            columns[name] = _to_arrow(getattr(scores, name))
        table = pa.table(columns, metadata={LINEAGE: json.dumps(self._lineage(scores)).encode()})
        content = pa.BufferOutputStream()
        pq.write_table(table, content, compression="zstd", write_page_checksum=True)
        self._put(shard, content.getvalue())

    def copy_shard(self, shard: int, source: ScoreStore) -> None:
        """Take over a shard of another store of the same key, to the byte, with what is told of its failures.

        Raises:
            AmalgamError: it cannot be read there, or written here.
        """
        try:
            content = files.read(source.path(shard))
            failures = files.read(source.failures_path(shard)) if source.failures_of(shard) else b""
        except OSError as error:
            raise source._damaged(shard) from error
        with self._writing():
            if failures:
                files.write(self.failures_path(shard), failures)
        self._put(shard, content)

    def failures(self) -> list[Failure]:
        """The texts that could not be scored, in the corpus' order, and why: of the shards that are there.

        Raises:
            AmalgamError: an account of failures is damaged.
        """
        told = set(files.names(files.join(self.folder, FAILURES)))
        there = [shard for shard in self.there() if _failures_name(shard) in told]
        return [failure for shard in there for failure in self.failures_of(shard)]

    def failures_of(self, shard: int) -> list[Failure]:
        """The texts of a shard that could not be scored, and why.

        Raises:
            AmalgamError: the account of them is damaged.
        """
        try:
            told = json.loads(files.read(self.failures_path(shard)).decode("utf-8"))
            return [Failure(text=int(failure["text"]), error=str(failure["error"])) for failure in told]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise self._damaged(shard) from error

    def failures_path(self, shard: int) -> Location:
        """Where it is told which texts of a shard could not be scored."""
        return files.join(self.folder, FAILURES, _failures_name(shard))

    def read(self) -> TeacherScores:
        """All scores, in the corpus' order; failed texts are blank.

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
        return (self.read_shard(shard).scores for shard in range(self.n_shards))

    def read_shard(self, shard: int) -> Shard:
        """One shard, with who wrote it.

        Raises:
            AmalgamError: it is not there, not whole, of another key, or its rows are not those that were written.
        """
        try:
            source = pa.BufferReader(files.read(self.path(shard)))
            table = pq.read_table(source, page_checksum_verification=True)
            whole = np.array_equal(_to_numpy(table["text"]), self.rows(shard))
            scores = TeacherScores(self.key.teacher, **{name: _to_numpy(table[name]) for name in ARRAYS})
            lineage = json.loads((table.schema.metadata or {}).get(LINEAGE, b"{}"))
            whole = whole and lineage.get("key_fingerprint", self.key.fingerprint) == self.key.fingerprint
            whole = whole and lineage.get("digest", "") in ("", scores.digest())
        except (OSError, ValueError, KeyError, AttributeError, pa.ArrowException) as error:
            raise self._damaged(shard) from error
        if not whole:
            raise self._damaged(shard)
        return Shard(scores, lineage)

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
        """Look at a shard's end, which a truncated file lacks."""
        try:
            n_rows = pq.read_metadata(Path(self.path(shard))).num_rows
        except (OSError, ValueError, pa.ArrowException) as error:
            raise self._damaged(shard) from error
        if n_rows != len(self.rows(shard)):
            raise self._damaged(shard)


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
