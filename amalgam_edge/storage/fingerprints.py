"""SHA-256 fingerprints (FIPS 180-4) of files and of mappings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def sha256_of_mapping(mapping: Mapping[str, Any]) -> str:
    """SHA-256 of a mapping of JSON values, as hexadecimal; it does not depend on the order of keys."""
    return hashlib.sha256(json.dumps(mapping, sort_keys=True, default=str).encode()).hexdigest()


def sha256_of_bytes(content: bytes) -> str:
    """SHA-256 of bytes, as hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def sha256_of_file(path: Path) -> str:
    """SHA-256 of a file's bytes, as hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
