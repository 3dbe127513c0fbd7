"""Hints of a build: whose stream a text of the corpus came from, and which texts have a known label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from amalgam_edge.building.data import BuildTexts
from amalgam_edge.corpus import Corpus
from amalgam_edge.errors import AmalgamError
from amalgam_edge.gold import LABEL_COLUMN, GoldAnswers, gold_answers, label_columns
from amalgam_edge.heads import SOFTMAX, Head
from amalgam_edge.methods.hints import Hints
from amalgam_edge.methods.taught_heads import TaughtHead, TaughtHeads
from amalgam_edge.progress import Say
from amalgam_edge.recipe.sections import HintSettings

_DIGEST = np.dtype([("low", "<u8"), ("high", "<u8")])


def find_hints(texts: BuildTexts, heads: TaughtHeads, settings: HintSettings) -> dict[str, Hints]:
    """Head → what is known of some texts; without the heads of which nothing is.

    Raises:
        AmalgamError: An owner is none of the teachers, a known label is none of a head's, or no text of known label is
            in the corpus.
    """
    owners = _owners(texts.corpus, heads, settings.owner_column) if settings.owner_column else None
    found = {}
    for taught in heads:
        rows, target = _known_labels(texts, taught.head, heads)
        owner = _positions(owners, taught, len(texts.corpus))
        if len(rows) or (owner >= 0).any():
            found[taught.head.name] = Hints(owner, rows, target)
    return found


def check_hints(texts: BuildTexts, heads: TaughtHeads, settings: HintSettings, say: Say) -> None:
    """Say how much is known, and what of the known labels cannot be used.

    Raises:
        AmalgamError: As :func:`find_hints`.
    """
    for name, hints in find_hints(texts, heads, settings).items():
        where = f"head '{name}': " if len(heads) > 1 else ""
        owned, n_texts = int((hints.owner >= 0).sum()), len(texts.corpus)
        say(f"{where}known beforehand: the owner of {owned} and the label of {len(hints.rows)} of {n_texts} texts")
    if texts.known is not None:
        matched, _ = _rows_of(texts.known, texts.corpus)
        if left := len(texts.known) - len(matched):
            say(f"{settings.known_labels}: {left} of {len(texts.known)} texts are not in the corpus and are left out")


def _owners(corpus: Corpus, heads: TaughtHeads, column: str) -> list[str]:
    """The name of each text's owner, empty where it is not known."""
    names = [(name or "").strip() for name in corpus.labels(column)]
    teachers = [teacher for taught in heads for teacher in taught.teachers]
    unknown = next((name for name in names if name and name not in teachers), None)
    if unknown is not None:
        raise AmalgamError(f"--owner-column {column}: no teacher '{unknown}'; there are {', '.join(teachers)}")
    return names


def _positions(owners: Sequence[str] | None, taught: TaughtHead, n_texts: int) -> np.ndarray:
    """The position of each text's owner among the teachers of a head, ``(n_texts,)``; −1 where it is none of them."""
    if owners is None:
        return np.full(n_texts, -1)
    position: Mapping[str, int] = {teacher: place for place, teacher in enumerate(taught.teachers)}
    return np.array([position.get(owner, -1) for owner in owners])


def _known_labels(texts: BuildTexts, head: Head, heads: TaughtHeads) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the corpus whose labels of a head are known, and these as a target ``(n_known, n_labels)``."""
    column = label_columns(heads.heads.names, [LABEL_COLUMN])[head.name]
    if texts.known is None or not texts.known.has_labels(column):
        return np.empty(0, dtype=int), np.empty((0, len(head)))
    gold = gold_answers(head, texts.known.labels(column), may_lack=True)
    in_known, in_corpus = _rows_of(texts.known, texts.corpus)
    if not len(in_corpus):
        raise AmalgamError("--known-labels: none of its texts is in the corpus; they have to be the same to the letter")
    row_of = dict(zip(in_known.tolist(), in_corpus.tolist(), strict=True))
    kept = np.array([position for position, row in enumerate(gold.rows.tolist()) if row in row_of], dtype=int)
    return np.array([row_of[int(gold.rows[k])] for k in kept], dtype=int), _target(head, gold)[kept]


def _target(head: Head, gold: GoldAnswers) -> np.ndarray:
    return np.eye(len(head))[gold.answers] if head.activation == SOFTMAX else gold.answers.astype(float)


def _rows_of(known: Corpus, corpus: Corpus) -> tuple[np.ndarray, np.ndarray]:
    """The rows of texts that are in both, in the one and in the other."""
    one, other = (np.ascontiguousarray(each.digests).view(_DIGEST).ravel() for each in (known, corpus))
    _, in_known, in_corpus = np.intersect1d(one, other, return_indices=True)
    return in_known, in_corpus
