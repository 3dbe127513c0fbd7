"""What signals do to a server before it listens."""

from __future__ import annotations

import os
import signal
from types import FrameType


def prepare_for_signals() -> None:
    """Handle the signals that may come while the server starts.

    SIGHUP, which asks for new versions of bundles, is ignored until there are bundles. SIGTERM ends the process with
    status 0: nothing has been taken on yet, and a bundle that is being loaded cannot be interrupted otherwise.
    """
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end)


def _end(number: int, frame: FrameType | None) -> None:
    os._exit(0)
