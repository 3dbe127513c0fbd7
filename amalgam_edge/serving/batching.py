"""Micro-batching: texts of requests that arrive together run together.

A model runs as many batches at a time as it has threads, one batch per thread: threads that share a batch wait for each
other at every operation. While all threads are busy, requests gather. A thread that becomes free takes its share of the
waiting texts, a few of each request in turn, so that a request of a thousand texts does not hold up one of a single
text. Threads take texts from the queue themselves: through the event loop, each batch would wait for whatever the loop
is doing.

A text may make a tokenizer or a model raise anything, a panic of Rust among them, which is no ``Exception``. Then the
requests of the batch are run one by one: a request fails over its own texts only, and the work is at most doubled.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from threading import Condition, Event, Lock, Thread, current_thread
from typing import Self

import numpy as np

from amalgam_edge.heads import Heads
from amalgam_edge.metrics.uncertainty import softmax
from amalgam_edge.serving.limits import Limits

_TEXTS_PER_TURN = 8  # texts that a batch takes from one request before it looks at the next
_CHARACTERS_PER_TOKEN = 4  # in ASCII text; any other character counts as a token of its own
_SPECIAL_TOKENS = 2
_BYTES_PER_QUEUED_TEXT = 4096  # of the memory that waiting texts may take, for each text that may wait
_STUCK_SECONDS = 30.0  # a batch that has run longer is taken for one that never ends

_log = logging.getLogger(__name__)

RunModel = Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray]]


class UnavailableError(Exception):
    """The server cannot answer a request now.

    Attributes:
        retry_after: Seconds after which the client may try again.
    """

    def __init__(self, reason: str, retry_after: int) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class ModelFailedError(Exception):
    """The tokenizer or the model has failed over a request's texts; the cause is what it raised."""


@dataclass(frozen=True)
class ModelOutput:
    """A model's output for several texts, in the order of the texts.

    Attributes:
        logits: ``(n_texts, n_labels)`` of float32.
        probabilities: Softmax or sigmoid of the logits of each head, ``(n_texts, n_labels)`` of float64.
        ranking: Positions of the labels within their head, the likeliest first, ``(n_texts, n_labels)``.
        truncated: Whether a text was cut to the model's input, ``(n_texts,)`` of bool.
    """

    logits: np.ndarray
    probabilities: np.ndarray
    ranking: np.ndarray
    truncated: np.ndarray

    def __len__(self) -> int:
        """The number of texts."""
        return len(self.logits)

    @classmethod
    def from_logits(cls, logits: np.ndarray, truncated: np.ndarray, heads: Heads | None = None) -> Self:
        """The output with these logits.

        Args:
            logits: ``(n_texts, n_labels)`` of float32.
            truncated: Whether a text was cut to the model's input, ``(n_texts,)`` of bool.
            heads: The heads that the model answers; None for one softmax head.
        """
        if heads is None or heads.is_one_softmax:  # nothing to split, which a request of one text would notice
            return cls(logits, softmax(logits.astype(np.float64)), _ranking(logits), truncated)
        ranking = np.concatenate([_ranking(part) for part in heads.split(logits)], axis=1)
        return cls(logits, heads.probabilities(logits), ranking, truncated)

    @classmethod
    def concatenate(cls, outputs: Sequence[Self]) -> Self:
        """Several outputs, one after another."""
        if len(outputs) == 1:
            return outputs[0]
        columns = ([getattr(output, field.name) for output in outputs] for field in fields(cls))
        return cls(*map(np.concatenate, columns))

    def texts(self, first: int, end: int) -> Self:
        """The output for the texts from ``first`` up to but not including ``end``."""
        rows = slice(first, end)
        return type(self)(self.logits[rows], self.probabilities[rows], self.ranking[rows], self.truncated[rows])

    def labels(self, columns: slice) -> Self:
        """The output for some labels, such as those of one head."""
        logits, probabilities, ranking = self.logits, self.probabilities, self.ranking
        return type(self)(logits[:, columns], probabilities[:, columns], ranking[:, columns], self.truncated)


def _ranking(logits: np.ndarray) -> np.ndarray:
    return np.argsort(-logits, axis=1, kind="stable")


class _PendingRequest:
    """A request's texts; the first ``n_taken`` of them have run or are running.

    Args:
        texts: The texts of the request.
        token_counts: Estimated tokens of each text.
        future: Gets the output for all texts.
    """

    __slots__ = ("future", "n_taken", "n_unanswered", "outputs", "texts", "token_counts")

    def __init__(self, texts: Sequence[str], token_counts: Sequence[int], future: asyncio.Future[ModelOutput]) -> None:
        self.texts = texts
        self.token_counts = token_counts
        self.future = future
        self.n_taken = 0
        self.n_unanswered = len(texts)
        self.outputs: dict[int, ModelOutput] = {}  # position of the first text → output

    def add_output(self, first: int, output: ModelOutput) -> None:
        """Add the output for the texts from ``first`` on; the last one to come completes the request."""
        self.outputs[first] = output
        self.n_unanswered -= len(output)
        if not self.n_unanswered and not self.future.done():
            in_order = [self.outputs[start] for start in sorted(self.outputs)]
            self.future.set_result(ModelOutput.concatenate(in_order))


