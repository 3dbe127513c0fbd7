"""``amalgam-edge serve``."""

from __future__ import annotations

import logging
from pathlib import Path

import click

from amalgam_edge.errors import AmalgamError, needs_extra


@click.command("serve")
@click.argument("bundles", nargs=-1, required=True, metavar="[NAME=]BUNDLE...")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 is all of them.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0 takes a free one.")
@click.option("--api-key-file", type=click.Path(), help="File of API keys, a line a key; one of them must be given.")
@click.option("--cors", multiple=True, metavar="ORIGIN", help="Let pages of this origin ask; may be given again.")
@click.option("--in-browser", is_flag=True, help="Let the page run models in the browser; fetches libraries once.")
@click.option("--watch", is_flag=True, help="Look for new versions of bundles every second; SIGHUP looks once.")
@click.option(
    "--max-wait-ms",
    type=click.FloatRange(0, 1000),
    default=2.0,
    show_default=True,
    help="That a text waits for others to run beside.",
)
@click.option(
    "--batch-tokens", type=click.IntRange(1), default=2048, show_default=True, help="Tokens that run together."
)
@click.option(
    "--max-queue",
    type=click.IntRange(1),
    default=4096,
    show_default=True,
    help="Texts that wait; more are turned away with 503.",
)
@click.option("--max-texts", type=click.IntRange(1), default=1024, show_default=True, help="Texts in a request.")
@click.option(
    "--max-characters", type=click.IntRange(1), default=100_000, show_default=True, help="Characters of a text."
)
@click.option("--max-body-mb", type=click.FloatRange(0.001), default=4.0, show_default=True, help="Size of a request.")
@click.option(
    "--deadline", type=click.FloatRange(0.01), default=10.0, show_default=True, help="Seconds that a request may take."
)
@click.option("--precision", help="fp32 or int8.  [default: the bundle's own choice]")
@click.option("--threads", type=click.IntRange(min=1), help="Threads to compute with.  [default: one a core]")
@click.option(
    "--cascade/--no-cascade",
    default=None,
    help="Let the bundle's static student answer where it is sure.  [default: where the bundle has one]",
)
def command(
    bundles: tuple[str, ...],
    host: str,
    port: int,
    api_key_file: str | None,
    cors: tuple[str, ...],
    in_browser: bool,
    watch: bool,
    max_wait_ms: float,
    batch_tokens: int,
    max_queue: int,
    max_texts: int,
    max_characters: int,
    max_body_mb: float,
    deadline: float,
    precision: str | None,
    threads: int | None,
    cascade: bool | None,
) -> None:
    """Answer requests over HTTP with one bundle or several.

    A page stands at /. Clients of Hugging Face's inference API post to / or /models/NAME, those of the Open Inference
    Protocol below /v2/models/NAME; /docs has the rest, /metrics is for Prometheus. The first bundle is the one that /
    means. A bundle's name is its folder's where none is given. Ctrl-C ends it when requests in flight are answered.

    \b
    Examples:
      amalgam-edge serve student/
      amalgam-edge serve debian=student/ tickets=other/ --port 9000 --watch
      amalgam-edge serve student/ --host 0.0.0.0 --api-key-file keys.txt --cors https://example.org
    """  # noqa: D301  (click reads \b as "do not rewrap")
    with needs_extra("serve", "serving"):
        from amalgam_edge.serving import server
    from amalgam_edge.browser.libraries import get_libraries
    from amalgam_edge.serving.app import Access
    from amalgam_edge.serving.limits import Limits
    from amalgam_edge.serving.models import Options

    libraries = get_libraries(lambda line: click.echo(line, err=True)) if in_browser else None
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    settings = server.ServerSettings(
        host=host,
        port=port,
        watch=watch,
        options=Options(precision=precision, threads=threads, cascade=cascade),
        limits=Limits(
            body_bytes=round(max_body_mb * 1e6),
            texts=max_texts,
            characters=max_characters,
            queue=max_queue,
            seconds=deadline,
            wait_ms=max_wait_ms,
            batch_tokens=batch_tokens,
        ),
        access=Access(keys=_keys(api_key_file), origins=cors, libraries=libraries),
    )
    server.run(_named(bundles), settings, say=lambda line: click.echo(line, err=True))


def _named(bundles: tuple[str, ...]) -> dict[str, str]:
    """Name → folder, in the order given."""
    named: dict[str, str] = {}
    for bundle in bundles:
        name, equals, folder = bundle.partition("=")
        if not equals:
            name, folder = Path(bundle).resolve().name, bundle
        if not name or not name.replace("-", "").replace("_", "").replace(".", "").isalnum():
            raise AmalgamError(
                f"'{name}' is no name for a bundle: letters, digits, '.', '-' and '_'; give NAME={folder}"
            )
        if name in named:
            raise AmalgamError(f"two bundles are called '{name}': give one of them another name, NAME={folder}")
        named[name] = folder
    return named


def _keys(file: str | None) -> tuple[str, ...]:
    if file is None:
        return ()
    try:
        lines = Path(file).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise AmalgamError(f"{file}: cannot be read as a file of API keys") from error
    keys = tuple(line.strip() for line in lines if line.strip())
    if not keys:
        raise AmalgamError(f"{file}: holds no API key; write one a line")
    return keys
