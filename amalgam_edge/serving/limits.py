"""The limits of a server: how much it accepts, and for how long."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Limits of a server. docs/serving.md says how a request that exceeds one is answered.

    Attributes:
        body_bytes: Largest body of a request, after decompression.
        texts: Most texts in a request.
        characters: Most characters in a text. A model reads only the first tokens, so longer texts gain nothing.
        queue: Most texts that wait for a model. Requests beyond that get status 503.
        seconds: Longest time that a request may take.
        wait_ms: Longest time that a text waits to share a batch, if other requests came just before.
        batch_tokens: Most tokens in a batch, estimated from the number of characters.
        connections: Most connections that are open at a time. For one more, the one that has waited longest for its
            client is closed.
        head_bytes: Largest head of a request: its address and its headers.
        headers: Most headers of a request, trailers included.
        inflight_bytes: Most bytes of bodies in memory, over all requests that are not yet answered. The same bound
            holds for bytes of responses that clients have not yet taken.
        receive_seconds: Longest time in which a head, and then a body, must have arrived.
        send_seconds: Time in which a client must take at least 64 KiB of a response that waits for it.
        idle_seconds: Time after which a connection is closed that asks nothing more.
    """

    body_bytes: int = 4_000_000
    texts: int = 1024
    characters: int = 100_000
    queue: int = 4096
    seconds: float = 10.0
    wait_ms: float = 2.0
    batch_tokens: int = 2048
    connections: int = 2048
    head_bytes: int = 32_768
    headers: int = 100
    inflight_bytes: int = 32_000_000
    receive_seconds: float = 30.0
    send_seconds: float = 30.0
    idle_seconds: float = 75.0
