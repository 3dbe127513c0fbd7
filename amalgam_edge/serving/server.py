"""A server's life: bundles opened, signals heeded, bundles swapped, requests finished."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import uvicorn

from amalgam_edge.errors import AmalgamError
from amalgam_edge.serving.app import Access, create_app
from amalgam_edge.serving.limits import Limits
from amalgam_edge.serving.metrics import Metrics
from amalgam_edge.serving.models import Models, Options

_WATCH_SECONDS = 1.0
_BACKLOG = 2048


@dataclass(frozen=True)
class ServerSettings:
    """How to serve.

    Attributes:
        host: to listen on.
        port: to listen on; 0 takes any that is free.
        watch: whether to look for new versions of bundles every second.
        connections: the most that are open at a time.
        shutdown_seconds: that requests in flight have after SIGTERM.
        options: how bundles are opened.
        limits: of requests.
        access: who may ask.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    watch: bool = False
    connections: int = 2048
    shutdown_seconds: int = 30
    options: Options = field(default_factory=Options)
    limits: Limits = field(default_factory=Limits)
    access: Access = field(default_factory=Access)


def run(folders: dict[str, str], settings: ServerSettings, say: Callable[[str], None] = lambda line: None) -> None:
    """:func:`serve` on the fastest event loop that is installed."""
    with asyncio.Runner(loop_factory=uvicorn.Config("").get_loop_factory()) as runner:
        runner.run(serve(folders, settings, say))


async def serve(
    folders: dict[str, str], settings: ServerSettings, say: Callable[[str], None] = lambda line: None
) -> None:
    """Serve bundles until SIGTERM or SIGINT; then finish what is in flight. SIGHUP looks for new versions of bundles.

    Args:
        folders: name → folder of a bundle.
        settings: of the server.
        say: told where it listens, and what came of new versions.

    Raises:
        AmalgamError: a bundle cannot be opened, or the address cannot be listened on.
    """
    metrics = Metrics()
    models = Models(folders, settings.options, settings.limits, metrics)
    await models.load()
    listening = listen(settings.host, settings.port)
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(models, settings.limits, metrics, settings.access),
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # nothing here depends on who a proxy says the client is
            lifespan="off",
            limit_concurrency=settings.connections,
            timeout_graceful_shutdown=settings.shutdown_seconds,
        ),
    )
    loop = asyncio.get_running_loop()
    for name in ("SIGTERM", "SIGINT"):  # uvicorn raises what it caught once more when all is done: that is the end
        signal.signal(getattr(signal, name), lambda number, frame: None)
    reloader = asyncio.create_task(_reload(models, loop, say, watch=settings.watch))
    say(f"{', '.join(models.names)} at {url_of(listening)} (its API: {url_of(listening)}/docs)")
    try:
        await server.serve(sockets=[listening])
    finally:
        reloader.cancel()
        await models.close()


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        AmalgamError: there is no such address here, it is taken, or it may not be used.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        # Connections inherit it. Event loops set it only where a socket names its protocol, which create_server's do
        # not; without it the head of an answer waits 40 ms for the client to acknowledge it before the body follows.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listening
    except OSError as error:
        raise AmalgamError(f"cannot listen on {host}, port {port} ({error.strerror}): name another --port") from error


def url_of(listening: socket.socket) -> str:
    """Where a socket is reached."""
    host, port, *_ = listening.getsockname()
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


async def _reload(models: Models, loop: asyncio.AbstractEventLoop, say: Callable[[str], None], *, watch: bool) -> None:
    asked = asyncio.Event()
    if hasattr(signal, "SIGHUP"):
        loop.add_signal_handler(signal.SIGHUP, asked.set)
    while True:
        with suppress(TimeoutError):
            await asyncio.wait_for(asked.wait(), _WATCH_SECONDS if watch else None)
        asked.clear()
        for name, said in (await models.reload()).items():
            say(f"{name}: {said}")
