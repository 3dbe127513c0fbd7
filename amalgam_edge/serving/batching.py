"""Micro-batching: texts of requests that come together run together.

As many batches run at a time as there are threads, each on one of them: threads that share a batch wait for each other
at every operation. While they run, requests gather, and a thread that has done takes its share of what there is, some
texts of each request in turn, so that a request of a thousand texts does not hold one of a single text. Threads take
from the queue themselves: by way of the event loop each batch would wait for what the loop is at.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from threading import Condition, Event, Lock, Thread
from typing import Self

import numpy as np

from amalgam_edge.metrics.uncertainty import softmax
from amalgam_edge.serving.limits import Limits

_TURN = 8  # texts that a batch takes of a request before it looks at the next one
_CHARACTERS_A_TOKEN = 4  # of ASCII; any other character counts as a token

Run = Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray]]


class TurnedAway(Exception):  # noqa: N818
    """There is no room for a request now.

    Attributes:
        retry_after: seconds after which there may be.
    """

    def __init__(self, reason: str, retry_after: int) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


@dataclass(frozen=True)
class Answer:
    """What a model says of texts, in their order.

    Attributes:
        logits: ``(n_texts, n_labels)`` of float32.
        probabilities: their softmax, ``(n_texts, n_labels)`` of float64.
        order: positions of the labels, likeliest first, ``(n_texts, n_labels)``.
        truncated: whether the tail of each was not read, ``(n_texts,)``.
    """

    logits: np.ndarray
    probabilities: np.ndarray
    order: np.ndarray
    truncated: np.ndarray

    def __len__(self) -> int:
        """How many texts."""
        return len(self.logits)

    @classmethod
    def of(cls, logits: np.ndarray, truncated: np.ndarray) -> Self:
        """All that follows from logits."""
        probabilities = softmax(logits.astype(np.float64))
        return cls(logits, probabilities, np.argsort(-logits, axis=1, kind="stable"), truncated)

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Answers one after another."""
        if len(parts) == 1:
            return parts[0]
        columns = ([getattr(part, field.name) for part in parts] for field in fields(cls))
        return cls(*map(np.concatenate, columns))

    def part(self, first: int, end: int) -> Self:
        """Of some texts alone."""
        rows = slice(first, end)
        return type(self)(self.logits[rows], self.probabilities[rows], self.order[rows], self.truncated[rows])


class _Job:
    """A request's texts, of which the first ``taken`` have run or are running."""

    __slots__ = ("costs", "future", "left", "parts", "taken", "texts")

    def __init__(self, texts: Sequence[str], costs: Sequence[int], future: asyncio.Future[Answer]) -> None:
        self.texts = texts
        self.costs = costs
        self.future = future
        self.taken = 0
        self.left = len(texts)
        self.parts: dict[int, Answer] = {}

    def put(self, first: int, answer: Answer) -> None:
        """Keep what was said of some texts, from ``first`` on."""
        self.parts[first] = answer
        self.left -= len(answer)
        if not self.left and not self.future.done():
            self.future.set_result(Answer.joined([self.parts[start] for start in sorted(self.parts)]))


_Span = tuple[_Job, int, int]  # of a job the texts from a first one to an end


