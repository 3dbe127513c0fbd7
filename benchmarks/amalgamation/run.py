"""Compare amalgamation methods over corpora, settings and seeds, in tables and plots.

    python -m benchmarks.amalgamation.run --quick          # one corpus, one seed, five methods: about 10 minutes
    python -m benchmarks.amalgamation.run --seeds 0 1 2 --threads 1 --jobs-of 1/2 &
    python -m benchmarks.amalgamation.run --seeds 0 1 2 --threads 1 --jobs-of 2/2
    python -m benchmarks.amalgamation.run --tables-only

The seed decides which teacher gets which labels (seed 0: as in examples/corpora.py). It is also the seed of the
training of teachers, of the dropout masks and of the student. Teachers are MiniLM-L6, fine-tuned for 5 epochs; the
student is MiniLM-L6 cut to 3 layers, and everything else is as in `amalgam-edge build`. Measured is the float student
after calibration.

Every run has a folder with result.json and, except for true labels, the recipe.yaml from which `amalgam-edge build
--recipe` makes the same student. A run that has a result is not made again unless its inputs have changed, so a killed
study continues where it stopped. After a change to the code of a method, remove its results:
rm -r RUNS/*/*/*/METHOD.

A method may be given with recipe options, as in muka-soft@score_temperature=0.5,epochs=3. A corpus of the Hub is named
hf://OWNER/NAME, followed by :TEXT_COLUMN:LABEL_COLUMN:SPLIT unless these are text, label and train. The corpora of the
paper are named ag_news, thucnews, google_snippets and 5abstracts (no copy of the last two is known: name one). With
--data, a corpus NAME is read from FOLDER/NAME.csv if there is one: columns text and label, and domain if the labels of
a domain belong to one teacher.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from time import monotonic

import torch
from datasets import disable_progress_bars
from filelock import FileLock, Timeout
from transformers.utils import logging

from amalgam_edge.console_progress import ConsoleProgress
from amalgam_edge.progress import Progress, Say
from amalgam_edge.recipe.recipe import Recipe
from amalgam_edge.storage.staging import write_text_atomically
from benchmarks.amalgamation.results import ATTAINABLE, LABELS
from benchmarks.amalgamation.settings import BASE, SETTINGS, TWO_LANGUAGES, Plan, PlanInputs, make_plan
from benchmarks.amalgamation.sources import corpus_loader
from benchmarks.amalgamation.students import (
    METHOD_VARIANTS,
    Group,
    Study,
    group_key,
    prepare,
    read_result,
    recipe_overrides,
    run_key,
    train_and_measure,
)
from benchmarks.amalgamation.tables import write_tables
from benchmarks.common.errors import UnavailableError
from examples.teachers import TEACHER_TRAINING

QUICK = {
    "corpora": ["debian_sections"],
    "settings": [BASE],
    "methods": ["vanilla-kd", "muka-soft", "refined", ATTAINABLE, LABELS],
    "seeds": [0],
}
CORPORA = ("debian_sections", "wordnet_nouns", "wordnet_verbs", "kjv_books")
# For settings that take two corpora: the second one for each corpus. Nothing is tuned on kjv_books, so it is never one.
SECOND_CORPUS = {
    "debian_sections": "wordnet_verbs",
    "wordnet_nouns": "debian_sections",
    "wordnet_verbs": "wordnet_nouns",
    "kjv_books": "wordnet_nouns",
}


def make_plans(groups: Iterable[Group], study: Study, say: Say) -> dict[Group, Plan]:
    """The plan of each group that is possible; ``say`` is called once with the reason why another is not."""
    load, plans, left_out = corpus_loader(study), {}, {}
    for group in groups:
        try:
            source = load(group.corpus)
        except UnavailableError as reason:
            left_out[group.corpus] = reason
            continue
        try:
            other = load(SECOND_CORPUS.get(group.corpus, CORPORA[0]))
            plans[group] = make_plan(group.setting, PlanInputs(source, other, group.seed))
        except UnavailableError as reason:
            left_out[f"{group.corpus}, {group.setting}"] = reason
    for what, reason in left_out.items():
        say(f"left out: {what}: {reason}")
    return plans


class Work:
    """The runs that are still to be made, by this process and by others that work on the same folder.

    Args:
        plans: The plans of all groups.
        study: Options that the groups have in common.
    """

    def __init__(self, plans: Mapping[Group, Plan], study: Study) -> None:
        self._study = study
        self._keys = {
            group: {method: run_key(key, method) for method in study.methods}
            for group, plan in plans.items()
            for key in [group_key(study, group, plan)]
        }
        self._start, self._n_at_start = monotonic(), self.n_left

    def missing(self, group: Group) -> list[str]:
        """The methods of a group that have no result yet."""
        folder = group.folder(self._study.runs)
        return [method for method, key in self._keys[group].items() if read_result(folder, method, key) is None]

    def key(self, group: Group, method: str) -> str:
        """A hash of everything that a run depends on."""
        return self._keys[group][method]

    @property
    def n_left(self) -> int:
        """How many runs are still to be made."""
        return sum(len(self.missing(group)) for group in self._keys)

    def outlook(self) -> str:
        """How many runs are left, and about how many minutes all processes together need for them."""
        left = self.n_left
        done = self._n_at_start - left
        minutes = f", about {(monotonic() - self._start) / done * left / 60:.0f} min" if done else ""
        return f"{left} runs left{minutes}"


def run(plans: Mapping[Group, Plan], study: Study, job: tuple[int, int], progress: Progress) -> None:
    """Make the missing runs: first the groups of this process' share, then those that no other process has begun."""
    part, parts = job
    work, groups = Work(plans, study), [*plans]
    progress.say(f"{len(groups)} groups of {len(study.methods)} methods, {work.outlook()}")
    for group in sorted(groups, key=lambda group: groups.index(group) % parts != part - 1):
        folder = group.folder(study.runs)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(folder / ".lock", timeout=0):
                if methods := work.missing(group):
                    progress.say(f"\n{group}: {', '.join(methods)}")
                    run_group(group, methods, plans[group], work, study, progress)
        except Timeout:
            progress.say(f"{group}: another process is working on it")


