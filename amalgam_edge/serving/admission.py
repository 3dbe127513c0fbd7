"""Admission of requests: names and origins, API keys, and sizes of bodies. Plain ASGI."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from math import ceil

from starlette.types import ASGIApp, Receive, Scope, Send

from amalgam_edge.serving.api_keys import ApiKeys, GuessLimiter
from amalgam_edge.serving.bodies import BodyReader
from amalgam_edge.serving.byte_budget import ByteBudget
from amalgam_edge.serving.limits import Limits
from amalgam_edge.serving.origins import is_known_host, may_send

HEALTH_PATHS = frozenset({"/health", "/v2/health/live", "/v2/health/ready"})  # a load balancer has no key
RESERVED_PATHS = HEALTH_PATHS | {"/metrics"}  # answered even when all places are taken
_READING_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True)
class AccessControl:
    """Who may send requests.

    Attributes:
        api_keys: Keys of which a request must carry one. Without any, every client may ask.
        key_file: File that the keys were read from, and are read from again when it changes; None if there is none.
        allowed_origins: Origins whose web pages may send requests, besides the server's own page.
        allowed_hosts: Names by which requests may ask for the server, besides those that it knows.
    """

    api_keys: Sequence[str] = ()
    key_file: str | None = None
    allowed_origins: Sequence[str] = ()
    allowed_hosts: Sequence[str] = ()


class RefusedError(Exception):
    """A request is not admitted.

    Attributes:
        status: Status of the response.
        reason: What is wrong.
        headers: Headers of the response.
    """

    def __init__(self, status: int, reason: str, *headers: tuple[bytes, bytes]) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.headers = headers


class AdmissionMiddleware:
    """ASGI middleware that refuses requests.

    Args:
        app: The application that answers admitted requests.
        access: API keys and origins. A key comes as ``Authorization: Bearer KEY``.
        limits: Limits of the server.
        open_paths: Paths that may be read without a key.
        paths_with_more: Paths that may be read without a key but say more to those who have one.
        host_names: Names of the server, see :func:`amalgam_edge.serving.origins.known_hosts`.
        is_full: Whether all places for connections are taken.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        access: AccessControl,
        limits: Limits,
        open_paths: Collection[str] = HEALTH_PATHS,
        paths_with_more: Collection[str] = (),
        host_names: frozenset[str] | None = None,
        is_full: Callable[[], bool] = lambda: False,
    ) -> None:
        self._app = app
        self._keys = ApiKeys(access.api_keys, access.key_file)
        self._guesses = GuessLimiter()
        self._allowed_origins = frozenset(access.allowed_origins)
        self._limits = limits
        self._budget = ByteBudget(limits.inflight_bytes)
        self._open_paths = open_paths
        self._paths_with_more = paths_with_more
        self._host_names = host_names
        self._is_full = is_full

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":  # there are no others that could be admitted
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            return
        headers = dict(scope["headers"])
        try:
            self._check(scope, headers)
        except RefusedError as refusal:
            await _respond(send, refusal)
            return
        share = self._budget.share()
        encoding = headers.get(b"content-encoding", b"")
        try:
            await self._app(scope, BodyReader(receive, encoding, self._limits.body_bytes, share), send)
        finally:
            share.give_back()

    def _check(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        """Raise a :class:`RefusedError` if a request is not admitted."""
        if self._is_full() and scope["path"] not in RESERVED_PATHS:
            n_connections = self._limits.connections
            raise RefusedError(
                503, f"all {n_connections} connections are in use", (b"retry-after", b"1"), (b"connection", b"close")
            )
        self._check_host(scope, headers)
        self._check_origin(scope, headers)
        if self._keys:
            self._check_key(scope, headers)
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._limits.body_bytes:
            raise RefusedError(413, f"the body is longer than the limit of {self._limits.body_bytes} bytes")

    def _check_host(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        n_hosts = sum(name == b"host" for name, _ in scope["headers"])
        if n_hosts != 1 and (n_hosts or scope["http_version"] == "1.1"):
            raise RefusedError(400, "a request has one header Host", (b"connection", b"close"))
        if n_hosts and self._host_names is not None:
            host = headers[b"host"].decode("latin-1")
            if not is_known_host(host, self._host_names):
                raise RefusedError(421, "this server has another name: start it with --allow-host to give it this one")

    def _check_origin(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        origin, site = headers.get(b"origin"), headers.get(b"sec-fetch-site")
        if (origin is None and site is None) or scope["method"] in _READING_METHODS:
            return
        if not may_send(
            origin.decode("latin-1") if origin is not None else None,
            site.decode("latin-1") if site is not None else None,
            headers.get(b"host", b"").decode("latin-1"),
            self._allowed_origins,
        ):
            raise RefusedError(403, "pages of this origin may not ask: start the server with --cors to allow them")

    def _check_key(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        authorization = headers.get(b"authorization")
        path = scope["path"]
        if scope["method"] in {"GET", "HEAD"} and (
            path in self._open_paths or (authorization is None and path in self._paths_with_more)
        ):
            return
        needed = RefusedError(401, "an API key is needed: Authorization: Bearer KEY", (b"www-authenticate", b"Bearer"))
        if authorization is None:
            raise needed
        address = scope["client"][0] if scope.get("client") else "an unknown address"
        digest = self._keys.find(authorization)
        seconds = ceil(self._guesses.seconds_to_wait(address, digest))
        if seconds:
            raise RefusedError(
                429, f"too many wrong API keys from here: wait {seconds} s", (b"retry-after", str(seconds).encode())
            )
        if digest is None:
            self._guesses.add_wrong(address)
            raise needed
        self._guesses.add_right(address, digest)


async def _respond(send: Send, refusal: RefusedError) -> None:
    """Respond with an error."""
    body = json.dumps({"error": refusal.reason}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        *refusal.headers,
    ]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
