"""Micro-batching, with a model whose logits are a known function of each text."""

import asyncio
import random
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from amalgam_edge.serving.batching import MicroBatcher, ModelFailedError, UnavailableError
from amalgam_edge.serving.limits import Limits


def logits_of(text):
    return [float(len(text)), float(sum(map(ord, text)) % 1009)]


class RecordingModel:
    """Records its batches; while ``may_finish`` is cleared, batches do not finish."""

    def __init__(self):
        self.batches = []
        self.may_finish = threading.Event()
        self.may_finish.set()
        self.poison = None
        self.raises = ValueError

    def __call__(self, texts):
        self.batches.append([*texts])
        self.may_finish.wait(10)
        if self.poison in texts:
            raise self.raises(f"cannot read {self.poison}")
        return np.array([logits_of(text) for text in texts], dtype=np.float32), np.array([len(t) > 40 for t in texts])


def run(scenario, model=None, n_threads=1, **limits):
    """Run ``scenario(batcher, model)`` on a new event loop."""
    model = model or RecordingModel()

    async def main():
        limits_ = replace(Limits(wait_ms=0), **limits)
        batcher = MicroBatcher(model, max_length=64, limits=limits_, n_threads=n_threads)
        try:
            return await scenario(batcher, model)
        finally:
            if isinstance(model, RecordingModel):
                model.may_finish.set()
            await batcher.close()

    return asyncio.run(main())


def is_output_for(output, texts):
    return output.logits.tolist() == [logits_of(text) for text in texts]


async def until(condition):
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


async def run_behind_first(batcher, model, requests):
    """Let requests queue while a batch of one text runs, and wait until all are answered."""
    model.may_finish.clear()
    tasks = [asyncio.create_task(batcher.run(["first"]))]
    await until(lambda: model.batches)
    tasks += [asyncio.create_task(batcher.run(texts)) for texts in requests]
    await until(lambda: batcher.n_queued == sum(map(len, requests)))
    model.may_finish.set()
    await asyncio.gather(*tasks)


