"""What every request passes through: its key, its size, its time, and the headers of its answer. Plain ASGI."""

from __future__ import annotations

import hmac
import json
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from time import monotonic
from typing import Any

from starlette.exceptions import HTTPException

from amalgam_edge.serving.metrics import Metrics

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

HEALTH_PATHS = frozenset({"/v2/health/live", "/v2/health/ready"})  # a load balancer has no key

CLIENT_GONE = 499  # nginx' status for it; no client sees it

HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
]


class Guard:
    """An ASGI application around another one.

    Args:
        app: what answers.
        metrics: told of each request.
        body_bytes: the most that a body may have.
        keys: one of these must come as ``Authorization: Bearer KEY``; none is asked for where there is none.
        open_paths: that are answered without a key, when they are read.
        shared: whether pages of other origins may read answers, which cross-origin-resource-policy then allows.
    """

    def __init__(
        self,
        app: App,
        *,
        metrics: Metrics,
        body_bytes: int,
        keys: Collection[bytes] = (),
        open_paths: Collection[str] = HEALTH_PATHS,
        shared: bool = False,
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._body_bytes = body_bytes
        self._keys = [*keys]
        self._open_paths = open_paths
        drop = b"cross-origin-resource-policy" if shared else b""
        self._headers = [header for header in HEADERS if header[0] != drop]

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = monotonic()
        status = 0

        async def dressed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                present = {name for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *(h for h in self._headers if h[0] not in present)]
            await send(message)

        try:
            await self._answer(scope, receive, dressed)
        finally:
            route = scope.get("route")
            self._metrics.request(getattr(route, "path", "other"), status or CLIENT_GONE, monotonic() - began)

    async def _answer(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        is_open = scope["method"] in {"GET", "HEAD"} and scope["path"] in self._open_paths
        if self._keys and not is_open and not self._has_key(headers.get(b"authorization", b"")):
            await refuse(send, 401, "an API key is needed: Authorization: Bearer KEY", (b"www-authenticate", b"Bearer"))
            return
        limit = f"the body is longer than the limit of {self._body_bytes} bytes"
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._body_bytes:
            await refuse(send, 413, limit, (b"connection", b"close"))
            return
        n_read = 0

        async def counted() -> Message:
            nonlocal n_read
            message = await receive()
            if message["type"] == "http.request":
                n_read += len(message.get("body", b""))
                if n_read > self._body_bytes:
                    raise HTTPException(413, limit)
            return message

        await self._app(scope, counted, send)

    def _has_key(self, authorization: bytes) -> bool:
        scheme, _, given = authorization.partition(b" ")
        found = [hmac.compare_digest(given.strip(), key) for key in self._keys]
        return scheme.lower() == b"bearer" and any(found)


async def refuse(send: Send, status: int, reason: str, *headers: tuple[bytes, bytes]) -> None:
    """Answer with an error."""
    body = json.dumps({"error": reason}).encode()
    own = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *headers]
    await send({"type": "http.response.start", "status": status, "headers": own})
    await send({"type": "http.response.body", "body": body})
