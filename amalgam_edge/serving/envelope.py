"""What holds for every request and response, whatever the route: HEAD, trailing slashes, security headers, metrics.

Plain ASGI.
"""

from __future__ import annotations

from time import monotonic

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from amalgam_edge.serving.bodies import CLIENT_CLOSED_REQUEST
from amalgam_edge.serving.metrics import ServerMetrics

SECURITY_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
]


class EnvelopeMiddleware:
    """ASGI middleware around all others.

    A request by HEAD is answered as one by GET, without the body; one whose path ends with a slash as one without.
    Every response gets the security headers, and every request is counted.

    Args:
        app: The application.
        metrics: Counts each request.
        is_open_to_others: Whether pages of other origins may read responses.
    """

    def __init__(self, app: ASGIApp, *, metrics: ServerMetrics, is_open_to_others: bool) -> None:
        self._app = app
        self._metrics = metrics
        omitted = b"cross-origin-resource-policy" if is_open_to_others else b""
        self._headers = [header for header in SECURITY_HEADERS if header[0] != omitted]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = monotonic()
        status = 0
        is_head = scope["method"] == "HEAD"
        if is_head:
            scope = {**scope, "method": "GET"}  # the server's own stays, which sends no body then
        path = scope["path"]
        if path.endswith("/") and path != "/" and scope.get("raw_path", b"/").endswith(b"/"):  # and not with %2F
            scope = {**scope, "path": path[:-1]}

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                present = {name for name, _ in message["headers"]}
                missing = (header for header in self._headers if header[0] not in present)
                message["headers"] = [*message["headers"], *missing]
            elif is_head:
                message = {**message, "body": b""}
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.count_request(route, status or CLIENT_CLOSED_REQUEST, monotonic() - started)
