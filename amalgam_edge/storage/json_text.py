"""JSON from files that anybody may have written: bounded in size, without duplicate keys, and no traceback."""

from __future__ import annotations

import json
import re
from codecs import BOM_UTF8
from pathlib import Path
from typing import Any

from amalgam_edge.errors import AmalgamError
from amalgam_edge.storage.own_files import read_at_most

_ESCAPED_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


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


def mended_json(body: bytes) -> bytes:
    """JSON without a byte order mark, and with question marks for lone surrogates.

    A client that cuts texts by UTF-16 units leaves half an emoji at the end of some. JSON can write that half as an
    escape, UTF-8 cannot encode it.

    Args:
        body: What may be JSON; anything else is returned as it is, for the parser to refuse.
    """
    body = body.removeprefix(BOM_UTF8)
    if not _ESCAPED_SURROGATE.search(body):
        return body
    try:
        return _encoded(json.loads(body.decode()))
    except (ValueError, RecursionError):
        return body


def without_lone_surrogates(document: Any) -> Any:
    """A document as :func:`mended_json` mends its text."""
    return json.loads(_encoded(document))


def _encoded(document: Any) -> bytes:
    return json.dumps(document, ensure_ascii=False).encode("utf-8", "replace")
