"""What all protocols have in common: limits on texts, and an answer that nobody waits for any more."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from fastapi import HTTPException, Request
from starlette.requests import ClientDisconnect

from amalgam_edge.serving.batching import Answer, TurnedAway
from amalgam_edge.serving.guard import CLIENT_GONE
from amalgam_edge.serving.limits import Limits
from amalgam_edge.serving.models import Models, ServedModel

_PATIENCE = 0.05  # seconds, before anybody looks whether the client still waits


def model_of(models: Models, name: str | None = None) -> ServedModel:
    """The model of a name, or the first.

    Raises:
        HTTPException: 404, there is none of that name.
    """
    model = models.get(name)
    if model is None:
        raise HTTPException(404, f"no model of that name; there are {', '.join(models.names)}")
    return model


async def body_of(request: Request) -> bytes:
    """A request's body.

    Raises:
        HTTPException: 415, it is compressed; 499, the client is gone.
    """
    encoding = request.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise HTTPException(415, "compressed bodies are not read; leave Content-Encoding out")
    try:
        return await request.body()
    except ClientDisconnect:
        raise _gone() from None


def check_texts(texts: Sequence[str], limits: Limits) -> None:
    """Hold texts against the limits.

    Raises:
        HTTPException: 422, they are too many, or one is too long.
    """
    if len(texts) > limits.texts:
        raise HTTPException(422, f"{len(texts)} texts in a request, the limit is {limits.texts}")
    longest = max(map(len, texts))
    if longest > limits.characters:
        raise HTTPException(422, f"a text of {longest} characters, the limit is {limits.characters}")


async def answer_of(request: Request, model: ServedModel, texts: Sequence[str]) -> Answer:
    """What the model says; given up where the client goes away.

    Raises:
        HTTPException: 503, there is no room or it took too long; 499, the client is gone.
    """
    own = asyncio.current_task()
    watch: asyncio.Task[None] | None = None
    gone = False

    async def leave() -> None:
        nonlocal gone
        while (await request.receive())["type"] != "http.disconnect":
            pass
        gone = True
        if own is not None:
            own.cancel()

    def begin() -> None:
        nonlocal watch
        watch = asyncio.create_task(leave())

    timer = asyncio.get_running_loop().call_later(_PATIENCE, begin)
    try:
        return await model.answer(texts)
    except TurnedAway as error:
        raise HTTPException(503, str(error), {"retry-after": str(error.retry_after)}) from error
    except asyncio.CancelledError:
        if not gone:
            raise
        raise _gone() from None
    finally:
        timer.cancel()
        if watch is not None:
            watch.cancel()


def _gone() -> HTTPException:
    return HTTPException(CLIENT_GONE, "the client is gone")
