"""Texts that wait to be scored, as a cluster reads them: Parquet, a row a shard."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from amalgam_edge import files
from amalgam_edge.corpus import Corpus
from amalgam_edge.errors import AmalgamError
from amalgam_edge.files import Location
from amalgam_edge.scoring.shards import ShardStore

_MOST_SHARDS = 64  # of a file
_FILES_A_WORKER = 8  # so that no worker waits long for the last one

SHARD, TEXTS = "shard", "texts"


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
        The files, each with up to 64 rows: the shard's number and its texts.

    Raises:
        AmalgamError: the folder cannot be written to.
    """
    per_file = max(1, min(_MOST_SHARDS, len(shards) // (_FILES_A_WORKER * workers)))
    written: list[Location] = []
    try:
        files.delete_folder(folder)
        for first in range(0, len(shards), per_file):
            own = shards[first : first + per_file]
            texts = [corpus.texts[rows.start : rows.stop] for rows in map(store.rows, own)]
            table = pa.table({SHARD: pa.array(own, pa.int64()), TEXTS: pa.array(texts, pa.list_(pa.large_string()))})
            content = pa.BufferOutputStream()
            pq.write_table(table, content, compression="zstd", row_group_size=1)
            written.append(files.join(folder, f"texts-{len(written):06d}.parquet"))
            files.write(written[-1], memoryview(content.getvalue()))
    except OSError as error:
        raise AmalgamError(f"{folder}: cannot be written to ({files.reason(error)})") from error
    return written
