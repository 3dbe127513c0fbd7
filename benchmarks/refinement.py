"""What the method `refined` is made of, part by part: variants of it beside each other, without training a student.

    python benchmarks/refinement.py --quick                  # one corpus, one seed
    python benchmarks/refinement.py --runs runs/amalgamation # teachers and scores of amalgamation.py, or made there
    python benchmarks/refinement.py --tables-only

Groups are those of amalgamation.py, setting `two`, of the corpora that the method was tuned on and of no others. Each
gives several cases: its unlabeled texts as they are, nine in ten of them of one teacher's labels, a quarter of them. In
each case every variant of refinement_variants.py makes supervision of the same scores; measured are how often the
teacher is the right one, how often the target's likeliest label is, and the accuracy on test texts of a light stand-in
for the student: logistic regression on the features of the frozen encoder, under the variant's targets and weights.
Test texts weigh as much as makes each teacher's share of them what it is of the unlabeled ones, or all the same.

A case has a file with its results below OUTPUT; what is there is not made again, unless the group or the variant's
options have changed. After a change of code, remove the file.
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
from amalgamation import source_loader
from amalgamation_runs import Group, Prepared, Study, group_key, prepare, teacher_selection
from datasets import disable_progress_bars
from filelock import FileLock, Timeout
from refinement_variants import PAPER, VARIANTS, Variant, fit, logits_of, size_of
from sampling import by_hash
from settings import BASE, UNBALANCED_SHARE, Case, Plan
from settings import plan as make_plan
from teachers import SETTINGS as TEACHER_TRAINING
from transformers.utils import logging

from amalgam_edge.building import stages
from amalgam_edge.cli.progress import ConsoleProgress
from amalgam_edge.methods import Evidence
from amalgam_edge.methods.supervision import Supervision
from amalgam_edge.metrics.accuracy import accuracy
from amalgam_edge.progress import Progress
from amalgam_edge.recipe.recipe import Recipe
from amalgam_edge.reports.tables import Column, Table
from amalgam_edge.storage.staging import write_text_atomically

CORPORA = (
    "debian_sections",
    "wordnet_nouns",
    "wordnet_verbs",
)  # those that the method was tuned on; the others are for testing it
SEEDS = (0, 1, 2)
MEASURES = {
    "student_accuracy": "Accuracy of the student's stand-in on test texts of the case's shares",
    "student_accuracy_evenly": "The same on test texts as they are",
    "teacher_selection": "Right teacher, of the unlabeled texts",
}
CSV_FIELDS = ("corpus", "seed", "case", "n_texts", "variant", "target_accuracy", *MEASURES)
_FEW = 0.25  # of the texts
_STEPS = 60  # of the fit that stands in for the student

Result = Mapping[str, Any]


@dataclass(frozen=True)
class Known:
    """What is known of a group.

    Attributes:
        evidence: of all unlabeled texts.
        gold: their labels, ``(n_texts,)``.
        texts: the texts themselves.
        owners: label → positions of the teachers that know it.
        test: features and gold labels of the test texts.
    """

    evidence: Evidence
    gold: np.ndarray
    texts: Sequence[str]
    owners: Mapping[str, Sequence[int]]
    test: tuple[np.ndarray, np.ndarray]

    def take(self, rows: np.ndarray) -> Known:
        """The same of a selection of the unlabeled texts."""
        own = self.evidence
        scores = [teacher.take(rows) for teacher in own.scores]
        evidence = Evidence(scores, own.labels, own.features[rows])
        return Known(evidence, self.gold[rows], [self.texts[row] for row in rows], self.owners, self.test)


def known(made: Prepared, progress: Progress) -> Known:
    """What is known of a prepared group; features are kept in its work folder, where the product looks for them."""
    gold = made.labels.encode([label for _, label in made.plan.test])
    corpus, test = (
        stages.student_features(made.recipe, made.teachers, texts, progress)
        for texts in (made.texts.corpus, made.texts.labelled)
    )
    evidence = Evidence(made.scores, made.labels, corpus)
    return Known(evidence, made.gold, [*made.texts.corpus.texts], made.plan.owners(), (test, gold))


def with_share(texts: Sequence[str], first: np.ndarray, share: float) -> np.ndarray:
    """Rows of which a share is the first teacher's: all of one teacher's texts, and of the other's some by hash."""
    rows = np.flatnonzero(first), np.flatnonzero(~first)
    odds = share / (1 - share)
    room = round(len(rows[1]) * odds), round(len(rows[0]) / odds)
    return np.sort(np.concatenate([by_text_hash(texts, own)[:most] for own, most in zip(rows, room, strict=True)]))


