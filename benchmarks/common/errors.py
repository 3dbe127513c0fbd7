"""The error of benchmarks that leave out what is not available and go on with the rest."""

from __future__ import annotations


class UnavailableError(Exception):
    """A corpus, a setting or a method is not available here; the message says why."""
