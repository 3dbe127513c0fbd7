"""Attacks on a server that has 512 MiB: honest clients are answered, during and after, and memory stays bounded."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

resource = pytest.importorskip("resource", reason="this system limits no process")

pytestmark = [
    pytest.mark.hostile,
    pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA limits a process's memory on Linux only"),
]

MEMORY = 512 * 2**20  # RLIMIT_DATA: what the process may allocate, be it used or not
GROWTH = 224 * 2**20  # of resident memory, from the start to the peak
CONNECTIONS = 2048  # the server's limit
IN_LITTLE_MEMORY = f"""
import resource
resource.setrlimit(resource.RLIMIT_DATA, ({MEMORY}, {MEMORY}))
from amalgam_edge.cli.main import main
main()
"""
SECONDS = 10  # after which a client that waits gives up


@dataclass
class Victim:
    """A server's process, its port, and the file with its output."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path
    resident_at_start: int

    def ask(
        self, method: str, path: str, body: bytes | None = None, *, source: str = "127.0.0.1", **headers: str
    ) -> int:
        """The status of a request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS, source_address=(source, 0))
        with contextlib.closing(connection):
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            response = connection.getresponse()
            response.read()
            return response.status

    def memory(self, name: str) -> int:
        """Bytes of memory, by the name that Linux gives them."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith(name)).split()[1]) * 1024

    def check(self) -> None:
        """Honest clients are answered, health says 200, and memory is bounded."""
        assert self.process.poll() is None, self.log.read_text()[-2000:]
        for _ in range(5):
            assert self.ask("POST", "/", json.dumps({"inputs": ["a game", "a map"]}).encode()) == 200
            assert self.ask("GET", "/v2/health/ready") == 200
            assert self.ask("GET", "/v2/health/live") == 200
            assert self.ask("GET", "/metrics") == 200
        assert self.memory("VmHWM") - self.resident_at_start < GROWTH

    def connect(self) -> socket.socket:
        """A connection that sends and receives what it can without waiting."""
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(SECONDS)
        connection.connect(("127.0.0.1", self.port))
        connection.setblocking(False)
        return connection


