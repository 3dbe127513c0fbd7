"""Micro-batching: answers by a model that is a table, so that each text's is known."""

import asyncio
import random
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from amalgam_edge.serving.batching import MicroBatcher, TurnedAway
from amalgam_edge.serving.limits import Limits


def logits_of(text):
    return [float(len(text)), float(sum(map(ord, text)) % 1009)]


class Model:
    """Answers at once, or when it is let go; keeps the batches that it has seen."""

    def __init__(self):
        self.batches = []
        self.go = threading.Event()
        self.go.set()
        self.fails_at = None

    def __call__(self, texts):
        self.batches.append([*texts])
        self.go.wait(10)
        if self.fails_at in texts:
            raise ValueError("a poisoned text")
        return np.array([logits_of(text) for text in texts], dtype=np.float32), np.array([len(t) > 40 for t in texts])


def run(scenario, model=None, at_once=1, **limits):
    """A scenario ``(batcher, model)`` on an event loop of its own."""

    async def main():
        own = model or Model()
        batcher = MicroBatcher(own, max_length=64, limits=replace(Limits(wait_ms=0), **limits), at_once=at_once)
        try:
            return await scenario(batcher, own)
        finally:
            own.go.set()
            await batcher.close()

    return asyncio.run(main())


def right(answer, texts):
    return answer.logits.tolist() == [logits_of(text) for text in texts]


