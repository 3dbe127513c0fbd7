"""The server's process: load bundles, listen, handle signals, reload bundles, finish requests before the end."""

from __future__ import annotations

import asyncio
import signal
import socket
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import FrameType

import uvicorn

try:
    import resource
except ImportError:  # on Windows, which has no such limits
    resource = None  # type: ignore[assignment]

from amalgam_edge.errors import AmalgamError
from amalgam_edge.progress import Say
from amalgam_edge.serving.admission import AccessControl
from amalgam_edge.serving.app import create_app
from amalgam_edge.serving.connections import RESERVED_CONNECTIONS, ConnectionTable
from amalgam_edge.serving.limits import Limits
from amalgam_edge.serving.metrics import ServerMetrics
from amalgam_edge.serving.models import LoadOptions, ModelRegistry
from amalgam_edge.serving.origins import known_hosts
from amalgam_edge.serving.signals import prepare_for_signals
from amalgam_edge.serving.supervision import supervise

_WATCH_SECONDS = 1.0
_BACKLOG = 2048
_SEND_BUFFER = 262_144  # bytes of responses that the system keeps for a connection
_OTHER_FILES = 128  # that are open besides connections: models, libraries, the event loop's own


@dataclass(frozen=True)
class ServerSettings:
    """How to serve.

    Attributes:
        host: Address to listen on.
        port: Port to listen on; 0 for any free one.
        watch: Whether to look for new versions of the bundles every second.
        shutdown_seconds: Time that requests get to finish after SIGTERM.
        load_options: How bundles are loaded.
        limits: Limits of requests.
        access: Who may send requests.
        browser_libraries: Folder of the JavaScript libraries with which the page runs models in the browser; None if
            models run on the server only.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    watch: bool = False
    shutdown_seconds: int = 30
    load_options: LoadOptions = field(default_factory=LoadOptions)
    limits: Limits = field(default_factory=Limits)
    access: AccessControl = field(default_factory=AccessControl)
    browser_libraries: Path | None = None


def run_server(folders: dict[str, str], settings: ServerSettings, notify: Say = lambda line: None) -> None:
    """:func:`serve` on the fastest event loop that is installed."""
    prepare_for_signals()
    with asyncio.Runner(loop_factory=uvicorn.Config("").get_loop_factory()) as runner:
        runner.run(serve(folders, settings, notify))


async def serve(folders: dict[str, str], settings: ServerSettings, notify: Say = lambda line: None) -> None:
    """Serve bundles until SIGTERM or SIGINT, then finish the requests that are running.

    SIGHUP looks for new versions of the bundles.

    Args:
        folders: Name → folder of a bundle.
        settings: How to serve.
        notify: Called with the server's address, and with the result of each reload.

    Raises:
        AmalgamError: A bundle cannot be loaded, or the address cannot be listened on.
    """
    reload_requested = _reload_request_on_sighup()
    metrics = ServerMetrics()
    models = ModelRegistry(folders, settings.load_options, settings.limits, metrics)
    await models.load()
    listening_socket = listen(settings.host, settings.port)
    connections = ConnectionTable(
        replace(settings.limits, connections=_possible_connections(settings.limits.connections)),
        count_refusal=lambda status: metrics.count_request("other", status, 0.0),
        count_closed=metrics.count_closed_connection,
    )
    metrics.watch_connections(lambda: len(connections))
    connections.watch()
    app = create_app(
        models,
        settings.limits,
        metrics,
        settings.access,
        browser_libraries=settings.browser_libraries,
        host_names=known_hosts(settings.host, settings.access.allowed_hosts),
        is_full=lambda: connections.is_full,
    )
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # nothing here depends on who a proxy says the client is
            lifespan="off",
            http=connections.create_protocol,
            timeout_graceful_shutdown=settings.shutdown_seconds,
        ),
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn handles signals from its start to its end, and then raises those that came once more.
        signal.signal(number, server.handle_exit)
    reloader = supervise(
        "reloading",
        partial(_reload_on_request, models, notify, reload_requested, watch=settings.watch),
        partial(setattr, models, "reloading_fault"),
    )
    url = url_of(listening_socket)
    notify(f"{', '.join(models.names)} at {url} (its API: {url}/docs)")
    try:
        await server.serve(sockets=[listening_socket])
    finally:
        reloader.cancel()
        await models.close()


def _possible_connections(wanted: int) -> int:
    """How many connections the limit of open files allows, which is raised as far as it may be."""
    if resource is None:
        return wanted
    needed = wanted + RESERVED_CONNECTIONS + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return max(1, min(wanted, allowed - RESERVED_CONNECTIONS - _OTHER_FILES))


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        AmalgamError: The address does not exist here, is in use, or may not be used.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening_socket = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        # Connections inherit this option. Event loops set it only on sockets that name their protocol, which those of
        # create_server do not. Without it a response's body waits 40 ms for the client to acknowledge the headers.
        listening_socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # The system would keep up to some megabytes for each client that does not read.
        listening_socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        return listening_socket
    except OSError as error:
        raise AmalgamError(f"cannot listen on {host}, port {port} ({error.strerror}): name another --port") from error


def url_of(listening_socket: socket.socket) -> str:
    """The URL under which a listening socket is reached."""
    host, port, *_ = listening_socket.getsockname()
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _reload_request_on_sighup() -> asyncio.Event:
    """An event that SIGHUP sets from now on.

    The handler stays until the process ends. One of the event loop's own would go with the loop, and the last SIGHUP
    would kill the process.
    """
    requested = asyncio.Event()
    loop = asyncio.get_running_loop()

    def request(number: int, frame: FrameType | None) -> None:
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(requested.set)

    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, request)
    return requested


async def _reload_on_request(models: ModelRegistry, notify: Say, requested: asyncio.Event, *, watch: bool) -> None:
    """Look once for new versions of the bundles, when that is requested, or after a second if ``watch``."""
    with suppress(TimeoutError):
        await asyncio.wait_for(requested.wait(), _WATCH_SECONDS if watch else None)
    requested.clear()
    for name, message in (await models.reload()).items():
        notify(f"{name}: {message}")
