"""Admission of requests: API keys, body size, security headers and request metrics. Plain ASGI."""

from __future__ import annotations

import hmac
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from time import monotonic

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from amalgam_edge.serving.metrics import ServerMetrics

HEALTH_PATHS = frozenset({"/v2/health/live", "/v2/health/ready"})  # a load balancer has no key

CLIENT_CLOSED_REQUEST = 499  # as nginx logs it; the client has gone and never sees it

SECURITY_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
]


@dataclass(frozen=True)
class AccessControl:
    """Who may send requests.

    Attributes:
        api_keys: Keys of which a request must carry one. Without any, every client may ask.
        allowed_origins: Origins whose web pages may send requests, besides the server's own page.
    """

    api_keys: Sequence[str] = ()
    allowed_origins: Sequence[str] = ()


class AdmissionMiddleware:
    """ASGI middleware that refuses requests without a key or with too large a body, and counts every request.

    Args:
        app: The application that answers admitted requests.
        metrics: Counts each request.
        access: API keys and origins. A key comes as ``Authorization: Bearer KEY``.
        body_bytes: Largest body of a request.
        open_paths: Paths that may be read without a key.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: ServerMetrics,
        access: AccessControl,
        body_bytes: int,
        open_paths: Collection[str] = HEALTH_PATHS,
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._api_keys = [key.encode() for key in access.api_keys]
        self._body_bytes = body_bytes
        self._open_paths = open_paths
        # Pages of other origins that may ask must also be able to read the response.
        omitted = b"cross-origin-resource-policy" if access.allowed_origins else b""
        self._headers = [header for header in SECURITY_HEADERS if header[0] != omitted]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = monotonic()
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                present = {name for name, _ in message["headers"]}
                missing = (header for header in self._headers if header[0] not in present)
                message["headers"] = [*message["headers"], *missing]
            await send(message)

        try:
            await self._admit(scope, receive, send_with_headers)
        finally:
            path = getattr(scope.get("route"), "path", "other")
            self._metrics.count_request(path, status or CLIENT_CLOSED_REQUEST, monotonic() - started)

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        is_open = scope["method"] in {"GET", "HEAD"} and scope["path"] in self._open_paths
        if self._api_keys and not is_open and not self._has_key(headers.get(b"authorization", b"")):
            await _refuse(
                send, 401, "an API key is needed: Authorization: Bearer KEY", (b"www-authenticate", b"Bearer")
            )
            return
        too_large = f"the body is longer than the limit of {self._body_bytes} bytes"
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._body_bytes:
            await _refuse(send, 413, too_large, (b"connection", b"close"))
            return
        n_received = 0

        async def receive_counted() -> Message:
            nonlocal n_received
            message = await receive()
            if message["type"] == "http.request":
                n_received += len(message.get("body", b""))
                if n_received > self._body_bytes:
                    raise HTTPException(413, too_large)
            return message

        await self._app(scope, receive_counted, send)

    def _has_key(self, authorization: bytes) -> bool:
        scheme, _, credentials = authorization.partition(b" ")
        # All keys are compared, so that the time taken does not tell which one came close.
        matches = [hmac.compare_digest(credentials.strip(), key) for key in self._api_keys]
        return scheme.lower() == b"bearer" and any(matches)


async def _refuse(send: Send, status: int, reason: str, *headers: tuple[bytes, bytes]) -> None:
    """Respond with an error."""
    body = json.dumps({"error": reason}).encode()
    all_headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        *headers,
    ]
    await send({"type": "http.response.start", "status": status, "headers": all_headers})
    await send({"type": "http.response.body", "body": body})
