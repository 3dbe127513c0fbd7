"""Compare static students and a cascade with a 3-layer encoder student: size, accuracy and texts per second.

    python -m benchmarks.edge.static_students --teacher runs/teacher-a --teacher runs/teacher-b --encoder ENCODER \
        --corpus runs/unlabeled.jsonl --evaluate runs/labelled.jsonl --work runs/student.work --output runs/static

Bundles that are in the output folder already are measured again, not built again. Throughput is measured from text to
label, with the default precision, on the labelled texts, by classifiers that have read the corpus before: once when
these texts are new, and once when they are repeated, so that all of their words are known. Classifiers take turns and
ratios are medians over rounds, so that other work of the machine affects all alike.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from datasets import disable_progress_bars
from transformers.utils import logging

from amalgam_edge import EdgeClassifier, build
from amalgam_edge.corpus import read_corpus
from amalgam_edge.heads import ONLY_HEAD
from amalgam_edge.reports.bundle_tables import cascade_line
from amalgam_edge.reports.tables import Column, Table
from amalgam_edge.runtime.bundle import Bundle
from amalgam_edge.runtime.manifest import MANIFEST


def bundles(options: argparse.Namespace) -> dict[str, Bundle]:
    """Build the bundles that do not exist yet, and open all of them."""
    common = {
        "teachers": options.teacher,
        "corpus": options.corpus,
        "evaluate": options.evaluate,
        "work": options.work,
        "method": options.method,
    }
    variants: dict[str, dict[str, Any]] = {
        f"encoder-{options.layers}": {
            "student": options.encoder,
            "student_layers": options.layers,
            "cascade": True,
            "cascade_agreement": options.agreement,
        },
        **{
            f"static-{width}": {"student": f"static:{options.encoder}", "static_width": width}
            for width in options.widths
        },
    }
    for name, more in variants.items():
        folder = options.output / name
        if not (folder / MANIFEST).exists():
            build(**common, **more, output=folder)
    return {name: Bundle.open(options.output / name) for name in variants}


def student_table(opened: dict[str, Bundle]) -> Table:
    """Size and accuracy of each bundle, and how far its int8 model agrees with the float model."""
    rows = []
    for name, bundle in opened.items():
        precisions, measured = bundle.manifest.precisions, bundle.manifest.evaluation.heads[ONLY_HEAD].student
        default = precisions[bundle.default_precision]
        rows.append(
            (
                name,
                f"{default.bytes / 1e6:.2f}",
                f"{measured['fp32'].accuracy:.1%}",
                f"{measured[bundle.default_precision].accuracy:.1%}",
                f"{default.fidelity.agreement:.2%}",
            )
        )
        if "cascade" in measured:
            size = (default.bytes + bundle.cascade.bytes) / 1e6
            rows.append((f"{name} cascade", f"{size:.2f}", "–", f"{measured['cascade'].accuracy:.1%}", "–"))
    columns = (Column("student", numeric=False), *map(Column, ("MB", "fp32", "as shipped", "agreement")))
    return Table(columns, tuple(rows))


def throughput(
    openers: dict[str, Callable[[], EdgeClassifier]], known: list[str], texts: list[str], rounds: int
) -> dict[str, np.ndarray]:
    """Seconds that each classifier takes for the texts, ``(rounds, 2)``: when they are new, and when repeated."""
    seconds: dict[str, list[list[float]]] = {name: [] for name in openers}
    for _ in range(rounds):
        for name, open_classifier in openers.items():
            classifier = open_classifier()
            classifier(known)
            taken = []
            for _ in range(2):
                start = perf_counter()
                classifier(texts)
                taken.append(perf_counter() - start)
            seconds[name].append(taken)
    return {name: np.array(taken) for name, taken in seconds.items()}


def throughput_table(seconds: dict[str, np.ndarray], n_texts: int) -> Table:
    """Medians over rounds of texts per second, and of the ratio to the first classifier in the same round."""
    first = next(iter(seconds.values()))
    rows = [
        (
            name,
            *(f"{n_texts / np.median(taken[:, k]):,.0f}" for k in range(2)),
            *(f"{np.median(first[:, k] / taken[:, k]):.1f}×" for k in range(2)),
        )
        for name, taken in seconds.items()
    ]
    titles = ("texts/s, new", "texts/s, again", "over first, new", "over first, again")
    return Table((Column("classifier", numeric=False), *map(Column, titles)), tuple(rows))


def main() -> None:
    """Build and measure the bundles, and print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", action="append", required=True)
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--evaluate", required=True, help="labelled texts")
    parser.add_argument("--encoder", required=True, help="encoder that the students start from")
    parser.add_argument("--layers", type=int, default=3, help="layers of the encoder student")
    parser.add_argument("--method", default="muka-soft")
    parser.add_argument("--agreement", type=float, default=0.99, help="agreement of the cascade with the encoder")
    parser.add_argument("--widths", type=int, nargs="+", default=[32, 64, 128])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--work", help="folder with the scores of earlier builds")
    parser.add_argument("--output", type=Path, required=True, help="folder for bundles")
    options = parser.parse_args()
    os.environ["RAYON_NUM_THREADS"] = str(options.threads)  # the threads of tokenizers
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    disable_progress_bars()

    opened = bundles(options)
    print(f"\n{student_table(opened).to_text()}\n", flush=True)
    openers: dict[str, Callable[[], EdgeClassifier]] = {}
    for name, bundle in opened.items():
        for suffix, cascade in (("", False), *([(" cascade", True)] if bundle.cascade else [])):
            openers[name + suffix] = lambda bundle=bundle, cascade=cascade: EdgeClassifier(
                bundle, threads=options.threads, cascade=cascade
            )
        if line := cascade_line(bundle.manifest):
            print(f"{name}: {line}\n", flush=True)
    known = list(read_corpus(options.corpus).texts)
    texts = list(read_corpus(options.evaluate, drop_duplicates=False).texts)
    seconds = throughput(openers, known, texts, options.rounds)
    print(f"{len(texts)} texts, {options.threads} thread(s), medians of {options.rounds} rounds")
    print(throughput_table(seconds, len(texts)).to_text())


if __name__ == "__main__":
    main()
