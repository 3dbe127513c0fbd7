"""Send HTTP load from a separate process: clients that wait for their answers, or requests at a given rate.

    python -m benchmarks.serving.load closed URL BODIES --clients 32 --seconds 10
    python -m benchmarks.serving.load open URL BODIES --rate 200 --seconds 10

BODIES is a JSON list of request bodies, taken in turn. The output is a JSON object with the latencies in seconds for
each status; status 0 is a connection that failed. At a given rate, a request is sent when it is due, whatever happened
to those before it, and its latency counts from then (no coordinated omission). Connections are kept and used again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
from collections import defaultdict
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from time import monotonic
from urllib.parse import urlsplit

FAILED = 0  # the status of a request whose connection failed
_MOST_CONNECTIONS = 1500


class Connection(asyncio.Protocol):
    """A connection that is kept open: it sends one request at a time and returns the status of the answer."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[int] | None = None
        self._received = bytearray()

    @property
    def alive(self) -> bool:
        """Whether the connection can be used again."""
        return self._transport is not None and not self._transport.is_closing()

    async def send(self, request: bytes) -> int:
        """Send a request and return the status of its answer."""
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport of the new connection."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Collect an answer, and report its status once it is complete."""
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self._received[:end]).lower()
        length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
        if len(self._received) < end + 4 + length:
            return
        self._received.clear()
        if b"connection: close" in head:
            self.close()
        if self._answer and not self._answer.done():
            self._answer.set_result(int(head[9:12]))

    def connection_lost(self, exc: Exception | None) -> None:
        """Report a pending request as failed."""
        self._transport = None
        if self._answer and not self._answer.done():
            self._answer.set_result(FAILED)


def requests_of(url: str, bodies: list[str]) -> tuple[str, int, Iterator[bytes]]:
    """Host, port, and an endless cycle of encoded requests."""
    parts = urlsplit(url)
    path = parts.path or "/"
    requests = []
    for body in bodies:
        content = body.encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(content)}\r\n\r\n"
        )
        requests.append(head.encode() + content)
    return str(parts.hostname), int(parts.port or 80), cycle(requests)


async def closed_loop(url: str, bodies: list[str], n_clients: int, seconds: float) -> dict[int, list[float]]:
    """Latencies by status with clients that each send a request as soon as the last one is answered."""
    host, port, requests = requests_of(url, bodies)
    loop = asyncio.get_running_loop()
    latencies: dict[int, list[float]] = defaultdict(list)
    end = monotonic() + seconds

    async def client() -> None:
        connection = None
        while (began := monotonic()) < end:
            if connection is None or not connection.alive:
                _, connection = await loop.create_connection(Connection, host, port)
            latencies[await connection.send(next(requests))].append(monotonic() - began)
        if connection is not None:
            connection.close()

    await asyncio.gather(*(client() for _ in range(n_clients)))
    return latencies


async def open_loop(url: str, bodies: list[str], rate: float, seconds: float) -> dict[int, list[float]]:
    """Latencies by status with requests at a rate, at random times (a Poisson process)."""
    host, port, requests = requests_of(url, bodies)
    loop = asyncio.get_running_loop()
    latencies: dict[int, list[float]] = defaultdict(list)
    idle: list[Connection] = []
    running: set[asyncio.Task[None]] = set()
    rng = random.Random(0)

    async def send_one(due: float) -> None:
        status, connection = FAILED, None
        try:
            while idle and not (connection := idle.pop()).alive:
                connection = None
            if connection is None:
                _, connection = await loop.create_connection(Connection, host, port)
            status = await connection.send(next(requests))
            if connection.alive:
                idle.append(connection)
        except OSError:
            pass
        latencies[status].append(monotonic() - due)

    due = monotonic()
    end = due + seconds
    while due < end:
        wait = due - monotonic()
        if wait > 0:
            await asyncio.sleep(wait)
        if len(running) < _MOST_CONNECTIONS:  # else this process, not the server, is what is being measured
            task = asyncio.create_task(send_one(due))
            running.add(task)
            task.add_done_callback(running.discard)
        due += rng.expovariate(rate)
    await asyncio.gather(*running)
    for connection in idle:
        connection.close()
    return latencies


def main() -> None:
    """Send the load, and write latencies as JSON on standard output."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["closed", "open"])
    parser.add_argument("url")
    parser.add_argument("bodies", type=Path)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--rate", type=float, help="requests per second")
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    bodies = json.loads(options.bodies.read_text("utf-8"))
    if options.kind == "closed":
        measured = closed_loop(options.url, bodies, options.clients, options.seconds)
    else:
        measured = open_loop(options.url, bodies, options.rate, options.seconds)
    try:
        import uvloop

        run = uvloop.run
    except ImportError:
        run = asyncio.run
    json.dump(run(measured), sys.stdout)


if __name__ == "__main__":
    main()
