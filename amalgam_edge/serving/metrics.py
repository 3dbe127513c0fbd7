"""The server's counters and histograms, in the format of Prometheus."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST as CONTENT_TYPE

__all__ = ["CONTENT_TYPE", "ServerMetrics"]

_SECONDS_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_TEXTS_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class ServerMetrics:
    """Counters and histograms of one server, in a registry that no other server of this process shares."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        requests = Counter("amalgam_requests", "Requests, by route and status.", ["path", "status"], registry=registry)
        seconds = Histogram(
            "amalgam_request_seconds",
            "Seconds from a request's headers to the end of its response.",
            ["path"],
            buckets=_SECONDS_BUCKETS,
            registry=registry,
        )
        self._requests_of = cache(requests.labels)  # each look-up in prometheus_client takes a lock
        self._seconds_of = cache(seconds.labels)
        self._texts = Counter("amalgam_texts", "Texts that a model has read.", ["model"], registry=registry)
        self._truncated = Counter(
            "amalgam_truncated_texts", "Texts that were cut to the model's input.", ["model"], registry=registry
        )
        self._abstentions = Counter(
            "amalgam_abstentions",
            "Texts whose best score is below the bundle's threshold.",
            ["model"],
            registry=registry,
        )
        self._failed = Counter(
            "amalgam_failed_texts",
            "Texts of requests that failed because the tokenizer or the model did.",
            ["model"],
            registry=registry,
        )
        self._batches = Histogram(
            "amalgam_batch_texts", "Texts in a batch.", ["model"], buckets=_TEXTS_BUCKETS, registry=registry
        )
        self._reloads = Counter(
            "amalgam_reloads", "New versions of bundles, taken or refused.", ["model", "result"], registry=registry
        )
        self._closed = Counter(
            "amalgam_closed_connections",
            "Connections closed because their client was slow, or to make room.",
            ["reason"],
            registry=registry,
        )
        self._connections = Gauge("amalgam_connections", "Open connections.", registry=registry)
        self._queue = Gauge("amalgam_queue_texts", "Texts that wait for a model.", ["model"], registry=registry)

    def count_request(self, path: str, status: int, seconds: float) -> None:
        """Count a request.

        Args:
            path: The route's path pattern. A client's own path would make one time series for each.
            status: HTTP status of the response.
            seconds: Time from the request's headers to the end of the response.
        """
        self._requests_of(path, status).inc()
        self._seconds_of(path).observe(seconds)

    def count_batch(self, model: str, *, n_texts: int, n_truncated: int, n_abstentions: int) -> None:
        """Count a batch that a model has run, how many of its texts were cut, and how many got no label."""
        self._batches.labels(model).observe(n_texts)
        self._texts.labels(model).inc(n_texts)
        self._truncated.labels(model).inc(n_truncated)
        self._abstentions.labels(model).inc(n_abstentions)

    def count_failure(self, model: str, n_texts: int) -> None:
        """Count the texts of a request over which a model has failed."""
        self._failed.labels(model).inc(n_texts)

    def count_reload(self, model: str, *, taken: bool) -> None:
        """Count a new version of a bundle, which was either taken or refused."""
        self._reloads.labels(model, "taken" if taken else "refused").inc()

    def count_closed_connection(self, reason: str) -> None:
        """Count a connection that was closed because its client was ``slow``, or because the server was ``full``."""
        self._closed.labels(reason).inc()

    def watch_connections(self, number: Callable[[], int]) -> None:
        """Call ``number`` for the number of open connections whenever metrics are read."""
        self._connections.set_function(number)

    def watch_queue(self, model: str, length: Callable[[], int]) -> None:
        """Call ``length`` for the number of waiting texts whenever metrics are read."""
        self._queue.labels(model).set_function(length)

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text exposition format."""
        return generate_latest(self._registry)
