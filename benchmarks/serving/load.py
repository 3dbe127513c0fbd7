"""HTTP load from a process of its own: clients that each wait for their answer, or requests at a given rate.

    python benchmarks/load.py closed URL BODIES --clients 32 --seconds 10
    python benchmarks/load.py open URL BODIES --rate 200 --seconds 10

BODIES is a JSON list of request bodies, taken in turn. Written is a JSON object: for each status the latencies in
seconds, with 0 for a connection that failed. A rate's requests begin when they are due, whatever became of those before
them, and their latency counts from then (no coordinated omission); connections are kept and used again.
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

FAILED = 0
_MOST_CONNECTIONS = 1500


class Connection(asyncio.Protocol):
    """A connection that is kept: one request at a time, of which the status is told."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[int] | None = None
        self._come = bytearray()

    @property
    def alive(self) -> bool:
        """Whether it can be used again."""
        return self._transport is not None and not self._transport.is_closing()

    async def ask(self, request: bytes) -> int:
        """Send a request, and return the status of its answer."""
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        """End it."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It stands."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Some of an answer has come."""
        self._come += data
        end = self._come.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self._come[:end]).lower()
        length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
        if len(self._come) < end + 4 + length:
            return
        self._come.clear()
        if b"connection: close" in head:
            self.close()
        if self._answer and not self._answer.done():
            self._answer.set_result(int(head[9:12]))

    def connection_lost(self, exc: Exception | None) -> None:
        """It has ended."""
        self._transport = None
        if self._answer and not self._answer.done():
            self._answer.set_result(FAILED)


def requests_of(url: str, bodies: list[str]) -> tuple[str, int, Iterator[bytes]]:
    """Host, port, and requests without end."""
    parts = urlsplit(url)
    path = parts.path or "/"
    made = []
    for body in bodies:
        content = body.encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(content)}\r\n\r\n"
        )
        made.append(head.encode() + content)
    return str(parts.hostname), int(parts.port or 80), cycle(made)


async def closed(url: str, bodies: list[str], n_clients: int, seconds: float) -> dict[int, list[float]]:
    """Clients that ask anew as soon as they are answered."""
    host, port, requests = requests_of(url, bodies)
    loop = asyncio.get_running_loop()
    latencies: dict[int, list[float]] = defaultdict(list)
    end = monotonic() + seconds

    async def client() -> None:
        connection = None
        while (began := monotonic()) < end:
            if connection is None or not connection.alive:
                _, connection = await loop.create_connection(Connection, host, port)
            latencies[await connection.ask(next(requests))].append(monotonic() - began)
        if connection is not None:
            connection.close()

    await asyncio.gather(*(client() for _ in range(n_clients)))
    return latencies


async def opened(url: str, bodies: list[str], rate: float, seconds: float) -> dict[int, list[float]]:
    """Requests at a rate, at times that are chance (Poisson)."""
    host, port, requests = requests_of(url, bodies)
    loop = asyncio.get_running_loop()
    latencies: dict[int, list[float]] = defaultdict(list)
    idle: list[Connection] = []
    running: set[asyncio.Task[None]] = set()
    rng = random.Random(0)

    async def one(due: float) -> None:
        status, connection = FAILED, None
        try:
            while idle and not (connection := idle.pop()).alive:
                connection = None
            if connection is None:
                _, connection = await loop.create_connection(Connection, host, port)
            status = await connection.ask(next(requests))
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
            task = asyncio.create_task(one(due))
            running.add(task)
            task.add_done_callback(running.discard)
        due += rng.expovariate(rate)
    await asyncio.gather(*running)
    for connection in idle:
        connection.close()
    return latencies


def main() -> None:
    """Ask, and write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["closed", "open"])
    parser.add_argument("url")
    parser.add_argument("bodies", type=Path)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--rate", type=float, help="requests a second")
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    bodies = json.loads(options.bodies.read_text("utf-8"))
    if options.kind == "closed":
        asked = closed(options.url, bodies, options.clients, options.seconds)
    else:
        asked = opened(options.url, bodies, options.rate, options.seconds)
    try:
        import uvloop

        run = uvloop.run
    except ImportError:
        run = asyncio.run
    json.dump(run(asked), sys.stdout)


if __name__ == "__main__":
    main()