def by_text_hash(texts: Sequence[str], rows: Iterable[int]) -> np.ndarray:
    """Rows in the order of a hash of their own: by that of the text the corpora chose each label's texts."""
    return np.array(sorted(rows, key=lambda row: by_hash(f"fewer {texts[row]}")), dtype=int)


def few(texts: Sequence[str], first: np.ndarray) -> np.ndarray:
    """A quarter of the rows, by hash."""
    return np.sort(by_text_hash(texts, range(len(first)))[: round(len(first) * _FEW)])


CASES: dict[str, Callable[[Sequence[str], np.ndarray], np.ndarray]] = {
    "as it is": lambda texts, first: np.arange(len(first)),
    "90/10": lambda texts, first: with_share(texts, first, UNBALANCED_SHARE),
    "10/90": lambda texts, first: with_share(texts, first, 1 - UNBALANCED_SHARE),
    "few": few,
}


def case_of(whole: Known, name: str) -> Known:
    """A case of a group."""
    return whole.take(CASES[name](whole.texts, of_first(whole.gold, whole)))


def measure(case: Known, variant: Variant) -> dict[str, Any]:
    """What a variant comes to in a case."""
    supervised = variant(case.evidence, case.gold)
    return {
        "n_texts": len(case.gold),
        "teacher_selection": teacher_selection(supervised.target, case.gold, case.evidence.labels, case.owners),
        "target_accuracy": accuracy(case.gold, supervised.target.argmax(axis=1)),
        **student_accuracy(case, supervised),
    }


def student_accuracy(case: Known, supervised: Supervision) -> dict[str, float]:
    """On test texts, of logistic regression on the features, under a target and weights."""
    seen, (test, gold) = case.evidence.features.astype(np.float64), case.test
    centre = seen.mean(axis=0)
    scale = size_of(seen - centre)
    target, weight = supervised.target.astype(np.float64), supervised.weight.astype(np.float64)
    fitted = fit((seen - centre) / scale, target, weight, steps=_STEPS)
    right = logits_of(fitted, (test - centre) / scale).argmax(axis=1) == gold
    shares = share_weights(of_first(gold, case), of_first(case.gold, case).mean())
    return {
        "student_accuracy": float(np.average(right, weights=shares)),
        "student_accuracy_evenly": float(right.mean()),
    }


def of_first(gold: np.ndarray, case: Known) -> np.ndarray:
    """Whether labels are the first teacher's, ``(n_texts,)``."""
    return np.isin(gold, next(iter(case.evidence.labels.columns.values())))


def share_weights(first: np.ndarray, share: float) -> np.ndarray:
    """What texts are to weigh for those of the first teacher to have this share, ``(n_texts,)``."""
    return np.where(first, share / first.mean(), (1 - share) / (1 - first.mean()))


def results_path(output: Path, group: Group, case: str) -> Path:
    """Where the results of a case are kept."""
    name = case.replace("/", "-").replace(" ", "-")
    return output / "results" / f"{group.corpus}-seed-{group.seed}-{name}.json"


def read_case(path: Path, key: str) -> dict[str, dict[str, Any]]:
    """Variant → result, of those that were made of the same."""
    if not path.exists():
        return {}
    kept = json.loads(path.read_text("utf-8"))
    return current(kept["variants"]) if kept["key"] == key else {}


