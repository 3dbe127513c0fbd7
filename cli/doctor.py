"""``amalgam-edge doctor``."""

from __future__ import annotations

import platform
import sys

import click

from amalgam_edge import environment
from amalgam_edge.cli.output import show_lines
from amalgam_edge.cores import cpu_quota, usable_cores


@click.command("doctor")
def command() -> None:
    """Show versions, runtimes, CPU features and usable cores; exit status 1 if something is wrong with them.

    \b
    Example:
      amalgam-edge doctor
    """  # noqa: D301  (click reads \b as "do not rewrap")
    show_lines(f"python            {platform.python_version()} on {platform.platform()}")
    for package, version in environment.package_versions().items():
        show_lines(f"{package:<17} {version or '–'}")
    show_lines(f"providers         {', '.join(environment.execution_providers()) or '–'}")
    show_lines(f"CPU features      {', '.join(environment.cpu_features()) or 'none that matter'}")
    quota = cpu_quota()
    limited = "" if quota is None else f", CPU quota {quota:g}"
    show_lines(f"cores             {usable_cores()} usable{limited}")
    found = environment.problems()
    for problem in found:
        show_lines(f"problem: {problem}", err=True)
    if found:
        sys.exit(1)
    show_lines("no problem found")
