"""``amalgam-edge doctor``."""

from __future__ import annotations

import platform
import sys

import click

from amalgam_edge import environment


@click.command("doctor")
def command() -> None:
    """Show versions, runtimes and CPU features; exit status 1 if something is wrong with them.

    \b
    Example:
      amalgam-edge doctor
    """  # noqa: D301  (click reads \b as "do not rewrap")
    click.echo(f"python            {platform.python_version()} on {platform.platform()}")
    for package, version in environment.package_versions().items():
        click.echo(f"{package:<17} {version or '–'}")
    click.echo(f"providers         {', '.join(environment.execution_providers()) or '–'}")
    click.echo(f"CPU features      {', '.join(environment.cpu_features()) or 'none that matter'}")
    found = environment.problems()
    for problem in found:
        click.echo(f"problem: {problem}", err=True)
    if found:
        sys.exit(1)
    click.echo("no problem found")
