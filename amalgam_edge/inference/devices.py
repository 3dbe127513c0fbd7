"""The device that torch runs on, and its threads."""

from __future__ import annotations

import torch

from amalgam_edge.cores import usable_cores
from amalgam_edge.errors import AmalgamError


def resolve_device(device: str) -> torch.device:
    """Turn ``auto``, ``cpu``, ``cuda`` or ``cuda:N`` into a device that exists; ``auto`` prefers CUDA.

    Raises:
        AmalgamError: The device does not exist here. No other device is used in its place.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise AmalgamError(f"--device {device}: torch sees no CUDA device here; use --device cpu")
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch may raise any of these
        raise AmalgamError(f"--device {device}: no such device here; use --device cpu") from error
    return found


def limit_threads() -> None:
    """Let torch compute with at most one thread per usable core; it does not know of CPU quotas."""
    torch.set_num_threads(min(torch.get_num_threads(), usable_cores()))
