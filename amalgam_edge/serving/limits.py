"""What a server takes on, and for how long."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds of a server; each is named in the answer to a request that goes beyond it.

    Attributes:
        body_bytes: of a request's body.
        texts: in a request.
        characters: of a text. The model reads its first tokens alone, so that longer texts are no use.
        queue: texts that wait for a model; beyond it a request is turned away.
        seconds: that a request may take before it is given up.
        wait_ms: that a text waits for others to run beside, where others have come lately.
        batch_tokens: that run together, estimated from a text's characters.
    """

    body_bytes: int = 4 * 1024 * 1024
    texts: int = 1024
    characters: int = 100_000
    queue: int = 4096
    seconds: float = 10.0
    wait_ms: float = 2.0
    batch_tokens: int = 2048
