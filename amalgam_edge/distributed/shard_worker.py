"""What a worker of the cluster does: score shards, and survive the texts that kill it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray

from amalgam_edge.distributed.attempts import Attempts
from amalgam_edge.distributed.pending import SHARD, TEXTS
from amalgam_edge.errors import AmalgamError, first_line
from amalgam_edge.scores import Failure, TeacherScores
from amalgam_edge.scoring.score import Opened, score_what_can_be
from amalgam_edge.scoring.store import ScoreStore

_ATTEMPTS = 2  # of a shard, before its texts are looked at one by one
_CHUNK = 32  # texts that are looked at together first


_OURS = f"{AmalgamError.__module__}.{AmalgamError.__qualname__}: "

Open = Callable[[], Opened]
Answer = tuple[TeacherScores, dict[int, str]]  # one teacher's scores, and the rows that it could not score: why
Answers = Sequence[Answer]


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
        n_failed = 0
        stores = [store for store in self._work.stores if not store.has(shard)]
        if stores:
            told = self._answers(shard, texts)
            first = stores[0].rows(shard).start
            for store, (scores, failures) in zip(self._work.stores, told, strict=True):
                if store in stores:
                    store.write(shard, scores, [Failure(text=first + row, error=why) for row, why in failures.items()])
            self._work.attempts.end(shard)
            n_failed = len({row for _, failures in told for row in failures})
        return {SHARD: shard, "n_texts": len(texts), "n_failed": n_failed, "seconds": time.monotonic() - began}

    def _answers(self, shard: int, texts: Sequence[str]) -> Answers:
        if self._work.attempts.begin(shard) < _ATTEMPTS:
            return score_what_can_be(*self._opened[:2], texts, self._opened.settings, _nobody)
        return score_apart(self._work.open, texts)


def score_apart(open_teachers: Open, texts: Sequence[str]) -> Answers:
    """Score texts in processes that may die, until it is known which texts kill them.

    Args:
        open_teachers: makes the teachers ready.
        texts: of a shard.

    Raises:
        AmalgamError: the teachers cannot be made ready, or no text can be scored.
    """
    parts: dict[int, Answers] = {}
    killers: dict[int, str] = {}
    left = [(0, len(texts), _CHUNK)]
    while left:
        first, end, size = left.pop()
        done, why = _score_chunks(open_teachers, texts[first:end], size)
        for answers in done:
            parts[first] = answers
            first += len(answers[0][0])
        if why is None:
            continue
        bad = min(first + size, end)
        if bad < end:
            left.append((bad, end, size))
        if bad - first > 1:
            left.append((first, bad, 1))
        else:
            killers[first] = why
    if not parts:
        raise AmalgamError(f"no text of a shard can be scored ({killers[0]})")
    return [_joined(own, killers, len(texts)) for own in zip(*(_placed(parts)), strict=True)]


def _placed(parts: dict[int, Answers]) -> Iterator[list[tuple[int, Answer]]]:
    """Each part's answers with where it begins, in order."""
    return ([(first, answer) for answer in parts[first]] for first in sorted(parts))


def _joined(parts: Sequence[tuple[int, Answer]], killers: dict[int, str], n_texts: int) -> Answer:
    """One teacher's answers to all texts; those that killed are blank."""
    rows = [first + row for first, (scores, _) in parts for row in range(len(scores))]
    whole = TeacherScores.concatenate([scores for _, (scores, _) in parts]).among(n_texts, np.array(rows))
    raised = {first + row: why for first, (_, failures) in parts for row, why in failures.items()}
    return whole, raised | killers


def _score_chunks(open_teachers: Open, texts: Sequence[str], size: int) -> tuple[list[Answers], str | None]:
    """The answers to chunks of texts up to the first that cannot be scored, and why that is; None where all can."""
    done: list[Answers] = []
    ready = False
    try:
        for answer in _in_a_process.remote(open_teachers, texts, size):
            answers = ray.get(answer)
            if ready:
                done.append(answers)
            ready = True
    except ray.exceptions.RayError as error:
        if not ready:
            raise AmalgamError(f"a worker cannot make the teachers ready ({cause(error)})") from error
        return done, cause(error)
    return done, None


@ray.remote(max_retries=0, num_cpus=0, num_returns="streaming")
def _in_a_process(open_teachers: Open, texts: Sequence[str], size: int) -> Iterator[Answers]:
    """First nothing, when the teachers are ready, and then the answers to one chunk of texts after another."""
    opened = open_teachers()
    yield []
    for first in range(0, len(texts), size):
        yield score_what_can_be(*opened[:2], texts[first : first + size], opened.settings, _nobody)


def cause(error: BaseException) -> str:
    """What a worker raised, in a line, below all that Ray wraps it in."""
    told = [line.removeprefix(_OURS) for line in str(error).splitlines() if line.startswith(_OURS)]
    if told:
        return told[-1]
    inner = error.cause if isinstance(error, ray.exceptions.RayTaskError) and error.cause else error.__cause__
    return cause(inner) if inner is not None else first_line(error)


def _nobody(n_texts: int) -> None:
    """Is told how far it is."""
