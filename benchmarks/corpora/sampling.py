"""Choosing the texts of a corpus by hash, leaving out near duplicates, and writing them as CSV."""

from __future__ import annotations

import csv
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from math import ceil
from typing import TextIO

from examples.corpora import by_hash

_WORD = re.compile(r"[^\W\d_]+")


def without_near_duplicates(texts: Iterable[str], similarity: float = 0.6) -> Iterator[str]:
    """The texts in their order, without those whose words are nearly the same as those of an earlier one.

    Two texts are near duplicates if their sets of words (without numbers, ignoring case) have a Jaccard index of
    ``similarity`` or more. Near duplicates must share one of their rarest words, so only texts that do are compared.
    """
    texts = list(texts)
    words_of = [frozenset(_WORD.findall(text.lower())) for text in texts]
    frequency = Counter(word for words in words_of for word in words)
    kept: list[frozenset[str]] = []
    kept_with: dict[str, list[int]] = defaultdict(list)
    for text, words in zip(texts, words_of, strict=True):
        rarest_first = sorted(words, key=lambda word: (frequency[word], word))
        rarest = rarest_first[: len(words) - ceil(similarity * len(words)) + 1]
        similar = {index for word in rarest for index in kept_with[word]}
        if words and all(len(words & kept[index]) < similarity * len(words | kept[index]) for index in similar):
            for word in rarest:
                kept_with[word].append(len(kept))
            kept.append(words)
            yield text


def choose(candidates: Iterable[tuple[str, str]], labels: Sequence[str], most: int) -> list[tuple[str, str]]:
    """At most ``most`` pairs of text and label for each of ``labels``, chosen by hash, without near duplicates.

    A text that occurs with two labels is left out, since either may be wrong.
    """
    labels_of: dict[str, set[str]] = defaultdict(set)
    for text, label in candidates:
        labels_of[text].add(label)
    label_of = {text: next(iter(found)) for text, found in labels_of.items() if len(found) == 1}
    rows = []
    room = Counter(dict.fromkeys(labels, most))
    for text in without_near_duplicates(sorted((text for text in label_of if label_of[text] in room), key=by_hash)):
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
