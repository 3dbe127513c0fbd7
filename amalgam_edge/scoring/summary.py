"""What the scores of a corpus come to, in one pass over the shards."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from amalgam_edge.scores import ScoreSummary
from amalgam_edge.scoring.store import ScoreStore
from amalgam_edge.supervision import certainty


def summarise(stores: Sequence[ScoreStore]) -> list[ScoreSummary]:
    """Summarise teachers over the same corpus, shard by shard.

    Raises:
        AmalgamError: shards are missing or cannot be read.
    """
    n_texts = 0
    totals = np.zeros((len(stores), 3))
    for shards in zip(*(store.shards() for store in stores), strict=True):
        n_texts += len(shards[0])
        picked = certainty(shards).argmax(axis=1)
        totals += [
            (shard.passes.sum(), shard.uncertainty.sum(), (picked == position).sum())
            for position, shard in enumerate(shards)
        ]
    return [
        ScoreSummary(store.key.teacher, n_texts, *row)
        for store, row in zip(stores, (totals / n_texts).tolist(), strict=True)
    ]
