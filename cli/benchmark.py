"""``amalgam-edge benchmark``."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from amalgam_edge.cli.hub_options import with_hub_options
from amalgam_edge.cli.model_options import with_threads
from amalgam_edge.cli.output import show_json, show_lines
from amalgam_edge.cores import compute_threads
from amalgam_edge.errors import needs_extra

if TYPE_CHECKING:
    from amalgam_edge.runtime.hub import HubOptions


@click.command("benchmark", context_settings={"max_content_width": 110})
@click.argument("bundle", type=click.Path())
@click.option(
    "--against",
    default="",
    metavar="NAMES",
    help="Peers, separated by commas: torch, onnxruntime, openvino, ctranslate2, and each with int8 after it; or all.",
)
@click.option("--corpus", help="Texts of mixed lengths to time too: a file, a folder, or hf://datasets/NAME.")
@click.option("--max-texts", type=click.IntRange(min=1), default=512, show_default=True, help="Of the corpus.")
@with_threads
@click.option("--rounds", type=click.IntRange(min=1), default=7, show_default=True, help="Turns of each contender.")
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
@with_hub_options
def command(
    bundle: str,
    against: str,
    corpus: str | None,
    max_texts: int,
    threads: int | None,
    rounds: int,
    as_json: bool,
    hub: HubOptions,
) -> None:
    """Time a bundle, text in, label out, beside what its student could be run with instead.

    Peers run the student as it was trained, so the bundle must hold it (build --include-torch). Contenders take turns;
    the figures are medians.

    \b
    Examples:
      amalgam-edge benchmark student/
      amalgam-edge benchmark student/ --against torch,openvino,ctranslate2,"ctranslate2 int8" --corpus unlabeled.jsonl
      amalgam-edge benchmark student/ --against all --threads 1
    """  # noqa: D301  (click reads \b as "do not rewrap")
    from amalgam_edge.runtime.finding import find_bundle

    opened = find_bundle(bundle, **hub)
    with needs_extra("train", "comparing with other runtimes"):
        from amalgam_edge.console_progress import ConsoleProgress
        from amalgam_edge.corpus import read_corpus
        from amalgam_edge.evaluation import edge_benchmark
        from amalgam_edge.evaluation.peers import PEERS
        from amalgam_edge.reports.evaluation_tables import benchmark_table

    peers = list(PEERS) if against == "all" else [name.strip() for name in against.split(",") if name.strip()]
    texts = list(read_corpus(corpus).texts[:max_texts]) if corpus else []
    cells = edge_benchmark.benchmark(
        opened,
        peers,
        ConsoleProgress(),
        corpus=texts,
        threads=compute_threads(threads),
        rounds=rounds,
    )
    if as_json:
        show_json([asdict(cell) for cell in cells])
        return
    show_lines(f"\n{benchmark_table(cells).to_text()}")
