"""Texts as people bring them: a list, one string, a column of a table, an array, a generator."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from reprlib import Repr
from typing import Any, TypeAlias

from amalgam_edge.errors import AmalgamError

Texts: TypeAlias = str | Iterable[str]

# How pyarrow, numpy and pandas, and polars turn a column into a list of Python's own values.
_TO_LIST = ("to_pylist", "tolist", "to_list")
_NO_LISTS = (bytes, bytearray, memoryview, Mapping, set, frozenset)
_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = 40


def list_texts(texts: Texts) -> list[str]:
    """The texts as a list of strings; one string is a list of one.

    Args:
        texts: A string, or anything that gives strings in an order: a list, a generator, a Series of pandas or polars,
            an array of numpy or pyarrow. A generator is read to its end.

    Raises:
        AmalgamError: One of them is not a string, or they are no sequence of texts.
    """
    if isinstance(texts, str):
        return [texts]
    listed = _elements(texts)
    for position, text in enumerate(listed):
        if not isinstance(text, str):
            raise AmalgamError(
                f"texts[{position}] is {_SHORT.repr(text)} ({type(text).__name__}), not a string; leave it out, or "
                "give '' in its place"
            )
    return listed


def _elements(texts: Any) -> list[Any]:
    kind = type(texts).__name__
    if isinstance(texts, _NO_LISTS):
        raise AmalgamError(f"give a list of texts, not a {kind}")
    if getattr(texts, "ndim", 1) > 1 or hasattr(texts, "columns"):
        raise AmalgamError(f"give one column of texts, not a whole {kind}")
    to_list = next((getattr(texts, name) for name in _TO_LIST if hasattr(texts, name)), None)
    try:
        listed = to_list() if to_list else list(texts)
    except TypeError as error:
        raise AmalgamError(f"give a list of texts, not a {kind}") from error
    return listed if isinstance(listed, list) else [listed]  # an array without axes gives its one value
