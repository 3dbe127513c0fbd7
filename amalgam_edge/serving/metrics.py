"""What a server counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST as CONTENT_TYPE

__all__ = ["CONTENT_TYPE", "Metrics"]

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Metrics:
    """Counters and histograms of one server, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        own = {"registry": self._registry}
        self._requests = Counter("amalgam_requests", "Requests by what came of them.", ["path", "status"], **own)
        self._seconds = Histogram(
            "amalgam_request_seconds", "From a request's head to its answer.", ["path"], buckets=_SECONDS, **own
        )
        self._request_counts = cache(self._requests.labels)  # a look-up of prometheus_client's takes a lock
        self._request_times = cache(self._seconds.labels)
        self._texts = Counter("amalgam_texts", "Texts that a model has read.", ["model"], **own)
        self._truncated = Counter("amalgam_truncated_texts", "Texts whose tail was not read.", ["model"], **own)
        self._abstentions = Counter(
            "amalgam_abstentions", "Texts whose best score is below the bundle's threshold.", ["model"], **own
        )
        self._batches = Histogram("amalgam_batch_texts", "Texts that ran together.", ["model"], buckets=_TEXTS, **own)
        self._reloads = Counter("amalgam_reloads", "New versions of bundles.", ["model", "result"], **own)
        self._queue = Gauge("amalgam_queue_texts", "Texts that wait.", ["model"], **own)

    def request(self, path: str, status: int, seconds: float) -> None:
        """Count a request; ``path`` is a route's, never a client's."""
        self._request_counts(path, status).inc()
        self._request_times(path).observe(seconds)

    def batch(self, model: str, n_texts: int, n_truncated: int, n_abstentions: int) -> None:
        """Count a batch that was answered: its texts, those that were cut, and those whose best score is too low."""
        self._batches.labels(model).observe(n_texts)
        self._texts.labels(model).inc(n_texts)
        self._truncated.labels(model).inc(n_truncated)
        self._abstentions.labels(model).inc(n_abstentions)

    def reloaded(self, model: str, *, taken: bool) -> None:
        """Count a new version of a bundle."""
        self._reloads.labels(model, "taken" if taken else "refused").inc()

    def watch_queue(self, model: str, length: Callable[[], int]) -> None:
        """Ask for a queue's length whenever metrics are read."""
        self._queue.labels(model).set_function(length)

    def text(self) -> bytes:
        """All of it, in the text format of Prometheus."""
        return generate_latest(self._registry)
