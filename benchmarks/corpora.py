"""The labelled corpora of ``samples/``: their texts, whose labels are which teacher's, and how they are split.

``make_*.py`` make the files; README.md says where the texts come from and under which licence.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from sampling import by_hash

from amalgam_edge.storage.staging import write_text_atomically

SAMPLES = Path(__file__).with_name("samples")
# Two teachers with disjoint labels. Some resemble one of the other teacher's (noun.animal and noun.plant), so that
# choosing between teachers is part of the task.
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
    "kjv_books": {  # of each kind of book one to either
        "teacher-a": ("Genesis", "Leviticus", "Psalms", "Isaiah", "Matthew"),
        "teacher-b": ("1 Samuel", "Numbers", "Proverbs", "Ezekiel", "Acts"),
    },
}
# Of each label's texts: this share fine-tunes its teacher, the next is the unlabeled corpus, the rest is for testing.
SHARES = (0.35, 0.40)

Rows = list[tuple[str, str]]


class Split(NamedTuple):
    """Pairs of text and label for each purpose; a corpus' labels are for comparisons, no student may see them."""

    for_teachers: Rows
    corpus: Rows
    test: Rows


def load(name: str) -> tuple[list[str], list[str]]:
    """The texts of a corpus and their labels.

    Raises:
        FileNotFoundError: the corpus has to be made first; README.md says how.
    """
    with (SAMPLES / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [row["text"] for row in rows], [row["label"] for row in rows]


def split(texts: Sequence[str], labels: Sequence[str]) -> Split:
    """Share out the texts of each label by their hash: the same text goes to the same part whatever the order."""
    parts = Split([], [], [])
    for label in sorted(set(labels)):
        own = sorted((text for text, of in zip(texts, labels, strict=True) if of == label), key=by_hash)
        first, second = (round(len(own) * share) for share in SHARES)
        for part, chunk in zip(parts, (own[:first], own[first : first + second], own[first + second :]), strict=True):
            part.extend((text, label) for text in chunk)
    for part in parts:
        part.sort(key=lambda row: by_hash(row[0]))
    return parts


def write_jsonl(path: Path, rows: Iterable[dict[str, str]]) -> None:
    """Write a row a line, as the command reads them."""
    write_text_atomically(path, "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows))
