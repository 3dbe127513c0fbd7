"""What a worker of the cluster does: score shards, and survive the texts that kill it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import ray

from amalgam_edge.distributed.attempts import Attempts
from amalgam_edge.distributed.pending import SHARD, TEXTS
from amalgam_edge.errors import AmalgamError, first_line
from amalgam_edge.scores import TeacherScores
from amalgam_edge.scoring.score import Opened, score_texts
from amalgam_edge.scoring.store import ScoreStore

_ATTEMPTS = 2  # of a shard, before its texts are looked at one by one
_CHUNK = 32  # texts that are looked at together first


Open = Callable[[], Opened]


@dataclass(frozen=True)
class Work:
    """What every worker must know; it is sent to each.

    Attributes:
        open: makes the teachers ready, where the worker is.
        stores: each teacher's.
        attempts: at the shards.
    """

    open: Open
    stores: Sequence[ScoreStore]
    attempts: Attempts


class Failure(NamedTuple):
    """A text that could not be scored: its place in the shard, and why."""

    row: int
    why: str


class ShardWorker:
    """An actor of Ray Data.

    A shard that is there already is not scored again, and one is written whole or not at all, so that it does not
    matter how often a shard is tried.

    Args:
        work: see :class:`Work`.
    """

    def __init__(self, work: Work) -> None:
        self._work = work
        self._opened = work.open()

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        """Score the shards of a batch.

        Returns:
            Columns: shard, n_texts, n_failed, seconds, node.
        """
        rows = [self._score(int(shard), [*texts]) for shard, texts in zip(batch[SHARD], batch[TEXTS], strict=True)]
        node = ray.get_runtime_context().get_node_id()
        return {name: [row[name] for row in rows] for name in rows[0]} | {"node": [node] * len(rows)}

    def _score(self, shard: int, texts: list[str]) -> dict[str, Any]:
        began = time.monotonic()
        failures: list[Failure] = []
        if not all(store.has(shard) for store in self._work.stores):
            if self._work.attempts.begin(shard) < _ATTEMPTS:
                scored = self._score_together(texts)
            else:
                scored, failures = score_apart(self._work.open, texts)
            for store, scores in zip(self._work.stores, scored, strict=True):
                first = store.rows(shard).start
                store.write(shard, scores, [(first + row, why) for row, why in failures])
            self._work.attempts.end(shard)
        seconds = time.monotonic() - began
        return {SHARD: shard, "n_texts": len(texts), "n_failed": len(failures), "seconds": seconds}

    def _score_together(self, texts: Sequence[str]) -> list[TeacherScores]:
        return score_texts(*self._opened[:2], texts, self._opened.settings, lambda count: None)


def score_apart(open_teachers: Open, texts: Sequence[str]) -> tuple[list[TeacherScores], list[Failure]]:
    """Score texts in processes that may die, until it is known which texts kill them.

    Args:
        open_teachers: makes the teachers ready.
        texts: of a shard.

    Returns:
        Each teacher's scores, where a text that could not be scored has 0 passes and no number; and these texts.

    Raises:
        AmalgamError: the teachers cannot be made ready.
    """
    parts: dict[int, list[TeacherScores]] = {}
    failures = []
    left = [(0, len(texts), _CHUNK)]
    while left:
        first, end, size = left.pop()
        done, why = _score_chunks(open_teachers, texts[first:end], size)
        for scores in done:
            parts[first] = scores
            first += len(scores[0])
        if why is None:
            continue
        bad = min(first + size, end)
        if bad < end:
            left.append((bad, end, size))
        if bad - first > 1:
            left.append((first, bad, 1))
        else:
            failures.append(Failure(first, why))
    if not parts:
        raise AmalgamError(f"no text of a shard can be scored ({failures[0].why})")
    known = next(iter(parts.values()))
    for failure in failures:
        parts[failure.row] = [scores.unknown(1) for scores in known]
    columns = zip(*(parts[first] for first in sorted(parts)), strict=True)
    return [TeacherScores.concatenate(column) for column in columns], failures


def _score_chunks(open_teachers: Open, texts: Sequence[str], size: int) -> tuple[list[list[TeacherScores]], str | None]:
    """The scores of chunks of texts up to the first that cannot be scored, and why that is; None where all can."""
    answers = _in_a_process.remote(open_teachers, texts, size)
    done: list[list[TeacherScores]] = []
    ready = False
    try:
        for answer in answers:
            scores = ray.get(answer)
            if ready:
                done.append(scores)
            ready = True
    except ray.exceptions.RayError as error:
        why = first_line(error.cause if isinstance(error, ray.exceptions.RayTaskError) else error)
        if not ready:
            raise AmalgamError(f"a worker cannot make the teachers ready ({why})") from error
        return done, why
    return done, None


@ray.remote(max_retries=0, num_cpus=0, num_returns="streaming")
def _in_a_process(open_teachers: Open, texts: Sequence[str], size: int) -> Iterator[list[TeacherScores]]:
    """First nothing, when the teachers are ready, and then the scores of one chunk of texts after another."""
    opened = open_teachers()
    yield []
    for first in range(0, len(texts), size):
        yield score_texts(*opened[:2], texts[first : first + size], opened.settings, lambda count: None)
