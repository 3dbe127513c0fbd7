"""Summary of the scores of a corpus, in one pass over the shards."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from amalgam_edge.models.teacher import Teacher
from amalgam_edge.scoring.scores import ScoreSummary, TeacherScores, certainty
from amalgam_edge.scoring.store import ScoreStore


def summarise(stores: Sequence[ScoreStore], teachers: Sequence[Teacher]) -> list[ScoreSummary]:
    """Summarise the scores of several teachers over one corpus, shard by shard.

    Args:
        stores: The store of each teacher.
        teachers: The teachers, whose heads say which of them are compared.

    Raises:
        AmalgamError: Shards are missing or cannot be read.
    """
    n_texts = n_compared = 0
    totals = np.zeros((len(stores), 4))  # of each teacher: texts scored, their passes, their u, texts it is picked on
    for shards in zip(*(store.shards() for store in stores), strict=True):
        n_texts += len(shards[0])
        compared = scored_by_all(shards)
        n_compared += len(compared)
        picked = _picked([shard.take(compared) for shard in shards], [teacher.head for teacher in teachers])
        totals += [
            (shard.scored.sum(), shard.passes.sum(), np.nansum(shard.uncertainty), chosen.sum())
            for shard, chosen in zip(shards, picked, strict=True)
        ]
    means = totals[:, 1:] / np.maximum(np.stack([totals[:, 0], totals[:, 0], np.full(len(stores), n_compared)], 1), 1)
    return [
        ScoreSummary(store.key.teacher, n_scored, passes, u, picked, n_failed=n_texts - n_scored)
        for store, n_scored, (passes, u, picked) in zip(
            stores, totals[:, 0].astype(int).tolist(), means.tolist(), strict=True
        )
    ]


def _picked(scores: Sequence[TeacherScores], heads: Sequence[str]) -> list[np.ndarray]:
    """Whether each teacher is the most certain one of its head, ``(n_texts,)`` of bool."""
    picked = []
    for own, head in enumerate(heads):
        rivals = [position for position, other in enumerate(heads) if other == head]
        best = certainty([scores[position] for position in rivals]).argmax(axis=1)
        picked.append(best == rivals.index(own))
    return picked


def scored_by_all(scores: Sequence[TeacherScores]) -> np.ndarray:
    """The rows of the texts that every teacher could score, ascending, ``(n_scored,)``."""
    return np.flatnonzero(np.all([teacher.scored for teacher in scores], axis=0))
