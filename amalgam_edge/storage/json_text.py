"""JSON from files that anybody may have written: bounded in size, without duplicate keys, and no traceback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from amalgam_edge.errors import AmalgamError
from amalgam_edge.storage.own_files import read_at_most


def read_json(path: Path, most_bytes: int) -> Any:
    """The document in a file.

    Args:
        path: The file.
        most_bytes: The longest file that is read.

    Raises:
        AmalgamError: It is longer, or no JSON; the message does not name the file.
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        return parse_json(read_at_most(file, most_bytes + 1), most_bytes)


def parse_json(content: bytes, most_bytes: int) -> Any:
    """The document in UTF-8 encoded text.

    ``NaN`` and ``Infinity``, which JSON does not have, are read as Python's own writer writes them;
    :func:`~amalgam_edge.storage.records.from_json` refuses them where they stand.

    Args:
        content: The text.
        most_bytes: The longest text that is read.

    Raises:
        AmalgamError: It is longer, or no JSON, or an object names an entry twice.
    """
    if len(content) > most_bytes:
        raise AmalgamError(f"longer than {most_bytes} bytes")
    try:
        return json.loads(content.decode("utf-8"), object_pairs_hook=_without_duplicates)
    except RecursionError as error:
        raise AmalgamError("nested too deeply") from error
    except ValueError as error:  # UnicodeDecodeError, JSONDecodeError, and numbers of thousands of digits
        raise AmalgamError("no JSON") from error


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        raise AmalgamError("an object names an entry twice")
    return entries
