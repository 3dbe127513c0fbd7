"""What clients send as JSON and is not quite. Pure functions."""

from __future__ import annotations

import json
import re
from codecs import BOM_UTF8

_ESCAPED_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


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
        return json.dumps(json.loads(body.decode()), ensure_ascii=False).encode("utf-8", "replace")
    except (ValueError, RecursionError):
        return body
