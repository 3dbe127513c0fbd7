"""``amalgam-edge optimize``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from amalgam_edge.cli.exit_codes import LIMIT_MISSED
from amalgam_edge.cli.hub_options import with_hub_options
from amalgam_edge.cli.output import show_lines

if TYPE_CHECKING:
    from amalgam_edge.runtime.hub import HubOptions


@click.command("optimize", context_settings={"max_content_width": 110})
@click.argument("bundle", type=click.Path())
@click.option("--budget", required=True, help='Limits of the model, such as "size<=20MB, latency<=2ms, loss<=1%".')
@click.option("--calibration", metavar="PATH", help="Texts to measure on, such as the corpus that it was built from.")
@click.option("--text-column", help="Column of --calibration that holds the text.  [default: text]")
@click.option("--output", metavar="PATH", help="Folder of the new bundle.  [default: replace the old bundle]")
@with_hub_options
def command(
    bundle: str,
    budget: str,
    calibration: str | None,
    text_column: str | None,
    output: str | None,
    hub: HubOptions,
) -> None:
    """Make a bundle's models anew, measure them on this machine, and let a budget pick the one that runs.

    The precisions are float, half floats, int8, int8 with a smaller token table, and weights alone in 8 and 4 bits.
    Models that change more labels than the budget's loss, or the bundle's own limit, are left out. A cascade is
    measured again in front of the chosen model, and its threshold is raised if that is needed. Exit status 3: nothing
    meets the budget, and the nearest model was chosen.

    \b
    Examples:
      amalgam-edge optimize student/ --calibration unlabeled.jsonl --budget "latency<=2ms, loss<=1%"
      amalgam-edge optimize student/ --budget "size<=20MB, memory<=150MB" --calibration texts.jsonl --output small/
    """  # noqa: D301  (click reads \b as "do not rewrap")
    from amalgam_edge.api import optimize
    from amalgam_edge.reports.bundle_tables import cascade_line, front_line, front_table

    made = optimize(bundle, budget, output=output, calibration=calibration, text_column=text_column, **hub)
    manifest = made.manifest
    show_lines(f"\n{front_table(manifest).to_text()}\n\n{front_line(manifest)}")
    if line := cascade_line(manifest):
        show_lines(f"\n{line}")
    show_lines(f"\nbundle: {made.folder}")
    if manifest.front and not manifest.front.within_budget:
        show_lines(f"--budget: {manifest.front.reason}", err=True)
        sys.exit(LIMIT_MISSED)