_BatchPart = tuple[_PendingRequest, int, int]  # a request, its first text in the batch, and the one after its last


class MicroBatcher:
    """Batches the texts of concurrent requests to one model. Create and call it on one event loop; it starts threads.

    Args:
        run_model: Texts → logits ``(n_texts, n_labels)`` and whether each text was cut ``(n_texts,)``. Called from
            several threads at a time.
        max_length: Tokens that the model reads of a text.
        limits: Limits of the server.
        heads: The heads that the model answers; None for one softmax head.
        on_batch: Called with the output of each batch, on the event loop.
        on_failure: Called with the number of texts of each request that the model has failed over, on the event loop.
        n_threads: Batches that run at a time, each in a thread of its own.
    """

    def __init__(
        self,
        run_model: RunModel,
        *,
        max_length: int,
        limits: Limits,
        heads: Heads | None = None,
        on_batch: Callable[[ModelOutput], None] = lambda output: None,
        on_failure: Callable[[int], None] = lambda n_texts: None,
        n_threads: int = 1,
    ) -> None:
        self._run_model = run_model
        self._max_length = max_length
        self._limits = limits
        self._heads = heads
        self._on_batch = on_batch
        self._on_failure = on_failure
        self._n_threads = n_threads
        self._loop = asyncio.get_running_loop()
        self._seconds_per_text = 0.0
        self._changed = Condition(Lock())  # guards the attributes below, which the loop and the threads change
        self._requests: deque[_PendingRequest] = deque()
        self._n_queued = 0
        self._n_running = 0
        self._n_bytes = 0  # of the texts of requests that wait or run
        self._started: dict[Thread, float] = {}  # thread → when it began with the batch that it is running
        self._ended: str | None = None  # what has ended a thread that should go on
        self._logged: set[tuple[str, int | None]] = set()  # failures that the log tells of, by place
        self._closing = Event()
        self._threads = [Thread(target=self._run_thread, name="model", daemon=True) for _ in range(n_threads)]
        try:
            for thread in self._threads:
                thread.start()
        except BaseException:  # there are too many threads, say: those that have started would wait for ever
            self._end_threads()
            raise

    @property
    def n_queued(self) -> int:
        """The number of texts that wait."""
        return self._n_queued

    @property
    def fault(self) -> str | None:
        """Why the model can no longer answer as it should; None if it can."""
        if self._ended is not None:
            return f"a model thread has ended ({self._ended})"
        longest = time.monotonic() - min(self._started.copy().values(), default=time.monotonic())
        limit = max(_STUCK_SECONDS, 3 * self._limits.seconds)
        return f"a batch has been running for {longest:.0f} s" if longest > limit else None

    async def run(self, texts: Sequence[str]) -> ModelOutput:
        """The model's output for at least one text, run together with those of other requests.

        If the caller is cancelled, texts that still wait leave the queue.

        Raises:
            ModelFailedError: The tokenizer or the model fails over these texts.
            UnavailableError: The queue is full, the time is over, or the server is closing.
        """
        if self._closing.is_set():
            raise UnavailableError("the server is closing", 1)
        if self._n_queued and self._n_queued + len(texts) > self._limits.queue:  # threads only ever make room
            raise UnavailableError(f"the queue is full ({self._limits.queue} texts)", self._retry_after())
        n_bytes = sum(map(sys.getsizeof, texts))
        most_bytes = _BYTES_PER_QUEUED_TEXT * self._limits.queue
        if self._n_bytes and self._n_bytes + n_bytes > most_bytes:
            raise UnavailableError(f"the queue is full ({most_bytes / 1e6:.1f} MB of texts)", self._retry_after())
        token_counts = [self._estimate_tokens(text) for text in texts]
        request = _PendingRequest(texts, token_counts, self._loop.create_future())
        self._n_bytes += n_bytes
        with self._changed:
            self._requests.append(request)
            self._n_queued += len(texts)
            self._changed.notify()
        try:
            async with asyncio.timeout(self._limits.seconds):
                return await request.future
        except TimeoutError:
            raise UnavailableError(f"no answer within {self._limits.seconds:g} s", self._retry_after()) from None
        finally:
            self._n_bytes -= n_bytes
            self._drop(request)

    async def close(self) -> None:
        """Refuse further requests, answer those that wait, and end the threads, except one that never comes back."""
        self._end_threads()
        end = time.monotonic() + self._limits.seconds + 1  # by then, every request has been answered
        for thread in self._threads:
            await asyncio.to_thread(thread.join, max(0.0, end - time.monotonic()))

    def _end_threads(self) -> None:
        """Let the threads end once nothing waits."""
        with self._changed:
            self._closing.set()
            self._changed.notify_all()

    def _estimate_tokens(self, text: str) -> int:
        length = len(text)
        n_tokens = length // _CHARACTERS_PER_TOKEN if text.isascii() else length
        return min(self._max_length, _SPECIAL_TOKENS + n_tokens)

    def _retry_after(self) -> int:
        return max(1, round(self._n_queued * self._seconds_per_text))

    def _drop(self, request: _PendingRequest) -> None:
        """Take a request's waiting texts off the queue; a request that was answered has none."""
        with self._changed:
            n_waiting = len(request.texts) - request.n_taken
            if n_waiting:
                self._n_queued -= n_waiting
                self._requests.remove(request)
                request.n_taken = len(request.texts)

    def _run_thread(self) -> None:
        """Run batch after batch until the batcher closes; the body of each thread."""
        try:
            self._run_batches()
        except BaseException as error:
            self._ended = type(error).__name__
            _log.exception("a model thread has ended")

    def _run_batches(self) -> None:
        wait_for_more = False
        while batch := self._wait_for_batch(wait_for_more):
            several_requests = len({id(request) for request, _, _ in batch}) > 1
            n_texts = sum(end - first for _, first, end in batch)
            started = self._started[current_thread()] = time.monotonic()
            outputs = self._run_parts(batch)
            seconds_per_text = (time.monotonic() - started) / n_texts / self._n_threads
            del self._started[current_thread()]
            with self._changed:
                self._n_running -= n_texts
                wait_for_more = several_requests and not self._n_queued
            self._loop.call_soon_threadsafe(self._deliver, batch, outputs, seconds_per_text)

    def _run_parts(self, batch: Sequence[_BatchPart]) -> list[ModelOutput | ModelFailedError]:
        """The output for each part of a batch: all run together or, should that fail, each by itself."""
        texts = [text for request, first, end in batch for text in request.texts[first:end]]
        try:
            output = ModelOutput.from_logits(*self._run_model(texts), self._heads)
            if len(output) != len(texts):
                raise ValueError(f"{len(output)} rows of logits for {len(texts)} texts")
        except BaseException as error:  # nothing ends this thread; a panic of the tokenizer is no Exception
            if len(batch) > 1:
                return [output for part in batch for output in self._run_parts([part])]
            self._log_failure(error)
            failure = ModelFailedError("the model has failed over these texts")
            failure.__cause__ = error
            return [failure]
        ends = np.cumsum([end - first for _, first, end in batch]).tolist()
        return [output.texts(first, end) for first, end in zip([0, *ends], ends, strict=False)]

    def _log_failure(self, error: BaseException) -> None:
        """Log what a model raised, once for each place; without its message, which may quote a text."""
        frames = traceback.extract_tb(error.__traceback__)
        place = type(error).__name__, frames[-1].lineno if frames else None
        if place not in self._logged:
            self._logged.add(place)
            trace = "".join(traceback.format_list(frames))
            _log.error("a request fails: its texts make the model raise %s\n%s", type(error).__name__, trace)

    def _deliver(
        self, batch: Sequence[_BatchPart], outputs: Sequence[ModelOutput | ModelFailedError], seconds_per_text: float
    ) -> None:
        """Hand the output of a batch, or the error, to each request; runs on the event loop."""
        answered = []
        for (request, first, end), output in zip(batch, outputs, strict=True):
            if isinstance(output, ModelOutput):
                request.add_output(first, output)
                answered.append(output)
                continue
            if not request.future.done():
                request.future.set_exception(output)
            self._on_failure(end - first)
        if answered:
            self._seconds_per_text = seconds_per_text
            self._on_batch(ModelOutput.concatenate(answered))

    def _wait_for_batch(self, wait_for_more: bool) -> list[_BatchPart]:
        """The next batch; empty once the batcher closes and nothing waits.

        Args:
            wait_for_more: Whether to wait up to ``wait_ms`` longer for other requests.
        """
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._n_queued or self._closing.is_set())
                if not self._n_queued:
                    return []
            if wait_for_more:
                self._closing.wait(self._limits.wait_ms / 1000)
            with self._changed:
                if batch := self._take_batch():  # another thread may have taken all texts
                    if self._n_queued:  # a new request wakes one thread only; the others share what it leaves
                        self._changed.notify()
                    return batch

    def _take_batch(self) -> list[_BatchPart]:
        """Some texts of each request in turn, up to a thread's share of all texts and to the token limit."""
        batch: list[_BatchPart] = []
        n_tokens_left = self._limits.batch_tokens
        n_texts_left = -(-(self._n_queued + self._n_running) // self._n_threads)
        while self._requests and n_texts_left > 0:
            request = self._requests.popleft()
            first = end = request.n_taken
            while end < min(len(request.texts), first + min(_TEXTS_PER_TURN, n_texts_left)) and (
                n_tokens_left >= request.token_counts[end] or not (batch or end > first)
            ):
                n_tokens_left -= request.token_counts[end]
                end += 1
            if end > first:
                batch.append((request, first, end))
                self._n_queued -= end - first
                n_texts_left -= end - first
                request.n_taken = end
            elif end < len(request.texts):  # its next text does not fit: it comes first in the next batch
                self._requests.appendleft(request)
                break
            if end < len(request.texts):
                self._requests.append(request)
        self._n_running += sum(end - first for _, first, end in batch)
        return batch
