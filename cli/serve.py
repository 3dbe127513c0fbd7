"""``amalgam-edge serve``."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from amalgam_edge.cli.hub_options import with_hub_options
from amalgam_edge.cli.model_options import with_cascade, with_device, with_precision, with_threads
from amalgam_edge.cli.output import show_line
from amalgam_edge.errors import AmalgamError, needs_extra
from amalgam_edge.serving.limits import Limits
from amalgam_edge.serving.signals import prepare_for_signals

if TYPE_CHECKING:
    from amalgam_edge.runtime.hub import HubOptions

DEFAULTS = Limits()
_limit = partial(click.option, show_default=True)


@click.command("serve")
@click.argument("bundles", nargs=-1, required=True, metavar="[NAME=]BUNDLE...")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 is all of them.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0 takes a free one.")
@click.option("--api-key-file", type=click.Path(), help="File of API keys, one on each line; requests must carry one.")
@click.option("--cors", multiple=True, metavar="ORIGIN", help="Allow web pages of this origin; may be repeated.")
@click.option(
    "--allow-host", multiple=True, metavar="NAME", help="Answer requests for this host name, too; may be repeated."
)
@click.option("--in-browser", is_flag=True, help="Let the page run models in the browser; downloads libraries once.")
@click.option("--watch", is_flag=True, help="Look for new versions of bundles every second; SIGHUP looks once.")
@_limit(
    "--max-wait-ms",
    type=click.FloatRange(0, 1000),
    default=DEFAULTS.wait_ms,
    help="Longest time that a text waits to share a batch.",
)
@_limit("--batch-tokens", type=click.IntRange(1), default=DEFAULTS.batch_tokens, help="Most tokens in a batch.")
@_limit(
    "--max-queue",
    type=click.IntRange(1),
    default=DEFAULTS.queue,
    help="Most texts that wait; requests beyond that get status 503.",
)
@_limit("--max-texts", type=click.IntRange(1), default=DEFAULTS.texts, help="Most texts in a request.")
@_limit("--max-characters", type=click.IntRange(1), default=DEFAULTS.characters, help="Most characters in a text.")
@_limit(
    "--max-body-mb", type=click.FloatRange(0.001), default=DEFAULTS.body_bytes / 1e6, help="Largest size of a request."
)
@_limit("--deadline", type=click.FloatRange(0.01), default=DEFAULTS.seconds, help="Most seconds for a request.")
@_limit(
    "--max-connections",
    type=click.IntRange(1),
    default=DEFAULTS.connections,
    help="Most open connections; for one more, the longest idle one is closed.",
)
@_limit(
    "--max-inflight-mb",
    type=click.FloatRange(0.001),
    default=DEFAULTS.inflight_bytes / 1e6,
    help="Largest size of all requests that wait for an answer.",
)
@_limit(
    "--keep-alive",
    type=click.FloatRange(0.01),
    default=DEFAULTS.idle_seconds,
    help="Most seconds that a connection stays open without a request.",
)
@with_precision
@with_threads
@with_device
@with_cascade
@with_hub_options
def command(
    bundles: tuple[str, ...],
    host: str,
    port: int,
    api_key_file: str | None,
    cors: tuple[str, ...],
    allow_host: tuple[str, ...],
    in_browser: bool,
    watch: bool,
    max_wait_ms: float,
    batch_tokens: int,
    max_queue: int,
    max_texts: int,
    max_characters: int,
    max_body_mb: float,
    deadline: float,
    max_connections: int,
    max_inflight_mb: float,
    keep_alive: float,
    precision: str | None,
    threads: int | None,
    device: str,
    cascade: bool | None,
    hub: HubOptions,
) -> None:
    """Answer HTTP requests with one or more bundles.

    A web page is at /. Clients of Hugging Face's inference API post to / or to /models/NAME, clients of the Open
    Inference Protocol to /v2/models/NAME/infer. /docs describes the API, /metrics is for Prometheus. Requests that name
    no bundle are answered by the first. A bundle without a name has that of its folder. One of the Hub is
    served at the commit that main, or --revision, was at when the server started. Ctrl-C ends the server once the
    requests that are running are answered.

    \b
    Examples:
      amalgam-edge serve student/
      amalgam-edge serve debian=student/ tickets=other/ --port 9000 --watch
      amalgam-edge serve student/ --host 0.0.0.0 --api-key-file keys.txt --cors https://example.org
    """  # noqa: D301  (click reads \b as "do not rewrap")
    prepare_for_signals()
    with needs_extra("serve", "serving"):
        from amalgam_edge.browser.libraries import get_libraries
        from amalgam_edge.serving.admission import AccessControl
        from amalgam_edge.serving.api_keys import read_key_file
        from amalgam_edge.serving.models import LoadOptions
        from amalgam_edge.serving.server import ServerSettings, run_server
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    limits = Limits(
        body_bytes=round(max_body_mb * 1e6),
        texts=max_texts,
        characters=max_characters,
        queue=max_queue,
        seconds=deadline,
        wait_ms=max_wait_ms,
        batch_tokens=batch_tokens,
        connections=max_connections,
        inflight_bytes=round(max_inflight_mb * 1e6),
        idle_seconds=keep_alive,
    )
    settings = ServerSettings(
        host=host,
        port=port,
        watch=watch,
        load_options=LoadOptions(precision=precision, threads=threads, cascade=cascade, device=device, hub=hub),
        limits=limits,
        access=AccessControl(
            api_keys=read_key_file(api_key_file) if api_key_file is not None else (),
            key_file=api_key_file,
            allowed_origins=cors,
            allowed_hosts=allow_host,
        ),
        browser_libraries=get_libraries(_to_stderr) if in_browser else None,
    )
    run_server(_named_folders(bundles), settings, notify=_to_stderr)


def _to_stderr(line: str) -> None:
    show_line(line, err=True)


def _named_folders(bundles: tuple[str, ...]) -> dict[str, str]:
    """Name → folder, in the order given."""
    folders: dict[str, str] = {}
    for bundle in bundles:
        name, equals, folder = bundle.partition("=")
        if not equals:
            name, folder = Path(bundle).resolve().name, bundle
        if not name or not name.replace("-", "").replace("_", "").replace(".", "").isalnum():
            raise AmalgamError(
                f"'{name}' is no name for a bundle: letters, digits, '.', '-' and '_'; give NAME={folder}"
            )
        if name in folders:
            raise AmalgamError(f"two bundles are called '{name}': give one of them another name, NAME={folder}")
        folders[name] = folder
    return folders
