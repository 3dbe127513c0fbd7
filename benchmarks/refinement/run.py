"""Compare variants of the method `refined`, each with one part changed, without training a student.

    python -m benchmarks.refinement.run --quick                   # one corpus, one seed
    python -m benchmarks.refinement.run --runs runs/amalgamation  # uses teachers and scores there, or makes them
    python -m benchmarks.refinement.run --tables-only

Groups are those of benchmarks.amalgamation.run with the setting `two`, of only those corpora that the method was tuned
on. Each group gives several cases: all of its unlabeled texts, a selection in which nine in ten have labels of one
teacher, and a quarter of them. In each case every variant makes supervision from the same scores. Measured are how
often the right teacher gets the most weight, how often the target's likeliest label is right, and the accuracy on test
texts of a cheap stand-in for the student: a logistic regression on the features of the frozen encoder, fitted to the
variant's targets and weights. Test texts are weighted so that each teacher's share of them is its share of the
unlabeled texts, or not at all.

Each case has a file with its results below OUTPUT. Results are not made again unless the group or the options of the
variant have changed; after a change to the code, remove the file.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from datasets import disable_progress_bars
from filelock import FileLock, Timeout
from transformers.utils import logging

from amalgam_edge.console_progress import ConsoleProgress
from amalgam_edge.heads import ONLY_HEAD
from amalgam_edge.methods import MethodInputs
from amalgam_edge.methods.supervision import Supervision
from amalgam_edge.metrics.accuracy import accuracy
from amalgam_edge.progress import Progress
from amalgam_edge.recipe.recipe import Recipe
from amalgam_edge.reports.tables import Column, Table
from amalgam_edge.storage.staging import write_text_atomically
from benchmarks.amalgamation.settings import BASE, UNBALANCED_SHARE, Plan, PlanInputs, make_plan
from benchmarks.amalgamation.sources import corpus_loader
from benchmarks.amalgamation.students import Group, PreparedGroup, Study, group_key, prepare, teacher_selection
from benchmarks.refinement.stand_in import read_features, stand_in_logits
from benchmarks.refinement.variants import PAPER, VARIANTS, Variant
from examples.corpora import by_hash
from examples.teachers import TEACHER_TRAINING

# Only the corpora that the method was tuned on; the others are for testing it.
CORPORA = ("debian_sections", "wordnet_nouns", "wordnet_verbs")
SEEDS = (0, 1, 2)
MEASURES = {
    "student_accuracy": "Accuracy of the student's stand-in on test texts weighted by the case's shares",
    "student_accuracy_evenly": "The same on unweighted test texts",
    "teacher_selection": "Share of unlabeled texts for which the right teacher was chosen",
}
CSV_FIELDS = ("corpus", "seed", "case", "n_texts", "variant", "target_accuracy", *MEASURES)
_FEW = 0.25  # share of the texts that the case "few" takes
_STEPS = 60  # optimiser steps of the fit that stands in for the student

Result = Mapping[str, Any]


@dataclass(frozen=True)
class GroupData:
    """Texts, scores and true labels of a group, or of a selection of its unlabeled texts.

    Attributes:
        inputs: What methods read of the unlabeled texts.
        gold: True labels of the unlabeled texts, ``(n_texts,)``.
        texts: The unlabeled texts.
        owners: For each label, the positions of the teachers that know it.
        test: Features and true labels of the test texts.
    """

    inputs: MethodInputs
    gold: np.ndarray
    texts: Sequence[str]
    owners: Mapping[str, Sequence[int]]
    test: tuple[np.ndarray, np.ndarray]

    def take(self, rows: np.ndarray) -> GroupData:
        """The same group with a selection of the unlabeled texts."""
        scores = [teacher.take(rows) for teacher in self.inputs.scores]
        inputs = MethodInputs(scores, self.inputs.labels, self.inputs.features[rows])
        return GroupData(inputs, self.gold[rows], [self.texts[row] for row in rows], self.owners, self.test)


def group_data(prepared: PreparedGroup, progress: Progress) -> GroupData:
    """The data of a prepared group; features are kept in its work folder, where the product looks for them."""
    recipe, data, models = prepared.recipe, prepared.data, prepared.models
    of_corpus, of_test = read_features(recipe, models, data.texts, progress)
    return GroupData(
        inputs=MethodInputs(data.scores, data.heads.only.labels, of_corpus),
        gold=prepared.gold,
        texts=[*data.texts.corpus.texts],
        owners=prepared.plan.owners(),
        test=(of_test, models.gold[ONLY_HEAD].answers),
    )


def with_share(texts: Sequence[str], first: np.ndarray, share: float) -> np.ndarray:
    """Positions of texts of which a share belongs to the first teacher: as many as possible, chosen by hash.

    Args:
        texts: All texts.
        first: Whether a text has a label of the first teacher, ``(n_texts,)``.
        share: The share of the first teacher.
    """
    rows = np.flatnonzero(first), np.flatnonzero(~first)
    odds = share / (1 - share)
    most = round(len(rows[1]) * odds), round(len(rows[0]) / odds)
    chosen = [by_text_hash(texts, of_teacher)[:count] for of_teacher, count in zip(rows, most, strict=True)]
    return np.sort(np.concatenate(chosen))


def by_text_hash(texts: Sequence[str], rows: Iterable[int]) -> np.ndarray:
    """Positions of texts in the order of a hash, another one than that by which the texts of corpora were chosen."""
    return np.array(sorted(rows, key=lambda row: by_hash(f"fewer {texts[row]}")), dtype=int)


def few(texts: Sequence[str], first: np.ndarray) -> np.ndarray:
    """Positions of a quarter of the texts, chosen by hash."""
    return np.sort(by_text_hash(texts, range(len(first)))[: round(len(first) * _FEW)])


CASES: dict[str, Callable[[Sequence[str], np.ndarray], np.ndarray]] = {
    "as it is": lambda texts, first: np.arange(len(first)),
    "90/10": lambda texts, first: with_share(texts, first, UNBALANCED_SHARE),
    "10/90": lambda texts, first: with_share(texts, first, 1 - UNBALANCED_SHARE),
    "few": few,
}


def case_of(whole: GroupData, name: str) -> GroupData:
    """The data of a case of a group, by its name in ``CASES``."""
    return whole.take(CASES[name](whole.texts, of_first(whole.gold, whole)))


def measure(case: GroupData, variant: Variant) -> dict[str, Any]:
    """The measures of a variant in a case."""
    supervised = variant(case.inputs, case.gold)
    return {
        "n_texts": len(case.gold),
        "teacher_selection": teacher_selection(supervised.target, case.gold, case.inputs.labels, case.owners),
        "target_accuracy": accuracy(case.gold, supervised.target.argmax(axis=1)),
        **student_accuracy(case, supervised),
    }


def student_accuracy(case: GroupData, supervised: Supervision) -> dict[str, float]:
    """Accuracy on test texts of a logistic regression on the features, fitted to the supervision."""
    test, gold = case.test
    logits = stand_in_logits(case.inputs.features, test, supervised.target, supervised.weight, steps=_STEPS)
    right = logits.argmax(axis=1) == gold
    shares = share_weights(of_first(gold, case), of_first(case.gold, case).mean())
    return {
        "student_accuracy": float(np.average(right, weights=shares)),
        "student_accuracy_evenly": float(right.mean()),
    }


def of_first(gold: np.ndarray, case: GroupData) -> np.ndarray:
    """Whether labels belong to the first teacher, ``(n_texts,)``."""
    return np.isin(gold, next(iter(case.inputs.labels.columns.values())))


def share_weights(first: np.ndarray, share: float) -> np.ndarray:
    """Weights under which the texts of the first teacher have this share of the total, ``(n_texts,)``."""
    return np.where(first, share / first.mean(), (1 - share) / (1 - first.mean()))


def results_path(output: Path, group: Group, case: str) -> Path:
    """The file with the results of a case."""
    name = case.replace("/", "-").replace(" ", "-")
    return output / "results" / f"{group.corpus}-seed-{group.seed}-{name}.json"


def read_case(path: Path, key: str) -> dict[str, dict[str, Any]]:
    """Results by variant; none if the group has changed, and none of variants that have."""
    if not path.exists():
        return {}
    kept = json.loads(path.read_text("utf-8"))
    return current(kept["variants"]) if kept["key"] == key else {}


def current(rows: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The results of variants whose options are still the same."""
    return {name: row for name, row in rows.items() if row["options"] == repr(VARIANTS.get(name))}