def current(rows: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Those of the results whose variants are still what they were."""
    return {name: row for name, row in rows.items() if row["options"] == repr(VARIANTS.get(name))}


def run(group: Group, study: Study, output: Path, progress: Progress) -> None:
    """Make what is missing of a group."""
    source = source_loader(study)(group.corpus)
    plan = make_plan(group.setting, Case(source, source, group.seed))  # of two teachers, who need no other corpus
    key = group_key(study, group, plan)
    left = [name for name in CASES if len(read_case(results_path(output, group, name), key)) < len(VARIANTS)]
    if not left:
        return
    whole = known(prepared(group, plan, study, progress), progress)
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


def prepared(group: Group, plan: Plan, study: Study, progress: Progress) -> Prepared:
    """Teachers and scores of a group; where no method has begun on them yet, they are made under the group's lock.

    Raises:
        Timeout: another process makes them.
    """
    folder = group.folder(study.runs)
    folder.mkdir(parents=True, exist_ok=True)
    if any(path.is_dir() for path in folder.iterdir()):
        return prepare(study, group, plan, progress)
    with FileLock(folder / ".lock", timeout=0):
        return prepare(study, group, plan, progress)


def read_results(output: Path) -> list[dict[str, Any]]:
    """Results below a folder, a row a case and variant; not of cases in which some variants are still to be made."""
    kept = [json.loads(path.read_text("utf-8")) for path in sorted((output / "results").glob("*.json"))]
    variants = [current(of["variants"]) for of in kept]
    every = {name for rows in variants for name in rows}
    return [
        {"corpus": of["corpus"], "seed": of["seed"], "case": of["case"], "variant": name, **row}
        for of, rows in zip(kept, variants, strict=True)
        for name, row in rows.items()
        if rows.keys() == every
    ]


def table(results: Sequence[Result], measured: str) -> Table:
    """Rows are variants; means over groups in each case and over all, and how far below the paper's method at worst."""
    found: dict[str, dict[tuple[str, int, str], float]] = {name: {} for name in VARIANTS}
    for row in results:
        found.setdefault(row["variant"], {})[row["corpus"], row["seed"], row["case"]] = row[measured]
    cases = [name for name in CASES if any(row["case"] == name for row in results)]
    rows = []
    for name, values in found.items():
        if values:
            of_case = [[value for (_, _, case), value in values.items() if case == wanted] for wanted in cases]
            to_paper = [value - found[PAPER][cell] for cell, value in values.items() if cell in found[PAPER]]
            cells = [f"{100 * fmean(of):.1f}" if of else "–" for of in (*of_case, [*values.values()])]
            rows.append((name, *cells, f"{100 * min(to_paper):+.1f}" if to_paper else "–"))
    titles = (*cases, "all", f"worst − {PAPER}")
    return Table((Column("variant", numeric=False), *map(Column, titles)), tuple(rows))


def write_tables(output: Path) -> str:
    """Write refinement.csv and refinement.md of all results; returns the Markdown."""
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
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", nargs="+", default=[*CORPORA], choices=CORPORA)
    parser.add_argument("--seeds", nargs="+", type=int, default=[*SEEDS])
    parser.add_argument("--quick", action="store_true", help="one corpus, one seed")
    parser.add_argument("--teacher-epochs", type=int, default=TEACHER_TRAINING.epochs)
    parser.add_argument("--runs", type=Path, default=Path("runs/amalgamation"), help="folder of amalgamation.py")
    parser.add_argument("--output", type=Path, default=Path("runs/refinement"), help="folder for results and tables")
    parser.add_argument("--threads", type=int, help="to compute with  [default: one a core]")
    parser.add_argument("--tables-only", action="store_true", help="of the results that are there")
    options = parser.parse_args()
    if options.quick:
        options.corpora, options.seeds = [CORPORA[0]], [0]
    return options


def main() -> None:
    """Measure what is not measured yet, and write the tables."""
    options = parse()
    progress = ConsoleProgress()
    if options.threads:
        os.environ["RAYON_NUM_THREADS"] = str(options.threads)
        torch.set_num_threads(options.threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    disable_progress_bars()
    study = Study(options.runs, (), Recipe().epochs, options.teacher_epochs, None, options.threads)
    for seed in () if options.tables_only else options.seeds:
        for corpus in options.corpora:
            group = Group(corpus, BASE, seed)
            try:
                run(group, study, options.output, progress)
            except Timeout:
                progress.say(f"{group}: another process is at it")
    print(write_tables(options.output))


if __name__ == "__main__":
    main()