async def until(condition):
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("at_once", [1, 2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_answers_are_never_mixed_up(seed, at_once):
    rng = random.Random(seed)
    requests = [["x" * rng.randint(0, 90) + str(rng.random()) for _ in range(rng.randint(1, 40))] for _ in range(60)]

    async def scenario(batcher, model):
        async def ask(texts):
            await asyncio.sleep(rng.random() / 50)
            return await batcher.answer(texts)

        answers = await asyncio.gather(*map(ask, requests))
        assert all(right(answer, texts) for answer, texts in zip(answers, requests, strict=True))
        assert all(
            answer.truncated.tolist() == [len(t) > 40 for t in texts]
            for answer, texts in zip(answers, requests, strict=True)
        )
        assert sum(map(len, model.batches)) == sum(map(len, requests))
        assert len(model.batches) < sum(map(len, requests)) / 4
        assert batcher.queued == 0

    run(scenario, at_once=at_once, batch_tokens=3000)


def test_what_comes_while_a_batch_runs_runs_together():
    async def scenario(batcher, model):
        model.go.clear()
        first = asyncio.create_task(batcher.answer(["first"]))
        await until(lambda: model.batches)
        rest = [asyncio.create_task(batcher.answer([f"text {k}"])) for k in range(10)]
        await until(lambda: batcher.queued == 10)
        model.go.set()
        await asyncio.gather(first, *rest)
        assert [len(batch) for batch in model.batches] == [1, 10]

    run(scenario)


def test_the_next_batch_does_not_wait_for_the_event_loop():
    async def scenario(batcher, model):
        model.go.clear()
        first = asyncio.create_task(batcher.answer(["first"]))
        await until(lambda: model.batches)
        second = asyncio.create_task(batcher.answer(["second"]))
        await until(lambda: batcher.queued == 1)
        model.go.set()
        end = time.monotonic() + 5
        while len(model.batches) < 2 and time.monotonic() < end:
            time.sleep(0.001)  # the loop is busy
        assert model.batches == [["first"], ["second"]]
        await asyncio.gather(first, second)

    run(scenario)


def test_a_large_request_does_not_hold_a_small_one():
    texts = [f"large {k}" for k in range(500)]

    async def scenario(batcher, model):
        model.go.clear()
        large = asyncio.create_task(batcher.answer(texts))
        await until(lambda: model.batches)
        n_before = batcher.queued
        small = asyncio.create_task(batcher.answer(["small"]))
        await until(lambda: batcher.queued > n_before)
        model.go.set()
        assert right(await small, ["small"])
        assert right(await large, texts)
        assert next(k for k, batch in enumerate(model.batches) if "small" in batch) <= 2 < len(model.batches) / 10

    run(scenario, batch_tokens=40)


def test_a_batch_keeps_to_its_tokens():
    texts = ["four" * k for k in range(1, 40)]

    async def scenario(batcher, model):
        await batcher.answer(texts)
        for batch in model.batches:
            assert len(batch) == 1 or sum(min(64, 2 + len(text) // 4) for text in batch) <= 50

    run(scenario, batch_tokens=50)


def test_a_text_beyond_the_budget_runs_alone():
    async def scenario(batcher, model):
        texts = ["猫" * 64, "a", "猫" * 64]
        assert right(await batcher.answer(texts), texts)
        assert ["猫" * 64] in model.batches

    run(scenario, batch_tokens=10)


def test_where_others_have_come_lately_a_text_waits_for_them():
    async def scenario(batcher, model):
        model.go.clear()
        tasks = [asyncio.create_task(batcher.answer(["first"]))]
        await until(lambda: model.batches)
        tasks += [asyncio.create_task(batcher.answer([f"{k}"])) for k in range(4)]
        await until(lambda: batcher.queued == 4)
        model.go.set()
        await asyncio.gather(*tasks)
        n_before = len(model.batches)
        one = asyncio.create_task(batcher.answer(["one"]))
        await asyncio.sleep(0.02)
        await asyncio.gather(one, batcher.answer(["two"]))
        assert model.batches[n_before:] == [["one", "two"]]

    run(scenario, wait_ms=300)


def test_alone_a_text_does_not_wait():
    async def scenario(batcher, model):
        async with asyncio.timeout(5):
            for _ in range(3):
                await batcher.answer(["alone"])
        assert model.batches == [["alone"]] * 3

    run(scenario, wait_ms=60_000)


def test_a_full_queue_turns_away_and_says_when_to_come_again():
    async def scenario(batcher, model):
        model.go.clear()
        first = asyncio.create_task(batcher.answer(["first"]))
        await until(lambda: model.batches)
        waiting = asyncio.create_task(batcher.answer(["a", "b", "c"]))
        await until(lambda: batcher.queued == 3)
        with pytest.raises(TurnedAway, match=r"the queue is full \(4 texts\)") as caught:
            await batcher.answer(["d", "e"])
        assert caught.value.retry_after >= 1
        one_more = asyncio.create_task(batcher.answer(["d"]))
        await until(lambda: batcher.queued == 4)
        model.go.set()
        await asyncio.gather(first, waiting, one_more)

    run(scenario, queue=4)


def test_a_request_of_more_texts_than_the_queue_holds_is_taken_alone():
    async def scenario(batcher, model):
        texts = [str(k) for k in range(20)]
        assert right(await batcher.answer(texts), texts)

    run(scenario, queue=4)


def test_a_deadline_frees_the_place():
    async def scenario(batcher, model):
        model.go.clear()
        first = asyncio.create_task(batcher.answer(["first"]))
        await until(lambda: model.batches)
        with pytest.raises(TurnedAway, match=r"no answer within 0\.05 s"):
            await batcher.answer(["late"])
        assert batcher.queued == 0
        model.go.set()
        with pytest.raises(TurnedAway):
            await first
        assert right(await batcher.answer(["next"]), ["next"])
        assert ["late"] not in model.batches

    run(scenario, seconds=0.05)


def test_who_goes_away_frees_the_place():
    async def scenario(batcher, model):
        model.go.clear()
        first = asyncio.create_task(batcher.answer(["first"]))
        await until(lambda: model.batches)
        gone = asyncio.create_task(batcher.answer(["gone 1", "gone 2"]))
        stays = asyncio.create_task(batcher.answer(["stays"]))
        await until(lambda: batcher.queued == 3)
        gone.cancel()
        await until(lambda: batcher.queued == 1)
        first.cancel()  # it is running: its answer goes nowhere
        model.go.set()
        assert right(await stays, ["stays"])
        assert model.batches == [["first"], ["stays"]]

    run(scenario)


def test_a_failing_batch_fails_its_own_requests_alone():
    model = Model()
    model.fails_at = "poison"

    async def scenario(batcher, _):
        with pytest.raises(ValueError, match="a poisoned text"):
            await batcher.answer(["poison"])
        assert right(await batcher.answer(["next"]), ["next"])

    run(scenario, model)


def test_closing_answers_what_was_taken_on():
    async def scenario(batcher, model):
        model.go.clear()
        asked = [asyncio.create_task(batcher.answer([f"text {k}"])) for k in range(5)]
        await until(lambda: model.batches)
        closing = asyncio.create_task(batcher.close())
        await asyncio.sleep(0)
        with pytest.raises(TurnedAway, match="closing"):
            await batcher.answer(["too late"])
        model.go.set()
        await closing
        answers = await asyncio.gather(*asked)
        assert all(right(answer, [f"text {k}"]) for k, answer in enumerate(answers))

    run(scenario)
