"""``amalgam-edge evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from amalgam_edge.cli.hub_options import with_hub_options
from amalgam_edge.cli.model_options import with_threads
from amalgam_edge.cli.output import show_json, show_lines
from amalgam_edge.errors import needs_extra

if TYPE_CHECKING:
    from amalgam_edge.runtime.evaluation import Evaluation
    from amalgam_edge.runtime.hub import HubOptions


@click.command("evaluate", context_settings={"max_content_width": 110})
@click.argument("bundle", type=click.Path())
@click.option("--data", required=True, help="Labelled texts: a file, a folder, or hf://datasets/NAME.")
@click.option("--text-column", help="Column that holds the text.  [default: text]")
@click.option("--label-column", default="label", show_default=True, help="Column that holds the gold label.")
@click.option("--split", default="test", show_default=True, help="Split of a Hub data set.")
@click.option("--precision", "precisions", multiple=True, help="Measure this precision.  [default: all that are there]")
@with_threads
@click.option(
    "--abstain", type=click.FloatRange(0, 1), help="Give no label below this score.  [default: the bundle's own]"
)
@click.option("--compare", metavar="BUNDLE", help="Set another bundle beside it, on the same texts.")
@click.option(
    "--report",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write a page with the tables, the reliability plot and the curve of risk and coverage.",
)
@click.option("--json", "as_json", is_flag=True, help="Write JSON, with the confusion matrix and all curves.")
@with_hub_options
def command(
    bundle: str,
    data: str,
    text_column: str | None,
    label_column: str,
    split: str,
    precisions: tuple[str, ...],
    threads: int | None,
    abstain: float | None,
    compare: str | None,
    report: Path | None,
    as_json: bool,
    hub: HubOptions,
) -> None:
    """Measure a bundle on labelled texts.

    Accuracy and macro-F1 are of the likeliest label of every text, over all texts and over those of each teacher's
    labels. NLL (nats), ECE and AURC say how good the scores are; less is better. Under a threshold, the share of texts
    that get a label and the accuracy on those stand beside them.

    With --compare, what each bundle answers with by default, or each --precision of both, is compared: the difference
    in accuracy, its 95 % interval, and p by the exact McNemar test. Labels are matched by name.

    \b
    Examples:
      amalgam-edge evaluate student/ --data labelled.jsonl
      amalgam-edge evaluate student/ --data labelled.csv --label-column section --precision int8 --json
      amalgam-edge evaluate student/ --data labelled.jsonl --report evaluation.html
      amalgam-edge evaluate student/ --data labelled.jsonl --compare other-student/
    """  # noqa: D301  (click reads \b as "do not rewrap")
    from amalgam_edge.api import evaluate
    from amalgam_edge.storage.records import to_json

    measured = evaluate(
        bundle,
        data,
        text_column=text_column,
        label_column=label_column,
        split=split,
        precisions=precisions,
        threads=threads,
        abstain=abstain,
        compare=compare or None,
        **hub,
    )
    if as_json:
        show_json(to_json(measured))
    else:
        show_lines(_as_text(measured))
    if report:
        _write_report(report, measured, bundle)
        show_lines(f"\nreport: {report}", err=as_json)


def _as_text(measured: Evaluation) -> str:
    from amalgam_edge.reports.evaluation_tables import (
        comparison_lines,
        comparison_table,
        domain_table,
        evaluation_table,
    )

    parts = [evaluation_table(measured).to_text()]
    if (domains := domain_table(measured)).rows:
        parts.append(domains.to_text())
    if measured.comparison:
        table, lines = comparison_table(measured.comparison), comparison_lines(measured.comparison)
        parts.append("\n".join([table.to_text(), *lines]))
    return "\n\n".join(parts)


def _write_report(path: Path, measured: Evaluation, bundle: str) -> None:
    from amalgam_edge.storage.staging import write_text_atomically

    with needs_extra("train", "drawing a report"):
        from amalgam_edge.reports.evaluation_report import render_evaluation
    write_text_atomically(path, render_evaluation(measured, bundle))
