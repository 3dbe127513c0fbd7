"""Texts that wait to be scored, as a cluster's workers read them: Parquet, a row a shard."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from amalgam_edge.corpus import Corpus
from amalgam_edge.errors import AmalgamError
from amalgam_edge.scoring.shards import ShardStore
from amalgam_edge.storage import files
from amalgam_edge.storage.files import Location

_MOST_TEXTS = 16_384  # of a file: what a worker does between two tellings of how far it is
_FILES_A_WORKER = 8  # so that no worker waits long for the last one

_SHARD, _TEXTS = "shard", "texts"


def write_pending(
    folder: Location, corpus: Corpus, store: ShardStore, shards: Sequence[int], *, workers: int
) -> list[Location]:
    """Write the texts of shards, in the order of the shards; what an earlier run left there goes.

    Args:
        folder: of these files alone.
        corpus: whose texts they are.
        store: which texts a shard holds.
        shards: that are missing.
        workers: among which the files are dealt out.

    Returns:
        The files, each with a row a shard: its number and its texts.

    Raises:
        AmalgamError: the folder cannot be written to.
    """
    per_file = max(1, min(_MOST_TEXTS // store.shard_size, len(shards) // (_FILES_A_WORKER * workers)))
    written: list[Location] = []
    try:
        files.delete_folder(folder)
        for first in range(0, len(shards), per_file):
            own = shards[first : first + per_file]
            texts = [corpus.texts[rows.start : rows.stop] for rows in map(store.rows, own)]
            table = pa.table({_SHARD: pa.array(own, pa.int64()), _TEXTS: pa.array(texts, pa.list_(pa.large_string()))})
            content = pa.BufferOutputStream()
            pq.write_table(table, content, compression="zstd", row_group_size=1)
            written.append(files.join(folder, f"texts-{len(written):06d}.parquet"))
            files.write(written[-1], memoryview(content.getvalue()))
    except OSError as error:
        raise AmalgamError(f"{folder}: cannot be written to ({files.reason(error)})") from error
    return written


def read_pending(location: Location) -> Iterator[tuple[int, list[str]]]:
    """The shards of a file: each one's number and its texts, one after another.

    Raises:
        AmalgamError: the file is not to be read from here.
    """
    try:
        content = pq.ParquetFile(pa.BufferReader(files.read(location)))
    except OSError as error:
        why = f"a worker cannot read the texts ({files.reason(error)}); all nodes must see the folder of the scores"
        raise AmalgamError(f"{location}: {why}") from error
    for group in range(content.num_row_groups):
        for row in content.read_row_group(group).to_pylist():
            yield row[_SHARD], row[_TEXTS]
