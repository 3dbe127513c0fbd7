"""Connections that a client can neither fill, nor hold up, nor keep for itself.

uvicorn parses HTTP and runs the application. Here stands what it leaves to a proxy in front: bounds of a request's head
and of what is read ahead of the request that is being answered, and deadlines for whatever a client has to do. A client
that has something to send or to take and does not is closed: after a while, or at once if others need its place.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, NoReturn

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from amalgam_edge.serving.limits import Limits

# Connections beyond the limit that are taken on while all others are being answered, for health checks and metrics.
RESERVED_CONNECTIONS = 64
_READ_BYTES = 16_384  # that are read from a connection at a time
_PARSE_BYTES = 256  # of which the head of several small requests can come at a time
_PARTS = 65_536  # of a body, such as chunks; each takes its time, however small it is
_UNSENT_BYTES = 32_768  # of responses that a connection buffers before its application waits
_TAKEN_BYTES = 65_536  # that a client must take of a response in the time given for it
_SWEEP_SECONDS = 1.0


class ConnectionTable:
    """The open connections of a server. Create it on the server's event loop.

    Args:
        limits: Limits of the server.
        count_refusal: Called with the status of each request that is refused before it reaches the application.
        count_closed: Called with the reason for each connection that is closed because of its client, or for lack of
            room: ``slow`` or ``full``.
    """

    def __init__(
        self,
        limits: Limits,
        count_refusal: Callable[[int], None] = lambda status: None,
        count_closed: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self.limits = limits
        self.count_refusal = count_refusal
        self.count_closed = count_closed
        self.buffer = memoryview(bytearray(_READ_BYTES))
        self._open: set[BoundedConnection] = set()
        self._waiting: dict[BoundedConnection, None] = {}  # for their clients, the longest first

    def __len__(self) -> int:
        """The number of open connections."""
        return len(self._open)

    @property
    def is_full(self) -> bool:
        """Whether there are more connections than the limit, so that only health checks and metrics are answered."""
        return len(self._open) > self.limits.connections

    def create_protocol(self, *args: Any, **kwargs: Any) -> asyncio.BaseProtocol:
        """The protocol of a new connection; uvicorn calls it with its own arguments."""
        return _BoundedReader(BoundedConnection(*args, table=self, **kwargs), self.buffer)

    def add(self, connection: BoundedConnection) -> None:
        """Add a connection; if there are too many, the one that has waited longest for its client is closed."""
        self._open.add(connection)
        if len(self._open) > self.limits.connections:
            if self._waiting:
                self.drop(next(iter(self._waiting)), "full")
            elif len(self._open) > self.limits.connections + RESERVED_CONNECTIONS:
                self.drop(connection, "full")

    def drop(self, connection: BoundedConnection, reason: str) -> None:
        """Close a connection at once, whatever it has still to send."""
        self.count_closed(reason)
        self.remove(connection)
        connection.transport.abort()

    def remove(self, connection: BoundedConnection) -> None:
        """Remove a connection that is closed."""
        self._open.discard(connection)
        self._waiting.pop(connection, None)

    def set_waiting(self, connection: BoundedConnection, *, waits: bool) -> None:
        """Say that a connection waits for its client from now on, or that it does not."""
        self._waiting.pop(connection, None)
        if waits and connection in self._open:
            self._waiting[connection] = None

    def watch(self) -> None:
        """Close connections whose client is late, now and once a second from now on."""
        loop = asyncio.get_running_loop()
        loop.call_later(_SWEEP_SECONDS, self.watch)
        now = loop.time()
        for connection in [*self._open]:
            connection.check_deadlines(now)
        unsent = [(connection, connection.n_unsent) for connection in self._waiting if connection.flow.write_paused]
        total = sum(n_bytes for _, n_bytes in unsent)
        for connection, n_bytes in unsent:
            if total <= self.limits.inflight_bytes:
                break
            self.drop(connection, "slow")
            total -= n_bytes


class _BoundedReader(asyncio.BufferedProtocol):
    """Hands what a transport reads to a connection. Only a buffered protocol decides how much is read at a time.

    Args:
        connection: The connection.
        buffer: Where bytes are read to. All connections may have the same, since each takes its bytes out at once.
    """

    def __init__(self, connection: BoundedConnection, buffer: memoryview) -> None:
        self._connection = connection
        self._buffer = buffer
        self.connection_made = connection.connection_made  # type: ignore[method-assign, assignment]
        self.connection_lost = connection.connection_lost  # type: ignore[method-assign]
        self.pause_writing = connection.pause_writing  # type: ignore[method-assign]
        self.resume_writing = connection.resume_writing  # type: ignore[method-assign]

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._connection.data_received(bytes(self._buffer[:nbytes]))


class _HoldingFlow(FlowControl):
    """Flow control that reads no further while the connection holds what was read too early."""

    holds = False

    def resume_reading(self) -> None:
        if not self.holds:
            super().resume_reading()


class BoundedConnection(HttpToolsProtocol):
    """uvicorn's HTTP connection within limits.

    What comes while a complete request waits for its answer is held unparsed, and no more is read until then.

    Args:
        table: The server's connections.
        args: uvicorn's arguments.
        kwargs: uvicorn's arguments.
    """

    def __init__(self, *args: Any, table: ConnectionTable, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.ws_protocol_class = None
        self._table = table
        self._limits = table.limits
        self._receiving: str | None = None  # "head" or "body" of a request that has begun to arrive
        self._since = 0.0  # when the connection began to wait for its client
        self._n_requests = 0
        self._n_head_bytes = 0
        self._n_headers = 0
        self._n_parts = 0
        self._n_body_bytes_left = 0
        self._has_body = False
        self._held = b""
        self._refusal: tuple[int, str] | None = None
        self._late_mark: tuple[float, int] | None = None  # when how many bytes were left to send

    @property
    def n_unsent(self) -> int:
        """The number of bytes that the client has not taken yet."""
        return self.transport.get_write_buffer_size()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a place among the open connections."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=_UNSENT_BYTES)
        self.flow = _HoldingFlow(transport)
        self._since = self.loop.time()
        self._table.add(self)
        self._table.set_waiting(self, waits=True)

    def connection_lost(self, exc: Exception | None) -> None:
        """Give the place back."""
        self._table.remove(self)
        self._held = b""
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what was read, up to the end of a request that must be answered first."""
        start = 0
        while start < len(data) and not self.transport.is_closing():
            if self._must_hold():
                self._held += data[start:]
                self.flow.holds = True
                self.flow.pause_reading()
                return
            end = start + max(_PARSE_BYTES, self._n_body_bytes_left)
            self._parse(data[start:end] if start or end < len(data) else data)
            start = end

    def pause_writing(self) -> None:
        """The client is slower than its responses."""
        super().pause_writing()
        self._late_mark = self.loop.time(), self.n_unsent
        self._settle()

    def resume_writing(self) -> None:
        """The client has taken what was there."""
        super().resume_writing()
        self._late_mark = None
        self._settle()

    def check_deadlines(self, now: float) -> None:
        """Close the connection if its client should have sent or taken something by now."""
        if self.flow.write_paused or self.transport.is_closing():
            self._check_sending(now)
        elif not self._must_hold():
            is_asked = self._receiving is not None or not self._n_requests
            seconds = self._limits.receive_seconds if is_asked else self._limits.idle_seconds
            if now - self._since > seconds:
                self._close_late()

    def _check_sending(self, now: float) -> None:
        n_unsent = self.n_unsent
        if self._late_mark is None or n_unsent <= self._late_mark[1] - _TAKEN_BYTES:
            self._late_mark = now, n_unsent
        elif now - self._late_mark[0] > self._limits.send_seconds:
            self._table.drop(self, "slow")

    def _close_late(self) -> None:
        if self._receiving is None:
            self.transport.close()
        else:
            self._table.count_closed("slow")
            self._refuse(408, f"the request did not arrive within {self._limits.receive_seconds:g} s")

    def _must_hold(self) -> bool:
        """Whether a request has arrived completely and is not answered yet."""
        cycle = self.cycle
        return bool(self.pipeline) or (cycle is not None and not cycle.response_complete and not cycle.more_body)

    def _settle(self) -> None:
        """Say whether the connection waits for its client, after anything that changes it."""
        waits = self.flow.write_paused or not self._must_hold()
        if waits:
            self._since = self.loop.time()
        self._table.set_waiting(self, waits=waits)

    def _parse(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.cycle.keep_alive = False
        except httptools.HttpParserError:
            self._refuse(*(self._refusal or (400, "this is no HTTP/1.1 request")))
        else:
            self._n_head_bytes += len(data)
            if self._receiving is not None and self._n_head_bytes > self._limits.head_bytes:
                self._refuse(431, f"the head is longer than the limit of {self._limits.head_bytes} bytes")

    def _refuse(self, status: int, reason: str) -> None:
        """Answer what has arrived of a request with an error, and close the connection."""
        self._table.count_refusal(status)
        if self._receiving == "body":
            is_answerable = not self.cycle.response_started and not self.pipeline
        elif self._must_hold():  # those before it are answered first
            self.cycle.keep_alive = False
            self._receiving = None
            self.flow.holds = True
            self.flow.pause_reading()
            return
        else:
            is_answerable = True
        if is_answerable:
            self.transport.write(_error_response(status, reason))
        self.transport.close()

    def _raise(self, status: int, reason: str) -> NoReturn:
        """Have the parser stop at what it has just found."""
        self._refusal = status, reason
        raise ValueError(reason)

    # Callbacks of the parser and of uvicorn's request

    def on_message_begin(self) -> None:
        """A request begins to arrive."""
        super().on_message_begin()
        self._receiving = "head"
        self._has_body = False
        self._since = self.loop.time()
        self._n_head_bytes = self._n_headers = self._n_parts = self._n_body_bytes_left = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header has arrived, or a trailer, which is left out."""
        self._n_headers += 1
        if self._n_headers > self._limits.headers:
            self._raise(431, f"more headers than the limit of {self._limits.headers}")
        if self._receiving == "body":
            return
        name = name.lower()  # and so on, as uvicorn does: a call of its own would cost as much as all of this
        self.headers.append((name, value))
        if name == b"expect":
            self.expect_100_continue = value.lower() == b"100-continue"
        elif name == b"content-length":
            self._n_body_bytes_left = int(value)
            self._has_body = self._n_body_bytes_left > 0
        elif name == b"transfer-encoding":
            self._has_body = True

    def on_headers_complete(self) -> None:
        """The head has arrived: the application begins, or a request before this one is answered first."""
        if self._has_body and self.parser.should_upgrade():  # the parser would leave the body out
            self._raise(400, "Upgrade is not supported: send the request without it")
        super().on_headers_complete()
        self._n_requests += 1
        self._receiving = "body"
        self._since = self.loop.time()

    def on_body(self, body: bytes) -> None:
        """A part of the body has arrived."""
        self._n_parts += 1
        if self._n_parts > _PARTS:
            self._raise(413, f"the body comes in more than {_PARTS} parts")
        super().on_body(body)
        self._n_head_bytes = 0
        self._n_body_bytes_left -= len(body)

    def on_message_complete(self) -> None:
        """The whole request has arrived."""
        super().on_message_complete()
        self._receiving = None
        self._settle()

    def on_response_complete(self) -> None:
        """A request is answered: the next one begins, if it has been read already."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        self._settle()
        if self._must_hold():
            return
        self.flow.holds = False
        if self._held:
            held, self._held = self._held, b""
            self.data_received(held)
        self.flow.resume_reading()


def _error_response(status: int, reason: str) -> bytes:
    """A response that closes the connection."""
    body = json.dumps({"error": reason}).encode()
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\nx-content-type-options: nosniff\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body