@pytest.mark.parametrize("n_threads", [1, 2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_every_request_gets_the_output_for_its_own_texts(seed, n_threads):
    rng = random.Random(seed)
    requests = [["x" * rng.randint(0, 90) + str(rng.random()) for _ in range(rng.randint(1, 40))] for _ in range(60)]

    async def scenario(batcher, model):
        async def ask(texts):
            await asyncio.sleep(rng.random() / 50)
            return await batcher.run(texts)

        outputs = await asyncio.gather(*map(ask, requests))
        for output, texts in zip(outputs, requests, strict=True):
            assert is_output_for(output, texts)
            assert output.truncated.tolist() == [len(text) > 40 for text in texts]
        assert sum(map(len, model.batches)) == sum(map(len, requests))
        assert len(model.batches) < sum(map(len, requests)) / 4
        assert batcher.n_queued == 0

    run(scenario, n_threads=n_threads, batch_tokens=3000)


def test_texts_that_arrive_while_a_batch_runs_share_the_next_one():
    async def scenario(batcher, model):
        await run_behind_first(batcher, model, [[f"text {k}"] for k in range(10)])
        assert [len(batch) for batch in model.batches] == [1, 10]

    run(scenario)


def test_the_next_batch_does_not_wait_for_the_event_loop():
    async def scenario(batcher, model):
        model.may_finish.clear()
        first = asyncio.create_task(batcher.run(["first"]))
        await until(lambda: model.batches)
        second = asyncio.create_task(batcher.run(["second"]))
        await until(lambda: batcher.n_queued == 1)
        model.may_finish.set()
        end = time.monotonic() + 5
        while len(model.batches) < 2 and time.monotonic() < end:
            time.sleep(0.001)  # the loop is busy
        assert model.batches == [["first"], ["second"]]
        await asyncio.gather(first, second)

    run(scenario)


def test_a_large_request_does_not_hold_up_a_small_one():
    texts = [f"large {k}" for k in range(500)]

    async def scenario(batcher, model):
        model.may_finish.clear()
        large = asyncio.create_task(batcher.run(texts))
        await until(lambda: model.batches)
        n_before = batcher.n_queued
        small = asyncio.create_task(batcher.run(["small"]))
        await until(lambda: batcher.n_queued > n_before)
        model.may_finish.set()
        assert is_output_for(await small, ["small"])
        assert is_output_for(await large, texts)
        assert next(k for k, batch in enumerate(model.batches) if "small" in batch) <= 2 < len(model.batches) / 10

    run(scenario, batch_tokens=40)


def test_a_batch_keeps_to_the_token_limit():
    texts = ["four" * k for k in range(1, 40)]

    async def scenario(batcher, model):
        await batcher.run(texts)
        for batch in model.batches:
            assert len(batch) == 1 or sum(min(64, 2 + len(text) // 4) for text in batch) <= 50

    run(scenario, batch_tokens=50)


def test_a_text_above_the_token_limit_runs_alone():
    async def scenario(batcher, model):
        texts = ["猫" * 64, "a", "猫" * 64]
        assert is_output_for(await batcher.run(texts), texts)
        assert ["猫" * 64] in model.batches

    run(scenario, batch_tokens=10)


def test_a_text_waits_for_others_if_the_last_batch_was_shared():
    async def scenario(batcher, model):
        await run_behind_first(batcher, model, [[f"{k}"] for k in range(4)])
        n_before = len(model.batches)
        one = asyncio.create_task(batcher.run(["one"]))
        await asyncio.sleep(0.02)
        await asyncio.gather(one, batcher.run(["two"]))
        assert model.batches[n_before:] == [["one", "two"]]

    run(scenario, wait_ms=300)


def test_a_text_does_not_wait_if_the_last_batch_was_not_shared():
    async def scenario(batcher, model):
        async with asyncio.timeout(5):
            for _ in range(3):
                await batcher.run(["alone"])
        assert model.batches == [["alone"]] * 3

    run(scenario, wait_ms=60_000)


def test_no_text_waits_for_others_while_some_are_left_from_a_shared_batch():
    async def scenario(batcher, model):
        async with asyncio.timeout(5):
            await run_behind_first(batcher, model, [[text] for text in "abc"])
        assert model.batches == [["first"], ["a", "b"], ["c"]]

    run(scenario, wait_ms=60_000, batch_tokens=5)


def test_a_full_queue_refuses_requests_and_says_when_to_retry():
    async def scenario(batcher, model):
        model.may_finish.clear()
        first = asyncio.create_task(batcher.run(["first"]))
        await until(lambda: model.batches)
        waiting = asyncio.create_task(batcher.run(["a", "b", "c"]))
        await until(lambda: batcher.n_queued == 3)
        with pytest.raises(UnavailableError, match=r"the queue is full \(4 texts\)") as caught:
            await batcher.run(["d", "e"])
        assert caught.value.retry_after >= 1
        one_more = asyncio.create_task(batcher.run(["d"]))
        await until(lambda: batcher.n_queued == 4)
        model.may_finish.set()
        await asyncio.gather(first, waiting, one_more)

    run(scenario, queue=4)


def test_a_request_larger_than_the_queue_is_accepted_if_nothing_waits():
    async def scenario(batcher, model):
        texts = [str(k) for k in range(20)]
        assert is_output_for(await batcher.run(texts), texts)

    run(scenario, queue=4)


def test_texts_leave_the_queue_at_the_deadline():
    async def scenario(batcher, model):
        model.may_finish.clear()
        first = asyncio.create_task(batcher.run(["first"]))
        await until(lambda: model.batches)
        with pytest.raises(UnavailableError, match=r"no answer within 0\.05 s"):
            await batcher.run(["late"])
        assert batcher.n_queued == 0
        model.may_finish.set()
        with pytest.raises(UnavailableError):
            await first
        assert is_output_for(await batcher.run(["next"]), ["next"])
        assert ["late"] not in model.batches

    run(scenario, seconds=0.05)


def test_texts_of_a_cancelled_request_leave_the_queue():
    async def scenario(batcher, model):
        model.may_finish.clear()
        first = asyncio.create_task(batcher.run(["first"]))
        await until(lambda: model.batches)
        gone = asyncio.create_task(batcher.run(["gone 1", "gone 2"]))
        stays = asyncio.create_task(batcher.run(["stays"]))
        await until(lambda: batcher.n_queued == 3)
        gone.cancel()
        await until(lambda: batcher.n_queued == 1)
        first.cancel()  # it is running: its answer goes nowhere
        model.may_finish.set()
        assert is_output_for(await stays, ["stays"])
        assert model.batches == [["first"], ["stays"]]

    run(scenario)


class Panic(BaseException):
    """As pyo3's PanicException, which is no Exception."""


@pytest.mark.parametrize("kind", [ValueError, MemoryError, Panic, SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("n_threads", [1, 2])
def test_a_text_that_makes_the_model_raise_fails_its_own_request_only(kind, n_threads, caplog):
    model = RecordingModel()
    model.poison, model.raises = "secret", kind
    failed = []

    async def scenario(batcher, _):
        batcher._on_failure = failed.append
        model.may_finish.clear()
        firsts = [asyncio.create_task(batcher.run(["first"])) for _ in range(n_threads)]
        await until(lambda: len(model.batches) == n_threads)
        requests = [[f"{k}", "secret"[k % 3 :]] for k in range(9)]
        tasks = [asyncio.create_task(batcher.run(texts)) for texts in requests]
        await until(lambda: batcher.n_queued == 18)
        model.may_finish.set()
        outputs = await asyncio.gather(*tasks, return_exceptions=True)
        for texts, output in zip(requests, outputs, strict=True):
            if "secret" in texts:
                assert isinstance(output, ModelFailedError)
                assert isinstance(output.__cause__, kind)
            else:
                assert is_output_for(output, texts)
        await asyncio.gather(*firsts)
        for _ in range(5):
            with pytest.raises(ModelFailedError):
                await batcher.run(["secret"])
        assert is_output_for(await batcher.run(["next"]), ["next"])
        assert all(thread.is_alive() for thread in batcher._threads)
        assert (batcher.n_queued, batcher._n_running, batcher._n_bytes, batcher.fault) == (0, 0, 0, None)

    run(scenario, model, n_threads=n_threads)
    assert sum(failed) == 2 * 3 + 5
    (record,) = caplog.records  # of eight failures in one place
    assert "a request fails" in record.message
    assert kind.__name__ in record.message
    assert "test_batching.py" in record.message
    assert "secret" not in record.message


def test_failing_requests_at_most_double_the_work():
    model = RecordingModel()
    model.poison = "poison"

    async def scenario(batcher, _):
        model.may_finish.clear()
        first = asyncio.create_task(batcher.run(["first"]))
        await until(lambda: model.batches)
        tasks = [asyncio.create_task(batcher.run(["poison"] * 40)) for _ in range(30)]
        await until(lambda: batcher.n_queued == 30 * 40)
        model.may_finish.set()
        outputs = await asyncio.gather(first, *tasks, return_exceptions=True)
        assert sum(isinstance(output, ModelFailedError) for output in outputs) == 30
        assert sum(map(len, model.batches)) <= 1 + 2 * 30 * 40

    run(scenario, model)


def test_a_model_that_answers_for_too_few_texts_fails():
    async def scenario(batcher, model):
        with pytest.raises(ModelFailedError) as failed:
            await batcher.run(["a", "b"])
        assert str(failed.value.__cause__) == "1 rows of logits for 2 texts"

    run(scenario, lambda texts: (np.zeros((1, 2), np.float32), np.zeros(1, bool)))


def test_a_thread_that_ends_is_a_fault(monkeypatch, caplog):
    async def scenario(batcher, model):
        assert batcher.fault is None
        monkeypatch.setattr(batcher, "_take_batch", lambda: 1 / 0)
        task = asyncio.create_task(batcher.run(["text"]))
        await until(lambda: batcher.fault)
        assert batcher.fault == "a model thread has ended (ZeroDivisionError)"
        task.cancel()

    run(scenario)
    assert "a model thread has ended" in caplog.text


def test_a_batch_that_never_ends_is_a_fault_and_leaves_nothing_in_the_queue(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("amalgam_edge.serving.batching.time", SimpleNamespace(monotonic=lambda: now[0]))

    async def scenario(batcher, model):
        model.may_finish.clear()
        with pytest.raises(UnavailableError):
            await batcher.run(["stuck"])
        for _ in range(20):
            with pytest.raises(UnavailableError):
                await batcher.run(["late"])
        assert (batcher.n_queued, len(batcher._requests), batcher._n_bytes) == (0, 0, 0)
        now[0] += 30
        assert batcher.fault is None
        now[0] += 1
        assert batcher.fault == "a batch has been running for 31 s"
        model.may_finish.set()
        assert is_output_for(await batcher.run(["next"]), ["next"])
        assert batcher.fault is None

    run(scenario, seconds=0.05)


def test_closing_does_not_wait_for_a_batch_that_never_ends():
    model = RecordingModel()

    async def scenario():
        batcher = MicroBatcher(model, max_length=64, limits=replace(Limits(), seconds=0.05))
        model.may_finish.clear()
        with pytest.raises(UnavailableError):
            await batcher.run(["stuck"])
        await batcher.close()
        assert batcher._threads[0].is_alive()
        model.may_finish.set()
        batcher._threads[0].join()

    asyncio.run(scenario())


def test_the_memory_of_waiting_texts_is_bounded():
    async def scenario(batcher, model):
        model.may_finish.clear()
        running = asyncio.create_task(batcher.run(["x" * 100_000]))  # as much as one request likes
        await until(lambda: model.batches)
        with pytest.raises(UnavailableError, match=r"the queue is full \(0\.0 MB of texts\)"):
            await batcher.run(["x"])
        model.may_finish.set()
        await running
        assert is_output_for(await batcher.run(["x"]), ["x"])

    run(scenario, queue=4)


def test_closing_answers_the_texts_that_wait():
    async def scenario(batcher, model):
        model.may_finish.clear()
        asked = [asyncio.create_task(batcher.run([f"text {k}"])) for k in range(5)]
        await until(lambda: model.batches)
        closing = asyncio.create_task(batcher.close())
        await asyncio.sleep(0)
        with pytest.raises(UnavailableError, match="closing"):
            await batcher.run(["too late"])
        model.may_finish.set()
        await closing
        outputs = await asyncio.gather(*asked)
        assert all(is_output_for(output, [f"text {k}"]) for k, output in enumerate(outputs))

    run(scenario)


def test_idle_threads_share_the_texts_of_one_request():
    async def scenario(batcher, model):
        for k in range(4):
            await batcher.run([f"before {k}"])
        model.batches.clear()
        model.may_finish.clear()
        request = asyncio.create_task(batcher.run([f"text {k}" for k in range(7)]))
        await until(lambda: len(model.batches) == 3)  # all run at the same time
        model.may_finish.set()
        assert is_output_for(await request, [f"text {k}" for k in range(7)])
        assert [len(batch) for batch in model.batches] == [3, 3, 1]

    run(scenario, n_threads=3)


def test_a_batch_takes_eight_texts_of_each_request_in_turn():
    async def scenario(batcher, model):
        a, b = ([f"{name}{k}" for k in range(20)] for name in "ab")
        await run_behind_first(batcher, model, [a, b])
        assert model.batches[1] == [*a[:8], *b[:8], *a[8:16], *b[8:16], *a[16:], *b[16:]]

    run(scenario)


@pytest.mark.parametrize(
    ("text", "n_tokens"),
    [
        ("x" * 12, 5),  # one token for four characters, and two special tokens
        ("x" * 15, 5),
        ("x" * 16, 6),
        ("é" * 3, 5),  # one token for each character
        ("xxé", 5),
        ("x" * 1000, 64),  # the longest input
        ("", 2),
    ],
)
def test_tokens_are_estimated_from_characters(text, n_tokens):
    async def scenario(batcher, model):
        await batcher.run([text] * 8)
        assert [len(batch) for batch in model.batches] == [3, 3, 2]

    run(scenario, batch_tokens=3 * n_tokens)
    run(scenario, batch_tokens=4 * n_tokens - 1)


def test_a_request_whose_next_text_does_not_fit_comes_first_in_the_next_batch():
    async def scenario(batcher, model):
        await run_behind_first(batcher, model, [["a"], ["é" * 30], ["b"], ["c"]])
        assert model.batches[1:] == [["a"], ["é" * 30], ["b", "c"]]

    run(scenario, batch_tokens=33)


def test_the_time_to_retry_is_that_of_the_texts_that_wait(monkeypatch):
    clock = iter(range(0, 1000, 3))  # each batch takes three seconds
    monkeypatch.setattr("amalgam_edge.serving.batching.time", SimpleNamespace(monotonic=lambda: next(clock)))

    async def scenario(batcher, model):
        await batcher.run(["one", "two"])
        model.may_finish.clear()
        running = asyncio.create_task(batcher.run(["running"]))
        await until(lambda: len(model.batches) == 2)
        waiting = asyncio.create_task(batcher.run([f"text {k}" for k in range(6)]))
        await until(lambda: batcher.n_queued == 6)
        with pytest.raises(UnavailableError) as refused:
            await batcher.run(["too many"])
        assert refused.value.retry_after == 9  # six texts of one and a half seconds
        model.may_finish.set()
        await asyncio.gather(running, waiting)

    run(scenario, queue=6)


def test_several_threads_make_the_time_to_retry_shorter(monkeypatch):
    clock = iter(range(0, 1000, 3))
    monkeypatch.setattr("amalgam_edge.serving.batching.time", SimpleNamespace(monotonic=lambda: next(clock)))

    async def scenario(batcher, model):
        await batcher.run(["one"])
        assert batcher._seconds_per_text == 1.5

    run(scenario, n_threads=2)


def test_a_text_waits_no_longer_than_it_may():
    async def scenario(batcher, model):
        await run_behind_first(batcher, model, [[f"{k}"] for k in range(2)])  # the last batch was shared
        started = time.monotonic()
        await batcher.run(["alone"])
        assert 0.2 <= time.monotonic() - started < 1.5

    run(scenario, wait_ms=200)
