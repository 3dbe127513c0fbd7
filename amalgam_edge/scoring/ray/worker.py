"""What a worker of the cluster does: score shards, and survive the texts that kill it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import ray

from amalgam_edge.errors import AmalgamError, first_line
from amalgam_edge.scoring.ray.attempts import Attempts
from amalgam_edge.scoring.ray.pending import read_pending
from amalgam_edge.scoring.score import Answer, Opened, score_what_can_be, write_answer
from amalgam_edge.scoring.store import ScoreStore
from amalgam_edge.storage import files
from amalgam_edge.storage.files import Location

FILE = "file"  # the column of what a worker is given
_ATTEMPTS = 2  # of a shard, before its texts are looked at one by one
_CHUNK = 32  # texts that are looked at together first

_OURS = f"{AmalgamError.__module__}.{AmalgamError.__qualname__}: "

Open = Callable[[], Opened]
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
        self._stores = [store.by(engine="ray", backend=self._opened.backend) for store in work.stores]

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[int]]:
        """Score the shards of files that wait; the column ``n_texts`` says how many texts each file has."""
        return {"n_texts": [self._score_file(files.locate(str(name))) for name in batch[FILE]]}

    def _score_file(self, pending: Location) -> int:
        n_texts = 0
        for shard, texts in read_pending(pending):
            self._score(shard, texts)
            n_texts += len(texts)
        return n_texts

    def _score(self, shard: int, texts: list[str]) -> None:
        lacking = [not store.has(shard) for store in self._stores]
        if not any(lacking):
            return
        for store, answer, lacks in zip(self._stores, self._answers(shard, texts), lacking, strict=True):
            if lacks:
                write_answer(store, shard, answer)
        self._work.attempts.end(shard)

    def _answers(self, shard: int, texts: Sequence[str]) -> Answers:
        if self._work.attempts.begin(shard) < _ATTEMPTS:
            return score_what_can_be(*self._opened[:2], texts, self._opened.settings, _nobody)
        return score_apart(self._work.open, texts)


def score_apart(open_teachers: Open, texts: Sequence[str]) -> Answers:
    """Score texts in processes that may die: all but those that kill theirs together, as if there were no others.

    Args:
        open_teachers: makes the teachers ready.
        texts: of a shard.

    Raises:
        AmalgamError: the teachers cannot be made ready, or no text can be scored.
    """
    killers: dict[int, str] = {}
    while good := [row for row in range(len(texts)) if row not in killers]:
        done, why = _score_chunks(open_teachers, [texts[row] for row in good], len(good))
        if why is None:
            return [_spread(answer, good, killers, len(texts)) for answer in done[0]]
        found = find_killers(open_teachers, [texts[row] for row in good])
        if not found:
            raise AmalgamError(f"who scores a shard dies ({why}), and of none of its texts alone")
        killers |= {good[row]: why for row, why in found.items()}
    raise AmalgamError(f"no text of a shard can be scored ({killers[0]})")


def find_killers(open_teachers: Open, texts: Sequence[str]) -> dict[int, str]:
    """The texts that kill whoever scores them, and how: 32 of them at a time, and then one by one."""
    killers: dict[int, str] = {}
    left = [(0, len(texts), _CHUNK)]
    while left:
        first, end, size = left.pop()
        done, why = _score_chunks(open_teachers, texts[first:end], size)
        if why is None:
            continue
        bad = first + len(done) * size
        after = min(bad + size, end)
        if after < end:
            left.append((after, end, size))
        if after - bad > 1:
            left.append((bad, after, 1))
        else:
            killers[bad] = why
    return killers


def _spread(answer: Answer, good: Sequence[int], killers: dict[int, str], n_texts: int) -> Answer:
    """One teacher's answer to all texts, of which it was told the good ones; the others are blank."""
    scores, failures = answer
    return scores.among(n_texts, np.array(good)), {good[row]: why for row, why in failures.items()} | killers


def _score_chunks(open_teachers: Open, texts: Sequence[str], size: int) -> tuple[list[Answers], str | None]:
    """The answers to chunks of texts up to the first that cannot be scored, and why that is; None where all can."""
    in_a_process = ray.remote(max_retries=0, num_cpus=0, num_returns="streaming")(_answer_chunks)
    done: list[Answers] = []
    ready = False
    try:
        for answer in in_a_process.remote(open_teachers, texts, size):
            answers = ray.get(answer)
            if ready:
                done.append(answers)
            ready = True
    except ray.exceptions.RayError as error:
        if not ready:
            raise AmalgamError(f"a worker cannot make the teachers ready ({cause(error)})") from error
        return done, cause(error)
    return done, None


def _answer_chunks(open_teachers: Open, texts: Sequence[str], size: int) -> Iterator[Answers]:
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
