"""Micro-batching: texts of requests that come together run together.

One batch runs at a time, with all of the model's threads. While it runs, requests gather, and the next batch takes some
texts of each in turn, so that a request of a thousand texts does not hold one of a single text.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

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
    """What a model says of a request's texts, in their order.

    Attributes:
        logits: ``(n_texts, n_labels)`` of float32.
        truncated: whether the tail of each was not read, ``(n_texts,)``.
    """

    logits: np.ndarray
    truncated: np.ndarray


class _Job:
    """A request's texts, of which the first ``taken`` have run or are running."""

    __slots__ = ("costs", "future", "left", "logits", "taken", "texts", "truncated")

    def __init__(self, texts: Sequence[str], costs: Sequence[int], future: asyncio.Future[Answer]) -> None:
        self.texts = texts
        self.costs = costs
        self.future = future
        self.taken = 0
        self.left = len(texts)
        self.logits: np.ndarray | None = None
        self.truncated = np.zeros(len(texts), dtype=bool)

    def put(self, first: int, logits: np.ndarray, truncated: np.ndarray) -> None:
        """Keep what was said of some texts, from ``first`` on."""
        if self.logits is None:
            self.logits = np.empty((len(self.texts), logits.shape[1]), dtype=logits.dtype)
        self.logits[first : first + len(logits)] = logits
        self.truncated[first : first + len(logits)] = truncated
        self.left -= len(logits)
        if not self.left and not self.future.done():
            self.future.set_result(Answer(self.logits, self.truncated))


class MicroBatcher:
    """Gathers texts for one model; made and used on one event loop.

    Args:
        run: texts → logits ``(n_texts, n_labels)`` and whether each was cut; called from a thread, a batch at a time.
        max_length: tokens that the model reads of a text.
        limits: of the server.
        observe: told the number of texts of each batch.
    """

    def __init__(
        self, run: Run, *, max_length: int, limits: Limits, observe: Callable[[int], None] = lambda n: None
    ) -> None:
        self._run = run
        self._max_length = max_length
        self._limits = limits
        self._observe = observe
        self._jobs: deque[_Job] = deque()
        self._queued = 0
        self._wake = asyncio.Event()
        self._closing = False
        self._seconds_a_text = 0.0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._task = asyncio.create_task(self._work())

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
        """Answer what has been taken on, take on no more, and end the thread."""
        self._closing = True
        self._wake.set()
        await self._task
        self._thread.shutdown()

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
            began = loop.time()
            try:
                logits, truncated = await loop.run_in_executor(self._thread, self._run, texts)
            except Exception as error:  # whatever a model raises is its requests' to hear of, and no other's
                for job, _, _ in spans:
                    if not job.future.done():
                        job.future.set_exception(error)
                continue
            self._seconds_a_text = (loop.time() - began) / len(texts)
            self._observe(len(texts))
            start = 0
            for job, first, end in spans:
                stop = start + end - first
                job.put(first, logits[start:stop], truncated[start:stop])
                start = stop

    def _take(self) -> list[tuple[_Job, int, int]]:
        """The next batch: (job, first text, end), some texts of each job in turn, up to the budget."""
        spans: list[tuple[_Job, int, int]] = []
        room = self._limits.batch_tokens
        while self._jobs and room > 0:
            job = self._jobs.popleft()
            first = end = job.taken
            while end < min(len(job.texts), first + _TURN) and (room >= job.costs[end] or not (spans or end > first)):
                room -= job.costs[end]
                end += 1
            if end > first:
                spans.append((job, first, end))
                self._queued -= end - first
                job.taken = end
            elif end < len(job.texts):  # no room for its next text: it comes first the next time
                self._jobs.appendleft(job)
                break
            if end < len(job.texts):
                self._jobs.append(job)
        return spans
