"""Methods of amalgamation beside each other: corpora × settings × methods × seeds, in tables and plots.

    python benchmarks/amalgamation.py --quick                  # one corpus, one seed, four methods: some 10 minutes
    python benchmarks/amalgamation.py --seeds 0 1 2 --threads 1 --jobs-of 1/2 &
    python benchmarks/amalgamation.py --seeds 0 1 2 --threads 1 --jobs-of 2/2
    python benchmarks/amalgamation.py --tables-only

A seed deals the labels out among the teachers (seed 0 as corpora.py has them), and is that of the teachers' training,
of the dropout masks, and of the student. Teachers are MiniLM-L6, fine-tuned for 5 epochs; the student is MiniLM-L6 cut
to 3 layers, and all else is as `amalgam-edge build` has it. What is measured is the float student after calibration.

Every run has a folder with result.json and, but for true labels, the recipe.yaml that `amalgam-edge build --recipe`
makes the same student from. A run whose result is there is not made again, unless what it is made from has changed: a
killed study goes on where it was. After a change of a method's code, remove its results:
rm -r RUNS/*/*/*/METHOD.

A method may be given with options of the recipe, as in muka-soft@score_temperature=0.5,epochs=3. A corpus of the Hub is
named as hf://OWNER/NAME, with :TEXT_COLUMN:LABEL_COLUMN:SPLIT where these are not text, label and train; the paper's
are known as ag_news, thucnews, google_snippets and 5abstracts (of the last two no copy is known to us: name one).
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from time import monotonic

import corpora
import hub_corpora
import torch
from amalgamation_runs import (
    LABELS,
    METHOD_ROWS,
    Group,
    Study,
    group_key,
    prepare,
    result_of,
    row_overrides,
    run_key,
    teach,
)
from amalgamation_tables import write_tables
from datasets import disable_progress_bars
from filelock import FileLock, Timeout
from settings import BASE, SETTINGS, TWO_LANGUAGES, Case, LeftOut, Plan, Source, interleaved
from settings import plan as make_plan
from teachers import SETTINGS as TEACHER_TRAINING
from transformers.utils import logging

from amalgam_edge.cli.progress import ConsoleProgress
from amalgam_edge.progress import Progress
from amalgam_edge.recipe.recipe import Recipe
from amalgam_edge.storage.staging import write_text_atomically

QUICK = {
    "corpora": ["debian_sections"],
    "settings": [BASE],
    "methods": ["vanilla-kd", "muka-soft", "refined", LABELS],
    "seeds": [0],
}
CORPORA = ("debian_sections", "wordnet_nouns", "wordnet_verbs", "kjv_books")
# The corpus that a setting of two takes beside one. kjv_books, on which nothing is tuned, is beside none.
OTHER = {
    "debian_sections": "wordnet_verbs",
    "wordnet_nouns": "debian_sections",
    "wordnet_verbs": "wordnet_nouns",
    "kjv_books": "wordnet_nouns",
}


def source_loader(study: Study) -> Callable[[str], Source]:
    """What reads corpora by their names, each once.

    It raises :class:`LeftOut` where there is none.
    """

    @cache
    def load(name: str) -> Source:
        larger: corpora.Rows = []
        if hub_corpora.is_of_the_hub(name):
            texts, labels = hub_corpora.read(name, study.runs / "corpora", study.most or 400)
        else:
            try:
                texts, labels = corpora.load(name)
            except FileNotFoundError as error:
                raise LeftOut(f"samples/{name}.csv is not there; benchmarks/README.md says how it is made") from error
            if (corpora.SAMPLES / f"{name}_large.csv").exists():
                known = set(texts)
                larger = [row for row in zip(*corpora.load(f"{name}_large"), strict=True) if row[0] not in known]
        hands = corpora.TEACHERS.get(name, {}).values()
        split = corpora.split(*at_most(texts, labels, study.most))
        return Source(name, split, interleaved(hands) if hands else tuple(sorted(set(labels))), larger)

    return load


def at_most(texts: Sequence[str], labels: Sequence[str], most: int | None) -> tuple[list[str], list[str]]:
    """At most so many texts of each label, the first by hash."""
    room = dict.fromkeys(labels, len(texts) if most is None else most)
    kept = []
    for text, label in sorted(zip(texts, labels, strict=True), key=lambda row: corpora.by_hash(row[0])):
        if room[label]:
            room[label] -= 1
            kept.append((text, label))
    return [text for text, _ in kept], [label for _, label in kept]


def planned(groups: Iterable[Group], study: Study, say: Callable[[str], None]) -> dict[Group, Plan]:
    """The plan of each group that can be had; of the others it is said, once, why not."""
    load, plans, left_out = source_loader(study), {}, {}
    for group in groups:
        try:
            source = load(group.corpus)
        except LeftOut as reason:
            left_out[group.corpus] = reason
            continue
        try:
            other = load(OTHER.get(group.corpus, CORPORA[0]))
            plans[group] = make_plan(group.setting, Case(source, other, group.seed))
        except LeftOut as reason:
            left_out[f"{group.corpus}, {group.setting}"] = reason
    for what, reason in left_out.items():
        say(f"left out: {what}: {reason}")
    return plans


class Work:
    """What is to be done, by this process and by others that have the same folder.

    Args:
        plans: of all groups.
        study: what they have in common.
    """

    def __init__(self, plans: Mapping[Group, Plan], study: Study) -> None:
        self._study = study
        self._keys = {
            group: {row: run_key(key, row) for row in study.methods}
            for group, plan in plans.items()
            for key in [group_key(study, group, plan)]
        }
        self._start, self._n_then = monotonic(), self.n_left

    def missing(self, group: Group) -> list[str]:
        """The rows of a group that have no result yet."""
        folder = group.folder(self._study.runs)
        return [row for row, key in self._keys[group].items() if result_of(folder, row, key) is None]

    def key(self, group: Group, row: str) -> str:
        """What a run depends on, in short."""
        return self._keys[group][row]

    @property
    def n_left(self) -> int:
        """How many runs are to be made."""
        return sum(len(self.missing(group)) for group in self._keys)

    def outlook(self) -> str:
        """How many runs are left and how long they may take, all processes together."""
        left = self.n_left
        done = self._n_then - left
        minutes = f", about {(monotonic() - self._start) / done * left / 60:.0f} min" if done else ""
        return f"{left} runs left{minutes}"


def run(plans: Mapping[Group, Plan], study: Study, job: tuple[int, int], progress: Progress) -> None:
    """Make what is not made yet: this process' share of the groups, then what others have not begun."""
    part, parts = job
    work, groups = Work(plans, study), [*plans]
    progress.say(f"{len(groups)} groups of {len(study.methods)} methods, {work.outlook()}")
    for group in sorted(groups, key=lambda group: groups.index(group) % parts != part - 1):
        folder = group.folder(study.runs)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(folder / ".lock", timeout=0):
                if rows := work.missing(group):
                    progress.say(f"\n{group}: {', '.join(rows)}")
                    run_group(group, rows, plans[group], work, study, progress)
        except Timeout:
            progress.say(f"{group}: another process is at it")


