"""What libraries would report to those who make them: off, unless the user turns it on.

Libraries read these variables when they are imported, so this comes before any of their imports: importing the package
turns telemetry off, whatever module of it is meant.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import MappingProxyType

OFF: Mapping[str, str] = MappingProxyType(
    {
        "ORT_DISABLE_TELEMETRY": "1",  # onnxruntime writes a device id below ~/.cache and reports models and sessions
        "HF_HUB_DISABLE_TELEMETRY": "1",  # the Hub's clients report session, machine and transfers
        "DISABLE_SAFETENSORS_CONVERSION": "1",  # transformers asks a service to convert checkpoints that it is given
        "RAY_USAGE_STATS_ENABLED": "0",  # Ray polls a Prometheus server every ten seconds, and reports usage
    }
)


def turn_off_telemetry() -> None:
    """Turn telemetry off in this process and those that it starts; a variable that the user has set stays as it is."""
    for name, value in OFF.items():
        os.environ.setdefault(name, value)
