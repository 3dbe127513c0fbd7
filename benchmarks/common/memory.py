"""Memory of other processes (Linux)."""

from __future__ import annotations

from pathlib import Path


def resident(pid: int) -> int:
    """Memory of a process in bytes; 0 where it has gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text("utf-8")
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS")), 0)
