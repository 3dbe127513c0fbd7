"""A worker of the cluster: it scores shards, and finds the texts that kill the process that scores them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import ray

from amalgam_edge.errors import AmalgamError, first_line
from amalgam_edge.scoring.isolation import IsolatedScores
from amalgam_edge.scoring.ray.attempts import Attempts
from amalgam_edge.scoring.ray.pending import read_pending
from amalgam_edge.scoring.score import ReadyTeachers, write_scores
from amalgam_edge.scoring.store import ScoreStore
from amalgam_edge.storage import files
from amalgam_edge.storage.files import Location

FILE = "file"  # the column that names the file of texts to score
_ATTEMPTS = 2  # at a shard, before its texts are scored in processes that may die
_CHUNK = 32  # texts that such a process scores together

_AMALGAM_ERROR_PREFIX = f"{AmalgamError.__module__}.{AmalgamError.__qualname__}: "

OpenTeachers = Callable[[], ReadyTeachers]


@dataclass(frozen=True)
class WorkerTask:
    """What every worker needs; it is sent to each.

    Attributes:
        open_teachers: Makes the teachers ready on the worker's machine.
        stores: The store of each teacher.
        attempts: Counts attempts at each shard, over all workers.
    """

    open_teachers: OpenTeachers
    stores: Sequence[ScoreStore]
    attempts: Attempts


class ShardWorker:
    """An actor of Ray Data, which scores files of texts.

    A shard that exists is not scored again, and a shard is written whole or not at all, so it does no harm to try one
    more than once.

    Args:
        task: What the worker needs.
    """

    def __init__(self, task: WorkerTask) -> None:
        self._task = task
        self._ready = task.open_teachers()
        self._stores = [store.for_writer(engine="ray", backend=self._ready.backend) for store in task.stores]

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[int]]:
        """Score the shards of files of texts; the column ``n_texts`` holds the number of texts in each file."""
        return {"n_texts": [self._score_file(files.locate(str(name))) for name in batch[FILE]]}

    def _score_file(self, pending: Location) -> int:
        n_texts = 0
        for shard, texts in read_pending(pending):
            self._score_shard(shard, texts)
            n_texts += len(texts)
        return n_texts

    def _score_shard(self, shard: int, texts: list[str]) -> None:
        lacking = [not store.has(shard) for store in self._stores]
        if not any(lacking):
            return
        for store, isolated, lacks in zip(self._stores, self._score(shard, texts), lacking, strict=True):
            if lacks:
                write_scores(store, shard, isolated)
        self._task.attempts.end(shard)

    def _score(self, shard: int, texts: Sequence[str]) -> Sequence[IsolatedScores]:
        if self._task.attempts.begin(shard) < _ATTEMPTS:
            return self._ready.score(texts, _ignore_progress)
        return score_without_fatal_texts(self._task.open_teachers, texts)


def score_without_fatal_texts(open_teachers: OpenTeachers, texts: Sequence[str]) -> Sequence[IsolatedScores]:
    """Score texts, some of which may kill the process that scores them.

    Those that do are left blank; the others are scored together, as if there were no others.

    Args:
        open_teachers: Makes the teachers ready.
        texts: The texts of a shard.

    Returns:
        The scores and failures of each teacher.

    Raises:
        AmalgamError: The teachers cannot be made ready, or no text can be scored.
    """
    fatal: dict[int, str] = {}
    while rows := [row for row in range(len(texts)) if row not in fatal]:
        chunks, reason = _score_chunks(open_teachers, [texts[row] for row in rows], len(rows))
        if reason is None:
            return [_with_fatal_texts(isolated, rows, fatal, len(texts)) for isolated in chunks[0]]
        found = find_fatal_texts(open_teachers, [texts[row] for row in rows])
        if not found:
            raise AmalgamError(f"the process that scores a shard dies ({reason}), but not over any of its texts alone")
        fatal |= {rows[row]: reason for row, reason in found.items()}
    raise AmalgamError(f"no text of a shard can be scored ({fatal[0]})")


def find_fatal_texts(open_teachers: OpenTeachers, texts: Sequence[str]) -> dict[int, str]:
    """The texts that kill the process that scores them, by their rows, and how it died.

    Chunks of 32 texts are scored first, and the texts of a chunk that kills its process one by one.
    """
    fatal: dict[int, str] = {}
    unchecked = [(0, len(texts), _CHUNK)]
    while unchecked:
        first, end, size = unchecked.pop()
        chunks, reason = _score_chunks(open_teachers, texts[first:end], size)
        if reason is None:
            continue
        bad = first + len(chunks) * size
        after = min(bad + size, end)
        if after < end:
            unchecked.append((after, end, size))
        if after - bad > 1:
            unchecked.append((bad, after, 1))
        else:
            fatal[bad] = reason
    return fatal


def _with_fatal_texts(
    isolated: IsolatedScores, rows: Sequence[int], fatal: dict[int, str], n_texts: int
) -> IsolatedScores:
    """One teacher's scores of all texts of a shard, of which those at ``rows`` were scored; the others are blank."""
    failures = {rows[row]: reason for row, reason in isolated.failures.items()}
    return IsolatedScores(isolated.scores.scatter(n_texts, np.array(rows)), failures | fatal)


def _score_chunks(
    open_teachers: OpenTeachers, texts: Sequence[str], size: int
) -> tuple[list[Sequence[IsolatedScores]], str | None]:
    """Score chunks of texts in a process of their own, which may die.

    Returns:
        The scores of the chunks before the first that cannot be scored, and why that one cannot; None where all can.
    """
    in_a_process = ray.remote(max_retries=0, num_cpus=0, num_returns="streaming")(_stream_chunks)
    chunks: list[Sequence[IsolatedScores]] = []
    ready = False
    try:
        for reference in in_a_process.remote(open_teachers, texts, size):
            scored = ray.get(reference)
            if ready:
                chunks.append(scored)
            ready = True
    except ray.exceptions.RayError as error:
        if not ready:
            raise AmalgamError(f"a worker cannot make the teachers ready ({cause(error)})") from error
        return chunks, cause(error)
    return chunks, None


def _stream_chunks(open_teachers: OpenTeachers, texts: Sequence[str], size: int) -> Iterator[Sequence[IsolatedScores]]:
    """An empty list as soon as the teachers are ready, and then the scores of one chunk of texts after another."""
    ready = open_teachers()
    yield []
    for first in range(0, len(texts), size):
        yield ready.score(texts[first : first + size], _ignore_progress)


def cause(error: BaseException) -> str:
    """What a worker raised, in one line, without the errors that Ray wraps around it."""
    own_errors = [line for line in str(error).splitlines() if line.startswith(_AMALGAM_ERROR_PREFIX)]
    if own_errors:
        return own_errors[-1].removeprefix(_AMALGAM_ERROR_PREFIX)
    inner = error.cause if isinstance(error, ray.exceptions.RayTaskError) and error.cause else error.__cause__
    return cause(inner) if inner is not None else first_line(error)


def _ignore_progress(n_texts: int) -> None:
    """Workers report progress by finished files, not by texts."""
