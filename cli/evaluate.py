"""``amalgam-edge evaluate``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from amalgam_edge.cli.by_head import numbers_by_head
from amalgam_edge.cli.exit_codes import LIMIT_MISSED
from amalgam_edge.cli.hub_options import with_hub_options
from amalgam_edge.cli.model_options import with_threads
from amalgam_edge.cli.output import show_json, show_line, show_lines
from amalgam_edge.errors import needs_extra

if TYPE_CHECKING:
    from amalgam_edge.runtime.evaluation import Evaluation
    from amalgam_edge.runtime.hub import HubOptions


@click.command("evaluate", context_settings={"max_content_width": 110})
@click.argument("bundle", type=click.Path())
@click.option("--data", required=True, help="Labelled texts: a file, a folder, or hf://datasets/NAME.")
@click.option("--text-column", help="Column that holds the text.  [default: text]")
@click.option(
    "--label-column",
    "label_columns",
    multiple=True,
    metavar="[HEAD=]COLUMN",
    help="Column that holds the gold labels of a head; may be repeated.  [default: label; of several heads the head's "
    "name]",
)
@click.option("--split", default="test", show_default=True, help="Split of a Hub data set.")
@click.option("--precision", "precisions", multiple=True, help="Measure this precision.  [default: all that are there]")
@with_threads
@click.option(
    "--abstain",
    multiple=True,
    callback=numbers_by_head,
    metavar="[HEAD=]SCORE",
    help="Give no label below this score.  [default: the bundle's own]",
)
@click.option(
    "--teacher",
    "teachers",
    multiple=True,
    metavar="NAME=PATH",
    help="Set a teacher of the bundle beside it, on the same texts; may be repeated.",
)
@click.option(
    "--min-agreement",
    multiple=True,
    callback=numbers_by_head,
    metavar="[HEAD=]SHARE",
    help="Exit with status 3 if a head answers fewer texts as its teacher does.",
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
    label_columns: tuple[str, ...],
    split: str,
    precisions: tuple[str, ...],
    threads: int | None,
    abstain: float | dict[str, float] | None,
    teachers: tuple[str, ...],
    min_agreement: float | dict[str, float] | None,
    compare: str | None,
    report: Path | None,
    as_json: bool,
    hub: HubOptions,
) -> None:
    """Measure a bundle on labelled texts, and beside its teachers.

    Accuracy and macro-F1 are of the likeliest label of every text, over all texts and over those of each teacher's
    labels; of a head with any number of labels, accuracy is the share of texts with all of them right. NLL (nats), ECE
    and AURC say how good the scores are; less is better. Under a threshold, the share of texts that get a label and
    the accuracy on those stand beside them. A cell with several gold labels has ; between them, or is a list.

    With --teacher, the student is set beside its teachers text by text: how often both answer alike and, where they
    differ, who is right. This needs no gold labels. --json and --report show such texts.

    With --compare, what each bundle answers with by default, or each --precision of both, is compared: the difference
    in accuracy, its 95 % interval, and p by the exact McNemar test. Heads and labels are matched by name.

    \b
    Examples:
      amalgam-edge evaluate student/ --data labelled.jsonl
      amalgam-edge evaluate student/ --data labelled.csv --label-column section --precision int8 --json
      amalgam-edge evaluate student/ --data tickets.csv --label-column topic=subject --label-column priority=urgency
      amalgam-edge evaluate student/ --data texts.txt --teacher topic=runs/topic --min-agreement 0.95
      amalgam-edge evaluate student/ --data labelled.jsonl --report evaluation.html
      amalgam-edge evaluate student/ --data labelled.jsonl --compare other-student/
    """  # noqa: D301  (click reads \b as "do not rewrap")
    from amalgam_edge.api import evaluate
    from amalgam_edge.evaluation.agreement_limit import check_limit, missed_agreements
    from amalgam_edge.storage.records import to_json

    if min_agreement is not None:
        check_limit(min_agreement, teachers)
    measured = evaluate(
        bundle,
        data,
        text_column=text_column,
        label_column=label_columns,
        split=split,
        precisions=precisions,
        threads=threads,
        abstain=abstain,
        teachers=teachers,
        compare=compare or None,
        **hub,
    )
    missed = [] if min_agreement is None else missed_agreements(measured, min_agreement)
    if as_json:
        show_json(to_json(measured))
    else:
        show_lines(_as_text(measured))
    if report:
        _write_report(report, measured, bundle)
        show_lines(f"\nreport: {report}", err=as_json)
    for message in missed:
        show_line(message, err=True)
    if missed:
        sys.exit(LIMIT_MISSED)


def _as_text(measured: Evaluation) -> str:
    from amalgam_edge.reports.evaluation_tables import (
        comparison_lines,
        comparison_table,
        domain_table,
        evaluation_table,
        has_gold,
        teacher_lines,
        teachers_table,
    )

    parts = [evaluation_table(measured).to_text()] if has_gold(measured) else []
    if (domains := domain_table(measured)).rows:
        parts.append(domains.to_text())
    if (teachers := teachers_table(measured)).rows:
        parts.append("\n".join([teachers.to_text(), *teacher_lines(measured)]))
    if measured.comparison:
        table, lines = comparison_table(measured.comparison), comparison_lines(measured.comparison)
        parts.append("\n".join([table.to_text(), *lines]))
    return "\n\n".join(parts)


def _write_report(path: Path, measured: Evaluation, bundle: str) -> None:
    from amalgam_edge.storage.staging import write_text_atomically

    with needs_extra("train", "drawing a report"):
        from amalgam_edge.reports.evaluation_report import render_evaluation
    write_text_atomically(path, render_evaluation(measured, bundle))
