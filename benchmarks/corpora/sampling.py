"""What the ``make_*.py`` share: choosing texts by hash, leaving out near twins, writing the sample."""

from __future__ import annotations

import csv
import hashlib
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from math import ceil
from typing import TextIO

_WORD = re.compile(r"[^\W\d_]+")


def by_hash(text: str) -> str:
    """A key that sorts texts in an order that has nothing to do with them, the same everywhere."""
    return hashlib.sha256(text.encode()).hexdigest()


def without_twins(texts: Iterable[str], similarity: float = 0.6) -> Iterator[str]:
    """The texts, in order, less those whose words are nearly those of a text that was kept.

    Two texts are twins where their sets of words (numbers and case aside) have a Jaccard index of ``similarity`` or
    more. Twins have to share one of their rarest words: only texts that do are compared.
    """
    texts = list(texts)
    words_of = [frozenset(_WORD.findall(text.lower())) for text in texts]
    frequency = Counter(word for words in words_of for word in words)
    kept: list[frozenset[str]] = []
    kept_with: dict[str, list[int]] = defaultdict(list)
    for text, words in zip(texts, words_of, strict=True):
        rarest_first = sorted(words, key=lambda word: (frequency[word], word))
        rarest = rarest_first[: len(words) - ceil(similarity * len(words)) + 1]
        rivals = {index for word in rarest for index in kept_with[word]}
        if words and all(len(words & kept[index]) < similarity * len(words | kept[index]) for index in rivals):
            for word in rarest:
                kept_with[word].append(len(kept))
            kept.append(words)
            yield text


def choose(candidates: Iterable[tuple[str, str]], labels: Sequence[str], most: int) -> list[tuple[str, str]]:
    """At most ``most`` pairs of text and label for each of ``labels``, chosen by hash, with no near twins.

    A text that bears two labels is left out: neither is right.
    """
    labels_of: dict[str, set[str]] = defaultdict(set)
    for text, label in candidates:
        labels_of[text].add(label)
    label_of = {text: next(iter(bears)) for text, bears in labels_of.items() if len(bears) == 1}
    rows = []
    room = Counter(dict.fromkeys(labels, most))
    for text in without_twins(sorted((text for text in label_of if label_of[text] in room), key=by_hash)):
        label = label_of[text]
        if room[label]:
            room[label] -= 1
            rows.append((text, label))
        if not +room:  # every label has its texts
            break
    return rows


def write_sample(rows: Iterable[tuple[str, str]], file: TextIO = sys.stdout) -> None:
    """Write pairs of text and label as CSV."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["text", "label"])
    writer.writerows(rows)
