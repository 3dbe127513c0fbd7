"""``amalgam-edge methods``."""

from __future__ import annotations

import json

import click

from amalgam_edge.cli.extras import load_training_part, quiet_libraries


@click.command("methods", context_settings={"max_content_width": 110})
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
def command(as_json: bool) -> None:
    """List the methods that build --method takes: what each does, its paper, and the options that it heeds.

    \b
    Examples:
      amalgam-edge methods
      amalgam-edge methods --json
    """  # noqa: D301  (click reads \b as "do not rewrap")
    quiet_libraries()
    objectives = load_training_part("amalgam_edge.methods", "listing methods")
    from amalgam_edge.reports.method_table import method_table

    methods = objectives.catalogue()
    click.echo(json.dumps(methods, indent=2, ensure_ascii=False) if as_json else method_table(methods).to_text())
