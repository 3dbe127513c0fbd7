"""``amalgam-edge methods``. It runs without the training extra."""

from __future__ import annotations

import click

from amalgam_edge.cli.output import show_json, show_lines


@click.command("methods", context_settings={"max_content_width": 110})
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
def command(as_json: bool) -> None:
    """List the methods that build --method takes: what each does, its paper, and the options that it reads.

    \b
    Examples:
      amalgam-edge methods
      amalgam-edge methods --json
    """  # noqa: D301  (click reads \b as "do not rewrap")
    from amalgam_edge.methods import catalogue  # here, because --help of the command group loads no numpy
    from amalgam_edge.reports.method_table import method_table

    methods = catalogue()
    if as_json:
        show_json(methods)
    else:
        show_lines(method_table(methods).to_text())