@contextlib.contextmanager
def running(folder: Path, bundle: Path, *arguments: str) -> Iterator[Victim]:
    log = folder / f"serve-{time.monotonic_ns()}.log"
    command = [sys.executable, "-c", IN_LITTLE_MEMORY, "serve", f"tiny={bundle}", "--port", "0", "--threads", "1"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, *arguments],
            stdout=output,
            stderr=output,
            cwd=folder,
        )
    try:
        for _ in range(1200):
            if " at http://" in log.read_text():
                break
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)
        port = int(log.read_text().split(" at http://127.0.0.1:")[1].split()[0])
        victim = Victim(process, port, log, 0)
        assert victim.ask("POST", "/", b'{"inputs": "x"}', authorization="Bearer the-key") == 200
        victim.resident_at_start = victim.memory("VmRSS")
        yield victim
    finally:
        process.kill()
        process.wait(30)


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory, bundle_folder: Path) -> Iterator[Victim]:
    """A server that all attacks hit, one after another."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = CONNECTIONS + 1000
    if soft != resource.RLIM_INFINITY and soft < needed:
        if hard != resource.RLIM_INFINITY and hard < needed:
            pytest.skip(f"this process may open {hard} files only")
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    with running(tmp_path_factory.mktemp("victim"), bundle_folder) as started:
        yield started


@contextlib.contextmanager
def attack(victim: Victim, n_connections: int, step: Callable[[int], bytes], n_bytes: int) -> Iterator[None]:
    """Send ``step(k)``, again and again, on each of many connections, and read nothing.

    The block is entered once every connection has sent ``n_bytes``, can send no more, or was closed; whatever can be
    sent further is sent meanwhile.

    Args:
        victim: The server.
        n_connections: Connections to open.
        step: The bytes that come after the first ``k`` bytes.
        n_bytes: Bytes to send on each connection.
    """
    in_place, stop = threading.Event(), threading.Event()

    def send_all() -> None:
        connections: dict[socket.socket, int] = {}
        with contextlib.ExitStack() as stack:
            for _ in range(n_connections):
                connections[stack.enter_context(victim.connect())] = 0
            while not stop.is_set():
                sent = sum(send_some(connections, connection, step, n_bytes) for connection in [*connections])
                if not sent:
                    in_place.set()
                if in_place.is_set():
                    stop.wait(0.05)  # the honest clients are threads of this process, too

    thread = threading.Thread(target=send_all)
    thread.start()
    try:
        in_place.wait(SECONDS)
        in_place.set()
        yield
    finally:
        stop.set()
        thread.join()


def send_some(
    connections: dict[socket.socket, int], connection: socket.socket, step: Callable[[int], bytes], n_bytes: int
) -> int:
    """Send what a connection takes now; the number of bytes."""
    done = connections[connection]
    if done >= n_bytes:
        return 0
    try:
        sent = connection.send(step(done)[: n_bytes - done])
    except BlockingIOError:
        return 0
    except OSError:  # closed
        connections[connection] = n_bytes
        return 0
    connections[connection] += sent
    return sent


def repeated(head: bytes, part: bytes) -> Callable[[int], bytes]:
    """``head`` and then ``part`` without an end."""
    block = part * (65_536 // len(part) + 1)
    return lambda done: head[done:] if done < len(head) else block[(done - len(head)) % len(part) :]


GET = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"

ATTACKS = {
    "pipelined requests, unread": (1, repeated(b"", GET), 11_000_000),
    "pipelined requests, unread, on many connections": (20, repeated(b"", GET), 1_000_000),
    "short pipelined requests": (200, repeated(b"", b"GET / HTTP/1.1\r\n\r\n"), 400_000),
    "endless headers": (40, repeated(GET[:-2], b"x: y\r\n"), 20_000_000),
    "an endless header": (40, repeated(GET[:-2] + b"x: ", b"y"), 20_000_000),
    "an endless address": (40, repeated(b"GET /", b"y"), 20_000_000),
    "endless trailers": (40, repeated(CHUNKED + b"1\r\nx\r\n0\r\n", b"x: y\r\n"), 20_000_000),
    "an endless trailer": (40, repeated(CHUNKED + b"1\r\nx\r\n0\r\nx: ", b"y"), 20_000_000),
    "tiny chunks": (8, repeated(CHUNKED, b"1\r\nx\r\n"), 3_000_000),
    "unfinished bodies": (200, repeated(POST + b"Content-Length: 3950000\r\n\r\n", b"x"), 3_900_000),
    "silent connections": (CONNECTIONS + 300, repeated(b"", b"x"), 0),
    "slow heads": (CONNECTIONS + 300, repeated(b"", GET), 20),
    "slow bodies": (CONNECTIONS + 300, repeated(POST + b"Content-Length: 1000\r\n\r\n", b"x"), 200),
    "slow readers": (
        CONNECTIONS + 300,
        repeated(b"", b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        100,
    ),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_honest_clients_are_answered_during_and_after(victim, name):
    n_connections, step, n_bytes = ATTACKS[name]
    with attack(victim, n_connections, step, n_bytes):
        victim.check()
    victim.check()


def test_a_gzip_bomb_is_refused(victim):
    bomb = gzip.compress(bytes(2**28))
    with contextlib.ExitStack() as stack:
        threads = []
        statuses: list[int] = []
        for _ in range(8):
            ask = lambda: statuses.append(victim.ask("POST", "/", bomb, content_encoding="gzip"))  # noqa: E731
            threads.append(threading.Thread(target=ask))
            threads[-1].start()
            stack.callback(threads[-1].join)
        victim.check()
    assert statuses == [413] * 8


def test_requests_that_are_no_requests_harm_nobody(victim):
    for raw in (
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"CONNECT evil:80 HTTP/1.1\r\nHost: evil:80\r\n\r\n",
        POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nhello",
        GET[:-2] + b"Host: other\r\n\r\n",
        GET[:-2] + b"x: \x00\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        POST + b"Content-Length: 99999999999999999999999\r\n\r\n",
    ):
        with socket.create_connection(("127.0.0.1", victim.port), SECONDS) as connection:
            connection.sendall(raw)
            answer = connection.recv(4096)
        assert answer.startswith(b"HTTP/1.1 4"), (raw, answer)
    with socket.create_connection(("127.0.0.1", victim.port), SECONDS) as connection:
        websocket = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n"
        connection.sendall(GET[:-2] + websocket)
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")  # as if it had not asked for more
    victim.check()


def test_whoever_guesses_keys_waits_and_others_do_not(tmp_path, bundle_folder):
    keys = tmp_path / "keys.txt"
    keys.write_text("the-key\n")
    with running(tmp_path, bundle_folder, "--api-key-file", str(keys)) as server:
        wrong = [server.ask("GET", "/info", source="127.0.0.3", authorization=f"Bearer guess-{k}") for k in range(300)]
        assert set(wrong[:10]) == {401}
        assert wrong[20:].count(429) > 200
        assert server.ask("GET", "/info", source="127.0.0.2", authorization="Bearer the-key") == 200  # elsewhere
        assert server.ask("GET", "/v2/health/ready", source="127.0.0.3") == 200
        assert 1 <= server.log.read_text().count("wrong API key") < 10
        assert "guess-" not in server.log.read_text()
