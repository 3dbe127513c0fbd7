"""Text that others wrote, as it may be shown: without the characters that do something in a terminal or a page.

Names of labels, files and texts may hold anything. An escape code in one could rewrite what a terminal shows, a line
break could look like a second message, and a character that turns the direction of writing could hide an ending.
"""

from __future__ import annotations

import json
import re
from typing import Any

LONGEST_LINE = 2000  # characters of a message

# Control characters (C0, C1), separators of lines and paragraphs, marks of direction, invisible tags, halves of pairs.
_ACTIVE = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff\U000e0000-\U000e007f"
)
_ACTIVE_IN_LINES = re.compile(f"[{_ACTIVE}]")
_ACTIVE_IN_LINE = re.compile(f"[\t\n{_ACTIVE}]")

_MARKDOWN = re.compile(r"[\\`_\[\]|~]|^\*|(?<=\S)\*|\*(?=\S)")  # a star between spaces is a star


def lines(text: str) -> str:
    """Lines for people; characters that would do something stand as Python writes them, such as an escape."""
    return _ACTIVE_IN_LINES.sub(_as_python_writes, text)


def line(text: str, longest: int | None = None) -> str:
    """One line for people, as :func:`lines` shows it; line breaks and tabs are shown too.

    Args:
        text: The text.
        longest: The most characters; of a longer text the middle is left out. By default all are shown.
    """
    return _ACTIVE_IN_LINE.sub(_as_python_writes, text if longest is None else shortened(text, longest))


def shortened(text: str, longest: int) -> str:
    """A text of which the middle is left out where it has more than ``longest`` characters."""
    if len(text) <= longest:
        return text
    return f"{text[: longest - longest // 4]} … {text[-(longest // 4) :]}"


def json_lines(document: Any, indent: int | None = None) -> str:
    """A document as JSON that reads as the same document, and does nothing where it is shown.

    Args:
        document: What ``json.dumps`` takes.
        indent: As for ``json.dumps``.
    """
    return _ACTIVE_IN_LINES.sub(_as_json_writes, json.dumps(document, indent=indent, ensure_ascii=False))


def markdown(text: str) -> str:
    """One line of text within Markdown: no markup, no HTML, no links and no pictures come of it."""
    escaped = _MARKDOWN.sub(r"\\\g<0>", line(text))
    return escaped.replace("&", "&amp;").replace("<", "&lt;")


def _as_python_writes(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")


def _as_json_writes(match: re.Match[str]) -> str:
    return json.dumps(match[0])[1:-1]
