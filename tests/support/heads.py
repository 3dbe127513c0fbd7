"""Heads for tests that need some and look at other things."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from amalgam_edge.heads import ONLY_HEAD, SOFTMAX, Head
from amalgam_edge.labels import LabelSpace
from amalgam_edge.methods.taught_heads import TaughtHead, TaughtHeads


def one_head(teachers: Mapping[str, Sequence[str]]) -> TaughtHeads:
    """One softmax head over the union of the teachers' classes.

    Args:
        teachers: Teacher → its classes.
    """
    labels = LabelSpace.union(teachers)
    return TaughtHeads((TaughtHead(Head(ONLY_HEAD, SOFTMAX, labels.names), labels),))
