"""Compare bundles with other runtimes for the same students, and show what a budget chose from: docs/edge.md.

    amalgam-edge build --recipe runs/student/recipe.yaml --include-torch --output runs/student-3
    amalgam-edge build --recipe runs/student/recipe.yaml --include-torch --student-layers 6 --output runs/student-6
    amalgam-edge optimize runs/student-3 --calibration runs/unlabeled.jsonl \
        --budget "size<=20MB, latency<=2ms, loss<=1%" --output runs/student-3-small
    python -m benchmarks.edge.run runs/student-3 runs/student-6 --front runs/student-3-small \
        --corpus runs/unlabeled.jsonl --write docs/edge.md

Measured is the time from text to label, in one process, with the same number of threads for each runtime. The runtimes
take turns, and the figures are medians over rounds.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from amalgam_edge.console_progress import ConsoleProgress
from amalgam_edge.cores import usable_cores
from amalgam_edge.corpus import read_corpus
from amalgam_edge.environment import cpu_features
from amalgam_edge.evaluation.edge_benchmark import benchmark
from amalgam_edge.evaluation.peers import PEERS
from amalgam_edge.metrics.timing import WorkloadTiming
from amalgam_edge.reports.bundle_tables import front_line, front_table
from amalgam_edge.reports.evaluation_tables import benchmark_table
from amalgam_edge.reports.plots import front_scatter
from amalgam_edge.runtime import Bundle
from benchmarks.common.documents import write_between_marks


def main() -> None:
    """Measure, and write the tables where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+", help="built with --include-torch")
    parser.add_argument("--corpus", required=True, help="texts of various lengths")
    parser.add_argument("--front", help="a bundle that was built or optimized under a budget")
    parser.add_argument("--max-texts", type=int, default=512, help="how many texts of the corpus to use at most")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", type=Path, help="a Markdown file to write the tables into, between its marks")
    options = parser.parse_args()

    texts = list(read_corpus(options.corpus).texts[: options.max_texts])
    parts = [_machine(options.threads, len(texts), options.rounds)]
    results = {}
    for folder in options.bundles:
        bundle = Bundle.open(folder)
        cells = benchmark(
            bundle, list(PEERS), ConsoleProgress(), corpus=texts, threads=options.threads, rounds=options.rounds
        )
        results[folder] = [asdict(cell) for cell in cells]
        layers = json.loads((bundle.folder / "config.json").read_text("utf-8"))["num_hidden_layers"]
        parts += [f"### {layers} layers", benchmark_table(cells).to_markdown(), _ratios(cells)]
    if options.front:
        manifest = Bundle.open(options.front).manifest
        parts += ["### Models under a budget", front_table(manifest).to_markdown(), f"Picked: {front_line(manifest)}."]
        if options.write:
            figure = options.write.with_name("edge-front.svg")
            figure.write_text(front_scatter(manifest.front.candidates, manifest.front.picked), "utf-8")
            parts.append(f"![size and latency of each model]({figure.name})")
    text = "\n\n".join(parts)
    print(text)
    if options.write:
        write_between_marks(options.write, "benchmarks.edge.run", text)


def _machine(threads: int, n_texts: int, rounds: int) -> str:
    features = ", ".join(cpu_features()) or "no feature that matters here"
    return (
        f"{platform.system()} on {platform.machine()} ({features}), {threads} threads, {n_texts} texts in the corpus, "
        f"{rounds} rounds; milliseconds a call, and of ours how many times as fast as the best peer."
    )


def _ratios(cells: Sequence[WorkloadTiming]) -> str:
    """How many times as fast our best precision is as the best other runtime, for each cell."""
    best = {cell.name: max((cell.speedup(name) or 0, name) for name in cell.bundle_seconds) for cell in cells}
    words = [f"{name} {ratio:.2f}× ({ours.removeprefix('amalgam-edge ')})" for name, (ratio, ours) in best.items()]
    return f"Our best over the best peer: {', '.join(words)}."


if __name__ == "__main__":
    main()
