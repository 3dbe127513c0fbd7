"""Background work that goes on whatever happens, and says so where it cannot."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

_log = logging.getLogger(__name__)


def supervise(
    name: str, step: Callable[[], Awaitable[None]], on_end: Callable[[str], None], *, retry_seconds: float = 1.0
) -> asyncio.Task[None]:
    """Start a task that repeats a step until it is cancelled.

    A step that raises is logged with its traceback, once for each kind of failure, and repeated after a pause.

    Args:
        name: What the task does, for the log.
        step: Called again and again.
        on_end: Called with the reason if the task ends by itself, which nothing should make it do.
        retry_seconds: Pause after a step that has failed.
    """

    async def repeat() -> None:
        logged: set[type] = set()
        while True:
            try:
                await step()
            except Exception as error:
                if type(error) not in logged:
                    logged.add(type(error))
                    _log.exception("%s has failed and is tried again", name)
                await asyncio.sleep(retry_seconds)

    def report(task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            on_end(f"{name} has ended ({type(task.exception()).__name__})")

    task = asyncio.create_task(repeat(), name=name)
    task.add_done_callback(report)
    return task
