"""The latency of a bundle's models, one text at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import perf_counter

import numpy as np

from amalgam_edge.runtime.manifest_models import Latency
from amalgam_edge.runtime.text_model import TextModel

_TIMED_TEXTS = 200
_WARM_UP_TEXTS = 10


def measure_latency(models: Mapping[str, TextModel], texts: Sequence[str]) -> dict[str, Latency]:
    """Time each model on single texts, tokenizing included.

    The models take turns at each text, so that whatever else the machine does affects all alike.

    Args:
        models: The models, by the name of their precision.
        texts: The texts, of which the first 200 are timed.

    Returns:
        The median and the 95th percentile of each model, in milliseconds.
    """
    timed = list(texts[:_TIMED_TEXTS])
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for text in timed[:_WARM_UP_TEXTS]:
        for model in models.values():
            model.run([text])
    for text in timed:
        for name, model in models.items():
            start = perf_counter()
            model.run([text])
            seconds[name].append(perf_counter() - start)
    return {
        name: Latency(p50=float(np.percentile(taken, 50) * 1e3), p95=float(np.percentile(taken, 95) * 1e3))
        for name, taken in seconds.items()
    }