class MicroBatcher:
    """Gathers texts for one model; made and used on one event loop, beside which it has threads.

    Args:
        run: texts → logits ``(n_texts, n_labels)`` and whether each was cut; a batch at a time, from these threads.
        max_length: tokens that the model reads of a text.
        limits: of the server.
        observe: told the answer to each batch.
        at_once: batches that run at a time, each called from a thread of its own.
    """

    def __init__(
        self,
        run: Run,
        *,
        max_length: int,
        limits: Limits,
        observe: Callable[[Answer], None] = lambda answer: None,
        at_once: int = 1,
    ) -> None:
        self._run = run
        self._max_length = max_length
        self._limits = limits
        self._observe = observe
        self._at_once = at_once
        self._loop = asyncio.get_running_loop()
        self._seconds_a_text = 0.0
        self._changed = Condition(Lock())  # held for whatever stands below, by the loop and by threads
        self._jobs: deque[_Job] = deque()
        self._queued = 0
        self._running = 0
        self._closing = Event()
        self._threads = [Thread(target=self._work, name="model", daemon=True) for _ in range(at_once)]
        for thread in self._threads:
            thread.start()

    @property
    def queued(self) -> int:
        """Texts that wait."""
        return self._queued

    async def answer(self, texts: Sequence[str]) -> Answer:
        """Run texts beside those of other requests; at least one text.

        A caller that is cancelled frees what of its place is not running yet.

        Raises:
            TurnedAway: the queue is full, the time is over, or the server is closing.
        """
        if self._closing.is_set():
            raise TurnedAway("the server is closing", 1)
        if self._queued and self._queued + len(texts) > self._limits.queue:  # threads only ever make room
            raise TurnedAway(f"the queue is full ({self._limits.queue} texts)", self._retry_after())
        job = _Job(texts, [self._cost(text) for text in texts], self._loop.create_future())
        with self._changed:
            self._jobs.append(job)
            self._queued += len(texts)
            self._changed.notify()
        try:
            async with asyncio.timeout(self._limits.seconds):
                return await job.future
        except TimeoutError:
            raise TurnedAway(f"no answer within {self._limits.seconds:g} s", self._retry_after()) from None
        finally:
            self._drop(job)

    async def close(self) -> None:
        """Answer what has been taken on, take on no more, and end the threads."""
        with self._changed:
            self._closing.set()
            self._changed.notify_all()
        for thread in self._threads:
            await asyncio.to_thread(thread.join)

    def _cost(self, text: str) -> int:
        length = len(text)
        return min(self._max_length, 2 + (length // _CHARACTERS_A_TOKEN if text.isascii() else length))

    def _retry_after(self) -> int:
        return max(1, round(self._queued * self._seconds_a_text))

    def _drop(self, job: _Job) -> None:
        """Forget what of a job has not been taken; nothing is left of one that is answered."""
        with self._changed:
            self._queued -= len(job.texts) - job.taken
            job.taken = len(job.texts)

    def _work(self) -> None:
        """What a thread does: batch after batch, until the end."""
        gather = False
        while spans := self._next(gather):
            several = len({id(job) for job, _, _ in spans}) > 1
            texts = [text for job, first, end in spans for text in job.texts[first:end]]
            began = time.monotonic()
            try:
                answer: Answer | Exception = Answer.of(*self._run(texts))
            except Exception as error:  # whatever a model raises is its requests' to hear of, and no other's
                answer = error
            seconds_a_text = (time.monotonic() - began) / len(texts) / self._at_once
            with self._changed:
                self._running -= len(texts)
                gather = several and not self._queued
            self._loop.call_soon_threadsafe(self._deliver, spans, answer, seconds_a_text)

    def _deliver(self, spans: Sequence[_Span], answer: Answer | Exception, seconds_a_text: float) -> None:
        """Give jobs what was said of their texts; on the loop."""
        if isinstance(answer, Exception):
            for job, _, _ in spans:
                if not job.future.done():
                    job.future.set_exception(answer)
            return
        self._seconds_a_text = seconds_a_text
        self._observe(answer)
        start = 0
        for job, first, end in spans:
            stop = start + end - first
            job.put(first, answer.part(start, stop))
            start = stop

    def _next(self, gather: bool) -> list[_Span]:
        """The next batch, waited for, and a moment longer for others if ``gather``; empty when all is done."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queued or self._closing.is_set())
                if not self._queued:
                    return []
            if gather:
                self._closing.wait(self._limits.wait_ms / 1000)
            with self._changed:
                if spans := self._take():
                    return spans

    def _take(self) -> list[_Span]:
        """Some texts of each job in turn, up to a thread's share and the budget; nothing if another took it all."""
        spans: list[_Span] = []
        room = self._limits.batch_tokens
        share = -(-(self._queued + self._running) // self._at_once)
        while self._jobs and room > 0 and share > 0:
            job = self._jobs.popleft()
            first = end = job.taken
            while end < min(len(job.texts), first + min(_TURN, share)) and (
                room >= job.costs[end] or not (spans or end > first)
            ):
                room -= job.costs[end]
                end += 1
            if end > first:
                spans.append((job, first, end))
                self._queued -= end - first
                share -= end - first
                job.taken = end
            elif end < len(job.texts):  # no room for its next text: it comes first the next time
                self._jobs.appendleft(job)
                break
            if end < len(job.texts):
                self._jobs.append(job)
        self._running += sum(end - first for _, first, end in spans)
        return spans
