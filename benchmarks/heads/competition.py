"""Try the test of whether teachers compete on sets of teachers of which that is known.

python -m benchmarks.heads.competition --data FOLDER    # FOLDER holds clinc150.csv; without, those sets are left out
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from transformers.utils import logging

from amalgam_edge.console_progress import ConsoleProgress
from amalgam_edge.methods.competition import Competition, compare_answers
from benchmarks.amalgamation.sources import corpus_loader
from benchmarks.amalgamation.students import Study
from benchmarks.common.errors import UnavailableError
from benchmarks.corpora import clinc150
from benchmarks.heads import settings
from benchmarks.heads.questions import read_rows
from benchmarks.heads.scoring import Workshop, say
from benchmarks.heads.settings import TeacherSet
from benchmarks.heads.teachers import RUNS
from examples.corpora import DATA
from examples.corpora import load as load_corpus
from examples.teachers import TEACHER_TRAINING

# (corpus, setting, second corpus) of the amalgamation benchmark: those that thresholds were chosen on, and others.
CHOSEN_ON = (
    ("debian_sections", "two", "kjv_books"),
    ("debian_sections", "four", "kjv_books"),
    ("debian_sections", "useless-foreign", "wordnet_verbs"),
    ("debian_sections", "useless-shuffled", "wordnet_verbs"),
    ("debian_sections", "unbalanced", "kjv_books"),
    ("debian_sections", "out-of-domain-far", "kjv_books"),
)
KEPT_BACK = (
    ("wordnet_nouns", "two", "debian_sections"),
    ("wordnet_nouns", "useless-foreign", "debian_sections"),
    ("debian_sections", "datasets", "kjv_books"),
    ("kjv_books", "two", "wordnet_nouns"),
    ("kjv_books", "three", "wordnet_nouns"),
    ("kjv_books", "useless-foreign", "wordnet_nouns"),
    ("wordnet_verbs", "two", "wordnet_nouns"),
    ("wordnet_verbs", "useless-foreign", "wordnet_nouns"),
    ("wordnet_nouns", "useless-shuffled", "debian_sections"),
)


def all_sets(data: Path | None) -> Iterator[tuple[TeacherSet, bool]]:
    """The sets, and whether thresholds were chosen on them."""
    load = corpus_loader(Study(RUNS, [], 0, 0, None, None))
    for made in settings.amalgamation_sets(load, CHOSEN_ON):
        yield made, True
    facets = read_rows(DATA / "debian_facets.csv")
    everything = dict.fromkeys([column for column in facets[0] if column != "text"], len(facets))
    for made in settings.independent_sets("debian_facets", facets, (2, 3, 6), **everything):
        yield made, not any(teacher.question.multi for teacher in made.teachers)
    for made in settings.amalgamation_sets(load, KEPT_BACK):
        yield made, False
    verses = settings.verse_questions(*load_corpus("kjv_books"))
    for made in settings.independent_sets("kjv_books", verses, (2, 3, 4)):
        yield made, False
    try:
        rows = clinc150.read(data)
    except UnavailableError as reason:
        print(f"left out: {reason}")
        return
    yield settings.clinc_domains(rows, 5), True
    for made in settings.independent_sets("clinc150", settings.clinc_questions(rows), (2, 3, 4), intent=1200):
        yield made, True


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help=f"folder that holds {clinc150.FILE}")
    parser.add_argument("--runs", type=Path, default=RUNS, help="folder for everything that is made")
    parser.add_argument("--epochs", type=int, default=TEACHER_TRAINING.epochs, help="epochs of teachers")
    parser.add_argument(
        "--learning-rate", type=float, default=TEACHER_TRAINING.learning_rate, help="learning rate of teachers"
    )
    parser.add_argument("--layers", type=int, help="layers of teachers  [default: all]")
    parser.add_argument("--threads", type=int, default=1, help="threads to compute with")
    return parser.parse_args()


def row(made: TeacherSet, chosen_on: bool, found: Competition) -> str:
    """A row of the table."""
    known = {True: "compete", False: "different questions", None: "some compete"}[made.competes]
    wrong = made.competes is not None and (found.verdict == ("independent" if made.competes else "compete"))
    cells = [
        made.name,
        known,
        "yes" if chosen_on else "no",
        f"{found.concord:+.2f} ± {found.error:.2f}",
        f"{min(found.concord_of.values()):+.2f}",
        f"{max(found.known_to.values()):.0%}",
        f"**wrong:** {found.verdict}" if wrong else found.verdict,
    ]
    return f"| {' | '.join(cells)} |"


HEADER = """| teachers | truth | chosen on | concord | least of a teacher | most known to one | verdict |
| --- | --- | --- | ---: | ---: | ---: | --- |"""


def main() -> None:
    """Make teachers and scores, and print the table."""
    options, progress = parse(), ConsoleProgress()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(options.threads)
    training = replace(TEACHER_TRAINING, epochs=options.epochs, learning_rate=options.learning_rate)
    workshop = Workshop(options.runs, training, options.layers, options.threads)
    sets = [*all_sets(options.data)]
    progress.begin(len({workshop.key(teacher) for made, _ in sets for teacher in made.teachers}))
    print(HEADER)
    for made, chosen_on in sets:
        said = {
            teacher.name: say(workshop.pass_logits(teacher, made.texts, progress), multi=teacher.question.multi)
            for teacher in made.teachers
        }
        print(row(made, chosen_on, compare_answers(said)), flush=True)


if __name__ == "__main__":
    main()
