"""Where torch runs."""

from __future__ import annotations

import torch

from amalgam_edge.errors import AmalgamError


def resolve_device(device: str) -> torch.device:
    """``auto``, ``cpu``, ``cuda`` or ``cuda:N`` to a device that is there.

    Raises:
        AmalgamError: the device that was asked for is not there; never silently another.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise AmalgamError(f"--device {device}: torch sees no CUDA device here; use --device cpu")
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch raises any of these
        raise AmalgamError(f"--device {device}: no such device here; use --device cpu") from error
    return found
