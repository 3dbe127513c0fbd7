"""Texts that wait to be scored, as Parquet files for the workers of a cluster: one row for each shard."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from amalgam_edge.corpus import Corpus
from amalgam_edge.errors import AmalgamError
from amalgam_edge.scoring.shards import ShardStore
from amalgam_edge.storage import files
from amalgam_edge.storage.files import Location

_MAX_TEXTS_PER_FILE = 16_384  # a worker reports progress after each file
_FILES_PER_WORKER = 8  # at least, so that no worker waits long for the last one

_SHARD, _TEXTS = "shard", "texts"


def write_pending(
    folder: Location, corpus: Corpus, store: ShardStore, shards: Sequence[int], *, workers: int
) -> list[Location]:
    """Write the texts of shards, in the order of the shards, to a folder; its old content is deleted.

    Args:
        folder: Folder of these files alone.
        corpus: The texts.
        store: A store that knows which texts a shard holds.
        shards: Numbers of the missing shards.
        workers: Number of workers that the files are distributed among.

    Returns:
        The files, each with one row for each shard: its number and its texts.

    Raises:
        AmalgamError: The folder cannot be written to.
    """
    per_file = max(1, min(_MAX_TEXTS_PER_FILE // store.shard_size, len(shards) // (_FILES_PER_WORKER * workers)))
    written: list[Location] = []
    try:
        files.delete_folder(folder)
        for first in range(0, len(shards), per_file):
            in_file = shards[first : first + per_file]
            texts = [corpus.texts[rows.start : rows.stop] for rows in map(store.rows, in_file)]
            columns = {_SHARD: pa.array(in_file, pa.int64()), _TEXTS: pa.array(texts, pa.list_(pa.large_string()))}
            table = pa.table(columns)
            content = pa.BufferOutputStream()
            pq.write_table(table, content, compression="zstd", row_group_size=1)
            written.append(files.join(folder, f"texts-{len(written):06d}.parquet"))
            files.write(written[-1], memoryview(content.getvalue()))
    except OSError as error:
        raise AmalgamError(f"{folder}: cannot be written to ({files.reason(error)})") from error
    return written


def read_pending(location: Location) -> Iterator[tuple[int, list[str]]]:
    """The shards of a file, one after another: the number and the texts of each.

    Raises:
        AmalgamError: The file cannot be read from this machine.
    """
    try:
        content = pq.ParquetFile(pa.BufferReader(files.read(location)))
    except OSError as error:
        why = f"a worker cannot read the texts ({files.reason(error)}); all nodes must see the folder of the scores"
        raise AmalgamError(f"{location}: {why}") from error
    for group in range(content.num_row_groups):
        for row in content.read_row_group(group).to_pylist():
            yield row[_SHARD], row[_TEXTS]