def run_group(group: Group, rows: Sequence[str], plan: Plan, work: Work, study: Study, progress: Progress) -> None:
    """Make some runs of a group."""
    made = prepare(study, group, plan, progress)
    folder = group.folder(study.runs)
    for row in rows:
        began = monotonic()
        measured = teach(made, row, folder, progress)
        result = {
            **group._asdict(),
            "method": row,
            "key": work.key(group, row),
            **measured,
            "seconds": round(monotonic() - began, 1),
        }
        write_text_atomically(folder / row / "result.json", json.dumps(result, indent=1))
        progress.say(
            f"{group}, {row}: accuracy {result['accuracy']:.1%}, macro-F1 {result['macro_f1']:.1%} ({work.outlook()})"
        )


def all_groups(options: argparse.Namespace) -> list[Group]:
    """Groups in the order that they are made in: settings one after the other, so that the base is done first."""
    names = [*options.corpora]
    if "languages" in options.settings and TWO_LANGUAGES not in names:
        names.append(TWO_LANGUAGES)
    return [
        Group(corpus, setting, seed)
        for setting in options.settings
        for seed in options.seeds
        for corpus in names
        if (setting == "languages") == (corpus == TWO_LANGUAGES)
    ]


def job_of(text: str) -> tuple[int, int]:
    """``i/n`` to two numbers."""
    first, _, of = text.partition("/")
    part, parts = int(first), int(of)
    if not 1 <= part <= parts:
        raise ValueError(text)
    return part, parts


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", nargs="+", default=[*CORPORA], help="of samples/, or of the Hub")
    parser.add_argument("--settings", nargs="+", default=[*SETTINGS], choices=[*SETTINGS], metavar="SETTING")
    parser.add_argument("--methods", nargs="+", default=[*METHOD_ROWS], metavar="METHOD", help=", ".join(METHOD_ROWS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--quick", action="store_true", help="what can be had in 10 minutes on 2 cores")
    parser.add_argument("--epochs", type=int, default=Recipe().epochs, help="of students")
    parser.add_argument("--teacher-epochs", type=int, default=TEACHER_TRAINING.epochs)
    parser.add_argument(
        "--most", type=int, help="texts a label of a corpus, before its split  [default: all, Hub: 400]"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/amalgamation"), help="folder for all that is made")
    parser.add_argument("--output", type=Path, help="folder for tables and plots  [default: RUNS/tables]")
    parser.add_argument("--threads", type=int, help="to compute with  [default: one a core]")
    parser.add_argument(
        "--jobs-of", type=job_of, default=(1, 1), metavar="I/N", help="begin with each N-th group, from I"
    )
    parser.add_argument("--tables-only", action="store_true", help="of the results that are there")
    options = parser.parse_args()
    if options.quick:
        for name, value in QUICK.items():
            setattr(options, name, value)
    return options


def main() -> None:
    """Run the study, and write the tables of all results that are there."""
    options = parse()
    progress = ConsoleProgress()
    if options.threads:
        os.environ["RAYON_NUM_THREADS"] = str(options.threads)  # what tokenizers compute with
        torch.set_num_threads(options.threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    disable_progress_bars()
    if not options.tables_only:
        methods = []
        for row in options.methods:
            try:
                row_overrides(row)
                methods.append(row)
            except LeftOut as reason:
                progress.say(f"left out: {row}: {reason}")
        study = Study(options.runs, methods, options.epochs, options.teacher_epochs, options.most, options.threads)
        run(planned(all_groups(options), study, progress.say), study, options.jobs_of, progress)
    print(write_tables(options.runs, options.output or options.runs / "tables", [*METHOD_ROWS]))


if __name__ == "__main__":
    main()