def run(group: Group, study: Study, output: Path, progress: Progress) -> None:
    """Measure the variants of a group that have no result yet."""
    source = corpus_loader(study)(group.corpus)
    plan = make_plan(group.setting, PlanInputs(source, source, group.seed))  # this setting reads no second corpus
    key = group_key(study, group, plan)
    left = [name for name in CASES if len(read_case(results_path(output, group, name), key)) < len(VARIANTS)]
    if not left:
        return
    whole = group_data(prepare_group(group, plan, study, progress), progress)
    progress.begin(len(left))
    for name in left:
        case, path = case_of(whole, name), results_path(output, group, name)
        rows = read_case(path, key)
        with progress.step(f"{group}: {name}, {len(case.gold)} texts", len(VARIANTS), "variants") as advance:
            advance(len(rows))
            for row, variant in VARIANTS.items():
                if row not in rows:
                    rows[row] = {"options": repr(variant), **measure(case, variant)}
                    kept = {"corpus": group.corpus, "seed": group.seed, "case": name, "key": key, "variants": rows}
                    write_text_atomically(path, json.dumps(kept, indent=1))
                    advance(1)


def prepare_group(group: Group, plan: Plan, study: Study, progress: Progress) -> PreparedGroup:
    """Teachers and scores of a group; they are made under the lock of the group if there are none yet.

    Raises:
        Timeout: Another process is making them.
    """
    folder = group.folder(study.runs)
    folder.mkdir(parents=True, exist_ok=True)
    if any(path.is_dir() for path in folder.iterdir()):
        return prepare(study, group, plan, progress)
    with FileLock(folder / ".lock", timeout=0):
        return prepare(study, group, plan, progress)


