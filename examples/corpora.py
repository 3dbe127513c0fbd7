"""The labelled corpora in ``data/``: their texts, the labels of each teacher, and how texts are split by purpose.

``benchmarks/corpora/make_*.py`` make the files; benchmarks/README.md says where the texts come from and under which
licence.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from amalgam_edge.storage.staging import write_text_atomically

DATA = Path(__file__).with_name("data")
# Two teachers with disjoint labels. Some labels of one teacher resemble some of the other's (noun.animal and
# noun.plant), so that choosing between teachers is part of the task.
TEACHERS: dict[str, dict[str, tuple[str, ...]]] = {
    "debian_sections": {
        "teacher-a": ("games", "science", "net", "sound"),
        "teacher-b": ("admin", "text", "graphics", "fonts"),
    },
    "debian_two_languages": {  # the first teacher reads German, the second English
        "teacher-a": ("games", "sound", "admin", "text"),
        "teacher-b": ("science", "graphics", "net", "fonts"),
    },
    "wordnet_nouns": {
        "teacher-a": ("noun.animal", "noun.food", "noun.person", "noun.location"),
        "teacher-b": ("noun.plant", "noun.body", "noun.artifact", "noun.communication"),
    },
    "wordnet_verbs": {
        "teacher-a": ("verb.motion", "verb.communication", "verb.social", "verb.change"),
        "teacher-b": ("verb.contact", "verb.cognition", "verb.possession", "verb.creation"),
    },
    "kjv_books": {  # of each kind of book, each teacher has one
        "teacher-a": ("Genesis", "Leviticus", "Psalms", "Isaiah", "Matthew"),
        "teacher-b": ("1 Samuel", "Numbers", "Proverbs", "Ezekiel", "Acts"),
    },
}
# Shares of each label's texts: the first fine-tunes its teacher, the second is the unlabeled corpus, the rest is for
# testing.
SHARES = (0.35, 0.40)

Rows = list[tuple[str, str]]


class Split(NamedTuple):
    """Pairs of text and label for each purpose.

    Attributes:
        for_teachers: Texts that fine-tune the teachers.
        corpus: The unlabeled corpus; its labels are for comparisons alone, no student may see them.
        test: Texts that students are tested on.
    """

    for_teachers: Rows
    corpus: Rows
    test: Rows


def load(name: str) -> tuple[list[str], list[str]]:
    """Read the texts of a corpus and their labels.

    Raises:
        FileNotFoundError: The corpus has to be made first; benchmarks/README.md says how.
    """
    with (DATA / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [row["text"] for row in rows], [row["label"] for row in rows]


def by_hash(text: str) -> str:
    """A sort key that puts texts in an order unrelated to their content, the same on every machine."""
    return hashlib.sha256(text.encode()).hexdigest()


def split(texts: Sequence[str], labels: Sequence[str]) -> Split:
    """Divide the texts of each label by their hash: a text goes to the same part whatever the order of the texts."""
    parts = Split([], [], [])
    for label in sorted(set(labels)):
        labelled = sorted((text for text, of in zip(texts, labels, strict=True) if of == label), key=by_hash)
        first, second = (round(len(labelled) * share) for share in SHARES)
        chunks = labelled[:first], labelled[first : first + second], labelled[first + second :]
        for part, chunk in zip(parts, chunks, strict=True):
            part.extend((text, label) for text in chunk)
    for part in parts:
        part.sort(key=lambda row: by_hash(row[0]))
    return parts


def write_jsonl(path: Path, rows: Iterable[dict[str, str]]) -> None:
    """Write one JSON object per line, as `amalgam-edge build` reads them."""
    write_text_atomically(path, "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows))