def run_group(group: Group, methods: Sequence[str], plan: Plan, work: Work, study: Study, progress: Progress) -> None:
    """Make the runs of some methods of a group."""
    prepared = prepare(study, group, plan, progress)
    folder = group.folder(study.runs)
    for method in methods:
        began = monotonic()
        measured = train_and_measure(prepared, method, folder, progress)
        result = {
            **group._asdict(),
            "method": method,
            "key": work.key(group, method),
            **measured,
            "seconds": round(monotonic() - began, 1),
        }
        write_text_atomically(folder / method / "result.json", json.dumps(result, indent=1))
        measures = f"accuracy {result['accuracy']:.1%}, macro-F1 {result['macro_f1']:.1%}"
        progress.say(f"{group}, {method}: {measures} ({work.outlook()})")


def all_groups(options: argparse.Namespace) -> list[Group]:
    """The groups in the order in which they are made: setting by setting, so that the base setting is done first."""
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
    """Parse ``i/n``.

    Raises:
        ValueError: i is not between 1 and n.
    """
    first, _, of = text.partition("/")
    part, parts = int(first), int(of)
    if not 1 <= part <= parts:
        raise ValueError(text)
    return part, parts


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", nargs="+", default=[*CORPORA], help="of examples/data/, or of the Hub")
    parser.add_argument("--settings", nargs="+", default=[*SETTINGS], choices=[*SETTINGS], metavar="SETTING")
    parser.add_argument(
        "--methods", nargs="+", default=[*METHOD_VARIANTS], metavar="METHOD", help=", ".join(METHOD_VARIANTS)
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument(
        "--quick", action="store_true", help="one corpus, one seed and five methods: about 10 minutes on 2 cores"
    )
    parser.add_argument("--epochs", type=int, default=Recipe().training.epochs, help="epochs of students")
    parser.add_argument("--teacher-epochs", type=int, default=TEACHER_TRAINING.epochs, help="epochs of teachers")
    parser.add_argument(
        "--most", type=int, help="texts per label of a corpus, before its split  [default: all, of the Hub: 400]"
    )
    parser.add_argument("--data", type=Path, help="folder of further corpora, as CSV files")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/amalgamation"), help="folder for everything that is made"
    )
    parser.add_argument("--output", type=Path, help="folder for tables and plots  [default: RUNS/tables]")
    parser.add_argument("--threads", type=int, help="threads to compute with  [default: one per core]")
    parser.add_argument(
        "--jobs-of", type=job_of, default=(1, 1), metavar="I/N", help="begin with every N-th group, from the I-th"
    )
    parser.add_argument("--tables-only", action="store_true", help="write tables of existing results, make no runs")
    options = parser.parse_args()
    if options.quick:
        for name, value in QUICK.items():
            setattr(options, name, value)
    return options


def main() -> None:
    """Run the study, and write tables of all existing results."""
    options = parse()
    progress = ConsoleProgress()
    if options.threads:
        os.environ["RAYON_NUM_THREADS"] = str(options.threads)  # the threads of tokenizers
        torch.set_num_threads(options.threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    disable_progress_bars()
    if not options.tables_only:
        methods = []
        for method in options.methods:
            try:
                recipe_overrides(method)
                methods.append(method)
            except UnavailableError as reason:
                progress.say(f"left out: {method}: {reason}")
        study = Study(
            options.runs, methods, options.epochs, options.teacher_epochs, options.most, options.threads, options.data
        )
        run(make_plans(all_groups(options), study, progress.say), study, options.jobs_of, progress)
    print(write_tables(options.runs, options.output or options.runs / "tables", [*METHOD_VARIANTS]))


if __name__ == "__main__":
    main()
