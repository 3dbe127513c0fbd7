"""Background tasks go on after failures, and say so where they end."""

import asyncio

import pytest

from amalgam_edge.serving.supervision import supervise


class Step:
    """Raises these errors one after another, and then waits."""

    def __init__(self, *errors):
        self.errors = [*errors]
        self.done = asyncio.Event()

    async def __call__(self):
        if self.errors:
            raise self.errors.pop(0)
        self.done.set()
        await asyncio.Event().wait()


def test_a_step_that_fails_is_logged_once_and_repeated(caplog):
    ends = []

    async def main():
        step = Step(OSError("a"), OSError("b"), MemoryError(), OSError("c"))
        task = supervise("reloading", step, ends.append, retry_seconds=0)
        await step.done.wait()
        assert not task.done()
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(main())
    assert [record.exc_info[0] for record in caplog.records] == [OSError, MemoryError]
    assert ends == []


class Panic(BaseException):
    """As pyo3's PanicException, which is no Exception."""


@pytest.mark.parametrize("error", [Panic(), asyncio.CancelledError()])
def test_the_end_of_a_task_is_told_unless_it_was_cancelled(error):
    ends = []

    async def main():
        task = supervise("reloading", Step(error), ends.append)
        await asyncio.wait([task])

    asyncio.run(main())
    assert ends == (["reloading has ended (Panic)"] if isinstance(error, Panic) else [])
