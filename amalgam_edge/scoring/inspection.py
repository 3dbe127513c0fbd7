"""Description of a teacher's stored scores: what exists, what failed, their distribution, and what wrote them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np

from amalgam_edge.scoring.store import ScoreStore
from amalgam_edge.storage.records import to_json

QUANTILES = {"min": 0.0, "5%": 0.05, "25%": 0.25, "50%": 0.5, "75%": 0.75, "95%": 0.95, "max": 1.0}
_BINS = 10_000  # of [0, 1]: quantiles are exact to 1e-4, in the same memory for any number of texts
_PAUSE_FACTOR = 10  # a gap between two shards that is this many times the median gap is a pause


def describe(store: ScoreStore) -> dict[str, Any]:
    """Describe a teacher's stored scores, as ``amalgam-edge inspect --json`` prints it.

    Returns:
        JSON values. ``confidence`` holds quantiles of the probability of the likeliest label in the mean prediction,
        ``uncertainty`` those of u, both exact to 1e-4. ``texts_per_second`` is None where fewer than two shards record
        when they were written.

    Raises:
        AmalgamError: A shard cannot be read.
    """
    present = store.present()
    confidence, uncertainty = np.zeros(_BINS, dtype=np.int64), np.zeros(_BINS, dtype=np.int64)
    passes: Counter[int] = Counter()
    writers: Counter[tuple[str, ...]] = Counter()
    written = []
    for shard in present:
        read = store.read_shard(shard)
        scored = read.scores.take(np.flatnonzero(read.scores.scored))
        confidence += _histogram(scored.mean_probabilities.max(axis=1))
        uncertainty += _histogram(scored.uncertainty)
        passes.update(scored.passes.tolist())
        writers[tuple(str(read.lineage.get(name, "unknown")) for name in ("version", "engine", "backend"))] += 1
        if "written" in read.lineage:
            written.append((read.lineage["written"], len(read.scores)))
    n_scored = passes.total()
    failures = store.failures()
    return {
        "teacher": store.key.teacher,
        "folder": str(store.folder),
        "n_texts": store.key.n_texts,
        "shards": {"there": len(present), "missing": store.n_shards - len(present), "size": store.shard_size},
        "n_scored": n_scored,
        "n_failed": len(failures),
        "failures": failures,
        "passes": {
            "mean": sum(count * n for count, n in passes.items()) / n_scored if n_scored else None,
            "texts": {str(count): passes[count] for count in sorted(passes)},
        },
        "confidence": quantiles(confidence),
        "uncertainty": quantiles(uncertainty),
        "texts_per_second": rate(written),
        "teacher_fingerprint": store.key.teacher_fingerprint,
        "corpus_fingerprint": store.key.corpus_fingerprint,
        "key_fingerprint": store.key.fingerprint,
        "settings": store.key.settings,
        "shards_by": [
            {"version": version, "engine": engine, "backend": backend, "shards": count}
            for (version, engine, backend), count in writers.items()
        ],
        "written_by": [to_json(writer) for writer in store.written_by()],
    }


def _histogram(values: np.ndarray) -> np.ndarray:
    """The number of values in each bin of [0, 1], ``(n_bins,)``."""
    bins = np.minimum((values.astype(np.float64) * _BINS).astype(np.int64), _BINS - 1)
    return np.bincount(np.maximum(bins, 0), minlength=_BINS)


def quantiles(histogram: np.ndarray) -> dict[str, float] | None:
    """Quantiles of values in [0, 1], each the middle of its bin; None where there are no values.

    Args:
        histogram: Number of values in each bin, ``(n_bins,)``.
    """
    total = int(histogram.sum())
    if total == 0:
        return None
    positions = np.ceil(np.array([*QUANTILES.values()]) * total).clip(1, total)
    bins = np.searchsorted(histogram.cumsum(), positions)
    return dict(zip(QUANTILES, ((bins + 0.5) / len(histogram)).round(6).tolist(), strict=True))


def rate(written: Sequence[tuple[str, int]]) -> float | None:
    """Texts scored per second, without pauses; None where fewer than two shards, or equal times, do not tell.

    A pause is a gap between two shards that is more than ten times the median gap.

    Args:
        written: For each shard, when it was written (ISO 8601) and its number of texts.
    """
    if len(written) < 2:
        return None
    times, counts = zip(
        *sorted((datetime.fromisoformat(time).timestamp(), count) for time, count in written), strict=True
    )
    gaps = np.diff(times)
    working = gaps <= _PAUSE_FACTOR * np.median(gaps)
    seconds = gaps[working].sum()
    return float(np.array(counts[1:])[working].sum() / seconds) if seconds > 0 else None
