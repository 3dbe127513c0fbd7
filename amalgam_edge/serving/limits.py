"""The limits of a server: how much it accepts, and for how long."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Limits of a server. A request that exceeds one is told which.

    Attributes:
        body_bytes: Largest body of a request.
        texts: Most texts in a request.
        characters: Most characters in a text. A model reads only the first tokens, so longer texts gain nothing.
        queue: Most texts that wait for a model. Requests beyond that get status 503.
        seconds: Longest time that a request may take.
        wait_ms: Longest time that a text waits to share a batch, if other requests came just before.
        batch_tokens: Most tokens in a batch, estimated from the number of characters.
    """

    body_bytes: int = 4_000_000
    texts: int = 1024
    characters: int = 100_000
    queue: int = 4096
    seconds: float = 10.0
    wait_ms: float = 2.0
    batch_tokens: int = 2048
