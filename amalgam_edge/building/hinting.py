"""Hints of a build: whose stream a text of the corpus came from, and which texts have a known label."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from amalgam_edge.building.data import BuildTexts
from amalgam_edge.corpus import Corpus
from amalgam_edge.errors import AmalgamError
from amalgam_edge.gold import LABEL_COLUMN, gold_answers, gold_sets, label_columns
from amalgam_edge.heads import Head
from amalgam_edge.methods.hints import Hints
from amalgam_edge.methods.taught_heads import TaughtHead, TaughtHeads
from amalgam_edge.progress import Say
from amalgam_edge.recipe.sections import HintSettings

_DIGEST = np.dtype([("low", "<u8"), ("high", "<u8")])


def find_hints(texts: BuildTexts, heads: TaughtHeads, settings: HintSettings) -> dict[str, Hints]:
    """Head → what is known of some texts; without the heads of which nothing is.

    Raises:
        AmalgamError: An owner is none of the teachers, or a known label is none of a head's.
    """
    owners = _owners(texts.corpus, heads, settings.owner_column) if settings.owner_column else None
    columns = label_columns(heads.heads.names, [LABEL_COLUMN])
    row_of = _rows_in(texts.corpus, texts.known) if texts.known is not None else None
    found = {}
    for taught in heads:
        rows, target = _known_labels(texts.known, row_of, taught.head, columns[taught.head.name])
        owner = _positions(owners, taught, len(texts.corpus))
        if len(rows) or (owner >= 0).any():
            found[taught.head.name] = Hints(owner, rows, target)
    return found


def check_hints(texts: BuildTexts, heads: TaughtHeads, settings: HintSettings, say: Say) -> None:
    """Say how much is known, and what of the known labels cannot be used.

    Raises:
        AmalgamError: As :func:`find_hints`, or no text of known label is in the corpus.
    """
    found = find_hints(texts, heads, settings)
    n_known = 0 if texts.known is None else len(texts.known)
    n_missing = 0 if texts.known is None else int((_rows_in(texts.corpus, texts.known) < 0).sum())
    if n_known and n_missing == n_known:
        raise AmalgamError("--known-labels: none of its texts is in the corpus; they have to be the same to the letter")
    for name, hints in found.items():
        where = f"head '{name}': " if len(heads) > 1 else ""
        owned, n_texts = int((hints.owner >= 0).sum()), len(texts.corpus)
        say(f"{where}known beforehand: the owner of {owned} and the label of {len(hints.rows)} of {n_texts} texts")
    if n_missing:
        say(f"{settings.known_labels}: {n_missing} of {n_known} texts are not in the corpus and are left out")


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
    position = {teacher: place for place, teacher in enumerate(taught.teachers)}
    return np.array([position.get(owner, -1) for owner in owners])


def _known_labels(
    known: Corpus | None, row_of: np.ndarray | None, head: Head, column: str
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the corpus whose labels of a head are known, and these as a target ``(n_known, n_labels)``.

    Args:
        known: The texts of known labels.
        row_of: The row of the corpus of each of them, as :func:`_rows_in` returns it.
        head: The head.
        column: The column of its labels, which may be lacking.
    """
    if known is None or row_of is None or not known.has_labels(column):
        return np.empty(0, dtype=int), np.empty((0, len(head)))
    gold = gold_answers(head, known.labels(column), may_lack=True)
    rows = row_of[gold.rows]
    return rows[rows >= 0], gold_sets(head, gold)[rows >= 0].astype(float)


def _rows_in(corpus: Corpus, texts: Corpus) -> np.ndarray:
    """The row of the corpus that holds each of some texts, ``(n_texts,)``; −1 where none does."""
    one, other = (np.ascontiguousarray(each.digests).view(_DIGEST).ravel() for each in (texts, corpus))
    _, in_texts, in_corpus = np.intersect1d(one, other, return_indices=True)
    rows = np.full(len(texts), -1)
    rows[in_texts] = in_corpus
    return rows
