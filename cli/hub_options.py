"""Options of every command that is given a bundle which may be on the Hub."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from amalgam_edge.cli.extras import quiet_libraries


def with_hub_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--revision`` and ``--offline`` to a command, which gets both as ``hub``.

    The token is none of them: command lines are seen by all users of a machine.
    """

    @click.option("--revision", metavar="NAME", help="Branch, tag or commit of a bundle on the Hub.  [default: main]")
    @click.option("--offline", is_flag=True, help="Take a bundle of the Hub from its cache, and ask the Hub nothing.")
    @wraps(command)
    def with_hub(*arguments: Any, revision: str | None, offline: bool, **options: Any) -> Any:
        quiet_libraries()
        given = {"revision": revision, "local_files_only": offline}
        return command(*arguments, hub={name: value for name, value in given.items() if value}, **options)

    return with_hub
