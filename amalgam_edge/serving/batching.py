"""Micro-batching: texts of requests that come together run together.

As many batches run at a time as there are threads, each on one of them: threads that share a batch wait for each other
at every operation. While they run, requests gather, and the next batch takes its share of what there is, some texts of
each request in turn, so that a request of a thousand texts does not hold one of a single text.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import Self

import numpy as np

from amalgam_edge.serving.limits import Limits
from amalgam_edge.uncertainty import softmax

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


class MicroBatcher:
    """Gathers texts for one model; made and used on one event loop.

    Args:
        run: texts → logits ``(n_texts, n_labels)`` and whether each was cut; called from threads, a batch at a time.
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
        self._jobs: deque[_Job] = deque()
        self._queued = 0
        self._running = 0
        self._at_once = at_once
        self._wake = asyncio.Event()
        self._closing = False
        self._seconds_a_text = 0.0
        self._threads = ThreadPoolExecutor(at_once, thread_name_prefix="model")
        self._workers = [asyncio.create_task(self._work()) for _ in range(at_once)]

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
        if self._closing:
            raise TurnedAway("the server is closing", 1)
        if self._queued and self._queued + len(texts) > self._limits.queue:
            raise TurnedAway(f"the queue is full ({self._limits.queue} texts)", self._retry_after())
        job = _Job(texts, [self._cost(text) for text in texts], asyncio.get_running_loop().create_future())
        self._jobs.append(job)
        self._queued += len(texts)
        self._wake.set()
        try:
            async with asyncio.timeout(self._limits.seconds):
                return await job.future
        except TimeoutError:
            raise TurnedAway(f"no answer within {self._limits.seconds:g} s", self._retry_after()) from None
        finally:
            self._drop(job)

    async def close(self) -> None:
        """Answer what has been taken on, take on no more, and end the threads."""
        self._closing = True
        self._wake.set()
        await asyncio.gather(*self._workers)
        self._threads.shutdown()

    def _cost(self, text: str) -> int:
        length = len(text)
        return min(self._max_length, 2 + (length // _CHARACTERS_A_TOKEN if text.isascii() else length))

    def _retry_after(self) -> int:
        return max(1, round(self._queued * self._seconds_a_text))

    def _drop(self, job: _Job) -> None:
        """Forget what of a job has not been taken; nothing is left of one that is answered."""
        self._queued -= len(job.texts) - job.taken
        job.taken = len(job.texts)

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        several = False
        while True:
            if not self._queued:
                if self._closing:
                    return
                self._wake.clear()
                await self._wake.wait()
                if several and self._limits.wait_ms and not self._closing:
                    await asyncio.sleep(self._limits.wait_ms / 1000)
                continue
            spans = self._take()
            several = len({id(job) for job, _, _ in spans}) > 1
            texts = [text for job, first, end in spans for text in job.texts[first:end]]
            self._running += len(texts)
            began = loop.time()
            try:
                answer = await loop.run_in_executor(self._threads, self._answer, texts)
            except Exception as error:  # whatever a model raises is its requests' to hear of, and no other's
                for job, _, _ in spans:
                    if not job.future.done():
                        job.future.set_exception(error)
                continue
            finally:
                self._running -= len(texts)
            self._seconds_a_text = (loop.time() - began) / len(texts) / self._at_once
            self._observe(answer)
            start = 0
            for job, first, end in spans:
                stop = start + end - first
                job.put(first, answer.part(start, stop))
                start = stop

    def _answer(self, texts: Sequence[str]) -> Answer:
        return Answer.of(*self._run(texts))

    def _take(self) -> list[tuple[_Job, int, int]]:
        """The next batch: (job, first text, end), some texts of each job in turn, up to its share and the budget."""
        spans: list[tuple[_Job, int, int]] = []
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
        return spans
