"""``amalgam-edge evaluate``."""

from __future__ import annotations

import json

import click

from amalgam_edge.cli.extras import load_training_part, quiet_libraries


@click.command("evaluate")
@click.argument("bundle", type=click.Path())
@click.option("--data", required=True, help="Labelled texts: a file, a folder, or hf://datasets/NAME.")
@click.option("--text-column", help="Column that holds the text.  [default: text]")
@click.option("--label-column", default="label", show_default=True, help="Column that holds the gold label.")
@click.option("--split", default="test", show_default=True, help="Split of a Hub data set.")
@click.option("--precision", "precisions", multiple=True, help="Measure this precision.  [default: all]")
@click.option("--threads", type=click.IntRange(min=1), help="Threads to compute with.  [default: one a core]")
@click.option(
    "--abstain", type=click.FloatRange(0, 1), help="Give no label below this score.  [default: the bundle's own]"
)
@click.option("--json", "as_json", is_flag=True, help="Write JSON, with the confusion matrix.")
def command(
    bundle: str,
    data: str,
    text_column: str | None,
    label_column: str,
    split: str,
    precisions: tuple[str, ...],
    threads: int | None,
    abstain: float | None,
    as_json: bool,
) -> None:
    """Measure a bundle on labelled texts.

    Accuracy and macro-F1 are of the likeliest label of every text. Under a threshold, the share of texts that get a
    label and the accuracy on those stand beside them.

    \b
    Examples:
      amalgam-edge evaluate student/ --data labelled.jsonl
      amalgam-edge evaluate student/ --data labelled.csv --label-column section --precision int8 --json
    """  # noqa: D301  (click reads \b as "do not rewrap")
    quiet_libraries()
    evaluation = load_training_part("amalgam_edge.bundle_evaluation", "reading labelled texts")
    from amalgam_edge.runtime import Bundle
    from amalgam_edge.tables import evaluation_table

    measured = evaluation.evaluate_bundle(
        Bundle.open(bundle),
        data,
        text_column=text_column,
        label_column=label_column,
        split=split,
        precisions=precisions,
        threads=threads,
        abstain=abstain,
    )
    click.echo(json.dumps(measured, indent=2) if as_json else evaluation_table({"evaluation": measured}).to_text())