def read_results(output: Path) -> list[dict[str, Any]]:
    """Results below a folder, one per case and variant; cases in which variants are missing are left out."""
    kept = [json.loads(path.read_text("utf-8")) for path in sorted((output / "results").glob("*.json"))]
    variants = [current(case["variants"]) for case in kept]
    every = {name for rows in variants for name in rows}
    return [
        {"corpus": case["corpus"], "seed": case["seed"], "case": case["case"], "variant": name, **row}
        for case, rows in zip(kept, variants, strict=True)
        for name, row in rows.items()
        if rows.keys() == every
    ]


def table(results: Sequence[Result], measured: str) -> Table:
    """A row per variant: means over groups in each case and in all, and the lowest difference to the paper's method."""
    found: dict[str, dict[tuple[str, int, str], float]] = {name: {} for name in VARIANTS}
    for row in results:
        found.setdefault(row["variant"], {})[row["corpus"], row["seed"], row["case"]] = row[measured]
    cases = [name for name in CASES if any(row["case"] == name for row in results)]
    rows = []
    for name, values in found.items():
        if values:
            of_case = [[value for (_, _, in_case), value in values.items() if in_case == case] for case in cases]
            to_paper = [value - found[PAPER][cell] for cell, value in values.items() if cell in found[PAPER]]
            cells = [f"{100 * fmean(of):.1f}" if of else "–" for of in (*of_case, [*values.values()])]
            rows.append((name, *cells, f"{100 * min(to_paper):+.1f}" if to_paper else "–"))
    titles = (*cases, "all", f"worst − {PAPER}")
    return Table((Column("variant", numeric=False), *map(Column, titles)), tuple(rows))


def write_tables(output: Path) -> str:
    """Write refinement.csv and refinement.md of all results, and return the Markdown."""
    results = read_results(output)
    if not results:
        return f"{output}: no results yet"
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, CSV_FIELDS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(results)
    groups = sorted({(row["corpus"], row["seed"]) for row in results})
    parts = [
        f"Percent, means over {len(groups)} groups: {', '.join(f'{corpus} seed {seed}' for corpus, seed in groups)}. "
        f"Worst: the lowest difference to {PAPER} in any case of any group, in points."
    ]
    for measured, title in MEASURES.items():
        parts += [f"## {title}", table(results, measured).to_markdown()]
    text = "\n\n".join(parts) + "\n"
    write_text_atomically(output / "refinement.csv", buffer.getvalue())
    write_text_atomically(output / "refinement.md", text)
    return text


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", nargs="+", default=[*CORPORA], choices=CORPORA)
    parser.add_argument("--seeds", nargs="+", type=int, default=[*SEEDS])
    parser.add_argument("--quick", action="store_true", help="one corpus, one seed")
    parser.add_argument("--teacher-epochs", type=int, default=TEACHER_TRAINING.epochs, help="epochs of teachers")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/amalgamation"), help="folder of benchmarks.amalgamation.run"
    )
    parser.add_argument("--output", type=Path, default=Path("runs/refinement"), help="folder for results and tables")
    parser.add_argument("--threads", type=int, help="threads to compute with  [default: one per core]")
    parser.add_argument("--tables-only", action="store_true", help="write tables of existing results, measure nothing")
    options = parser.parse_args()
    if options.quick:
        options.corpora, options.seeds = [CORPORA[0]], [0]
    return options


def main() -> None:
    """Measure what has no result yet, and write the tables."""
    options = parse()
    progress = ConsoleProgress()
    if options.threads:
        os.environ["RAYON_NUM_THREADS"] = str(options.threads)
        torch.set_num_threads(options.threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    disable_progress_bars()
    study = Study(options.runs, (), Recipe().training.epochs, options.teacher_epochs, None, options.threads)
    for seed in () if options.tables_only else options.seeds:
        for corpus in options.corpora:
            group = Group(corpus, BASE, seed)
            try:
                run(group, study, options.output, progress)
            except Timeout:
                progress.say(f"{group}: another process is working on it")
    print(write_tables(options.output))


if __name__ == "__main__":
    main()
