"""Connections within limits: a real server of a small application. No test waits for a deadline."""

from __future__ import annotations

import asyncio
import json

import pytest
import uvicorn

from amalgam_edge.serving import connections as connections_module
from amalgam_edge.serving.connections import RESERVED_CONNECTIONS, ConnectionTable
from amalgam_edge.serving.limits import Limits
from amalgam_edge.serving.server import listen

GET = b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\n"


class Application:
    """Answers with the length of the body and the path, once ``go`` is set; to /big… with five megabytes."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.go.set()
        self.paths: list[str] = []
        self.headers: list[tuple[bytes, bytes]] = []
        self.gone = 0

    async def __call__(self, scope, receive, send):
        self.paths.append(scope["path"])
        n_bytes, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.gone += 1
                return
            n_bytes += len(message["body"])
            more = message["more_body"]
        self.headers = scope["headers"]
        await self.go.wait()
        body = bytes(5 * 10**6) if scope["path"].startswith("/big") else f"{n_bytes} {scope['path']}".encode()
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class Scene:
    """A running server: its table of connections, what it counted, and connections to it."""

    def __init__(self, limits: Limits) -> None:
        self.refusals: list[int] = []
        self.closed: list[str] = []
        self.table = ConnectionTable(limits, self.refusals.append, self.closed.append)
        self.application = Application()
        self.loop = asyncio.get_running_loop()

    async def connect(self, sent: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        number = len(self.table)
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=2**24)
        writer.write(sent)
        if not sent:
            await until(lambda: len(self.table) != number)
        return reader, writer

    async def ask(self, path: str = "/") -> bytes:
        reader, writer = await self.connect(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
        return answer

    def later(self, seconds: float) -> None:
        """Check the deadlines as they are in some seconds."""
        for connection in [*self.table._open]:
            connection.check_deadlines(self.loop.time() + seconds)


async def rest(reader):
    """What is still to come; nothing if the connection was reset."""
    try:
        return await reader.read()
    except ConnectionError:
        return b""


async def until(condition):
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


def play(scenario, **limits):
    """Run ``scenario(scene)`` while the server runs."""

    async def main():
        scene = Scene(Limits(**limits))
        with listen("127.0.0.1", 0) as listening:
            scene.port = listening.getsockname()[1]
            config = uvicorn.Config(
                scene.application,
                log_config=None,
                lifespan="off",
                http=scene.table.create_protocol,
                timeout_graceful_shutdown=1,
            )
            server = uvicorn.Server(config)
            serving = asyncio.create_task(server._serve([listening]))
            await until(lambda: server.started)
            try:
                async with asyncio.timeout(60):
                    await scenario(scene)
            finally:
                server.should_exit = True
                scene.application.go.set()
                await serving

    for loop_factory in (uvicorn.Config("").get_loop_factory(), asyncio.new_event_loop):
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(main())


def test_pipelined_requests_are_answered_in_order_and_read_one_at_a_time():
    async def scenario(scene):
        scene.application.go.clear()
        reader, writer = await scene.connect(b"".join(GET % k for k in range(5000)))
        await until(lambda: scene.application.paths)
        (connection,) = scene.table._open
        await until(lambda: connection._held)
        assert len(connection.pipeline) <= 256 // len(GET)
        assert len(connection._held) <= 16_384
        assert scene.application.paths == ["/0"]
        scene.application.go.set()
        answer = b""
        while not answer.endswith(b"0 /4999"):
            answer += await reader.read(2**20)
        assert scene.application.paths == [f"/{k}" for k in range(5000)]
        assert answer.count(b"HTTP/1.1 200 OK") == 5000
        writer.close()

    play(scenario)


def test_a_body_behind_a_request_that_is_being_answered_is_not_read():
    async def scenario(scene):
        scene.application.go.clear()
        _, writer = await scene.connect(GET % 0 + POST + b"Content-Length: 1000000000\r\n\r\n")
        await until(lambda: scene.application.paths)
        writer.write(bytes(10**7))
        (connection,) = scene.table._open
        await until(lambda: connection.flow.read_paused)
        for _ in range(50):
            await asyncio.sleep(0)
        assert len(connection._held) + len(connection.cycle.body) <= 2 * 16_384
        writer.close()

    play(scenario)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"x: y\r\n" * 100 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\nx: " + b"y" * 40_000, 431),
        (b"GET /" + b"y" * 40_000, 431),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n" + b"x: y\r\n" * 200, 431),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nx: " + b"y" * 40_000, 431),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n1;" + b"y" * 40_000, 431),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 65_537, 413),
        (POST + b"Transfer-Encoding: chunked\r\n\r\nZ", 400),
        (POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nx", 400),
        (POST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\nx", 400),
        (POST + b"Content-Length: 5\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\nhello", 400),
        (b"CONNECT x:80 HTTP/1.1\r\nHost: x:80\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"GET /\x00 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    ],
)
def test_what_is_no_request_within_limits_is_refused_with_a_reason(sent, status):
    async def scenario(scene):
        reader, writer = await scene.connect(sent)
        answer = await reader.read()
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 %d " % status)
        assert json.loads(body)["error"]
        assert scene.refusals == [status]
        assert (await scene.ask()).startswith(b"HTTP/1.1 200")
        writer.close()

    play(scenario)


def test_heads_and_headers_within_the_limits_are_read():
    async def scenario(scene):
        head = b"GET / HTTP/1.1\r\nHost: x\r\n" + b"x: y\r\n" * 98 + b"x: " + b"y" * 30_000
        reader, writer = await scene.connect(head + b"\r\nConnection: close\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 431")  # 101 headers
        reader, writer = await scene.connect(head + b"\r\n\r\n")
        assert (await reader.readuntil(b"0 /")).startswith(b"HTTP/1.1 200")
        writer.close()

    play(scenario)


def test_a_refused_request_waits_for_those_before_it():
    async def scenario(scene):
        scene.application.go.clear()
        reader, _ = await scene.connect(GET % 1 + b"nonsense\r\n\r\n")
        await until(lambda: scene.application.paths)
        scene.application.go.set()
        assert (await reader.read()).endswith(b"\r\n\r\n0 /1")  # and then the connection is closed

    play(scenario)


def test_trailers_do_not_become_headers():
    async def scenario(scene):
        chunks = b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nauthorization: Bearer x\r\n\r\n"
        reader, writer = await scene.connect(POST + chunks)
        assert (await reader.readuntil(b"3 /")).startswith(b"HTTP/1.1 200")
        assert [name for name, _ in scene.application.headers] == [b"host", b"transfer-encoding"]
        writer.close()

    play(scenario)


def test_an_upgrade_is_not_made_and_the_request_answered():
    async def scenario(scene):
        upgrade = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n"
        reader, _ = await scene.connect((GET % 1)[:-2] + upgrade)
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 200")
        assert answer.endswith(b"0 /1")

    play(scenario)


@pytest.mark.parametrize(
    ("sent", "seconds", "answer"),
    [
        (b"", 30, b""),
        (b"\r\n\r\n", 30, b""),
        (b"GET / HT", 30, b"HTTP/1.1 408"),
        (POST + b"Content-Length: 9\r\n\r\nx", 30, b"HTTP/1.1 408"),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n", 30, b"HTTP/1.1 408"),
    ],
)
def test_a_request_must_arrive_in_time(sent, seconds, answer):
    async def scenario(scene):
        reader, writer = await scene.connect()
        writer.write(sent)
        (connection,) = scene.table._open
        expected = "body" if sent.startswith(POST) else "head" if sent.startswith(b"GET") else None
        await until(lambda: connection._receiving == expected)
        scene.later(seconds - 1)
        assert not connection.transport.is_closing()
        scene.later(seconds + 1)
        assert (await rest(reader)).startswith(answer)
        if sent.startswith(POST):
            await until(lambda: scene.application.gone == 1)

    play(scenario)


def test_a_connection_without_further_requests_is_closed_in_time():
    async def scenario(scene):
        reader, _ = await scene.connect(GET % 1)
        await reader.readuntil(b"0 /1")
        (connection,) = scene.table._open
        scene.later(74)
        assert not connection.transport.is_closing()
        scene.later(76)
        assert await reader.read() == b""
        assert scene.closed == []  # its client was not slow

    play(scenario)


def test_a_response_must_be_taken_in_time():
    async def scenario(scene):
        request = b"GET /big%d HTTP/1.1\r\nHost: x\r\n\r\n"
        _, writer = await scene.connect(b"".join(request % k for k in range(100)))
        writer.transport.pause_reading()
        await until(lambda: [c for c in scene.table._open if c.flow.write_paused])
        scene.later(0)
        scene.later(29)
        assert len(scene.table) == 1
        scene.later(31)
        assert scene.closed == ["slow"]
        await until(lambda: not scene.table._open)
        writer.close()

    play(scenario)


def test_responses_that_nobody_takes_have_a_bound_together():
    async def scenario(scene):
        streams = []
        for _ in range(8):
            reader, writer = await scene.connect(b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n" * 20)
            writer.transport.pause_reading()
            streams.append((reader, writer))
        await until(lambda: len([c for c in scene.table._open if c.flow.write_paused]) == 8)
        unsent = {c: c.n_unsent for c in scene.table._waiting}
        scene.table.watch()
        kept = [c for c in unsent if c in scene.table._open]
        assert 0 < len(kept) < 8
        assert sum(unsent[c] for c in kept) <= 20_000_000
        assert [*unsent][-len(kept) :] == kept  # those that stalled last
        for _, writer in streams:
            writer.close()

    play(scenario, inflight_bytes=20_000_000)


def test_one_connection_too_many_closes_the_one_that_has_waited_longest():
    async def scenario(scene):
        streams = [await scene.connect() for _ in range(3)]
        first, _, third = scene.table._waiting
        streams[0][1].write(GET % 1)
        await streams[0][0].readuntil(b"0 /1")  # so that the second one has waited longest
        assert (await scene.ask()).startswith(b"HTTP/1.1 200")
        assert await streams[1][0].read() == b""
        assert {first, third} <= scene.table._open
        assert scene.closed == ["full"]
        for _, writer in streams:
            writer.close()

    play(scenario, connections=3)


def test_when_all_are_being_answered_some_places_are_kept_free():
    async def scenario(scene):
        scene.application.go.clear()
        streams = [await scene.connect(GET % k) for k in range(3)]
        await until(lambda: len(scene.application.paths) == 3)
        assert not scene.table.is_full
        for k in range(RESERVED_CONNECTIONS):
            streams.append(await scene.connect(GET % (3 + k)))
        await until(lambda: len(scene.application.paths) == 3 + RESERVED_CONNECTIONS)
        assert scene.table.is_full
        reader, _ = await scene.connect(GET % 99)
        assert await rest(reader) == b""
        assert scene.closed == ["full"]
        scene.application.go.set()
        for reader, writer in streams:
            await reader.readuntil(b"HTTP/1.1 200 OK")
            writer.close()

    play(scenario, connections=3)


def test_deadlines_are_checked_every_second(monkeypatch):
    async def scenario(scene):
        monkeypatch.setattr(connections_module, "_SWEEP_SECONDS", 0.001)
        reader, _ = await scene.connect()
        scene.table.watch()
        assert await reader.read() == b""

    play(scenario, receive_seconds=0.0)
