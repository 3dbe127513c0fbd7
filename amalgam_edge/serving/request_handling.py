"""The steps of a request that all protocols share: find the model, check the texts, run the model."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from fastapi import HTTPException, Request

from amalgam_edge.serving.batching import ModelFailedError, ModelOutput, UnavailableError
from amalgam_edge.serving.bodies import client_disconnected
from amalgam_edge.serving.limits import Limits
from amalgam_edge.serving.models import ModelRegistry, ServedModel

_DISCONNECT_CHECK_AFTER = 0.05  # seconds; most requests are answered sooner and never pay for the check


def find_model(models: ModelRegistry, name: str | None = None) -> ServedModel:
    """The model with this name, or the first model if no name is given.

    Raises:
        HTTPException: 404, there is no model with this name.
    """
    model = models.get(name)
    if model is None:
        raise HTTPException(404, f"no model of that name; there are {', '.join(models.names)}")
    return model


def check_texts(texts: Sequence[str], limits: Limits) -> None:
    """Check the number of texts and the length of each.

    Raises:
        HTTPException: 422, there are too many texts, or one is too long.
    """
    if len(texts) > limits.texts:
        raise HTTPException(422, f"{len(texts)} texts in a request, the limit is {limits.texts}")
    longest = max(map(len, texts))
    if longest > limits.characters:
        raise HTTPException(422, f"a text of {longest} characters, the limit is {limits.characters}")


async def run_unless_disconnected(request: Request, model: ServedModel, texts: Sequence[str]) -> ModelOutput:
    """The model's output for the texts; waiting texts leave the queue if the client disconnects.

    Raises:
        HTTPException: 503, the queue is full or the time is over; 500, the model fails over these texts; 499, the
            client has disconnected.
    """
    request_task = asyncio.current_task()
    watcher: asyncio.Task[None] | None = None
    disconnected = False

    async def cancel_on_disconnect() -> None:
        nonlocal disconnected
        while (await request.receive())["type"] != "http.disconnect":
            pass
        disconnected = True
        if request_task is not None:
            request_task.cancel()

    def start_watching() -> None:
        nonlocal watcher
        watcher = asyncio.create_task(cancel_on_disconnect())

    timer = asyncio.get_running_loop().call_later(_DISCONNECT_CHECK_AFTER, start_watching)
    try:
        return await model.run(texts)
    except UnavailableError as error:
        raise HTTPException(503, str(error), {"retry-after": str(error.retry_after)}) from error
    except ModelFailedError as error:
        raise HTTPException(500, "the model fails over these texts; the server's log says more") from error
    except asyncio.CancelledError:
        if not disconnected:
            raise
        raise client_disconnected() from None
    finally:
        timer.cancel()
        if watcher is not None:
            watcher.cancel()
