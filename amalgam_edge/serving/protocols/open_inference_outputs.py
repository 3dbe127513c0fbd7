"""The output tensors of the Open Inference Protocol that a model's heads lead to. Pure functions.

A head has ``label``, ``score`` and ``probabilities``, a sigmoid head ``holds`` as well. Where there are several heads,
these come after the name of the head and a dot. All heads share ``truncated``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from amalgam_edge.gold import SET_SEPARATOR
from amalgam_edge.heads import SIGMOID, Head, Heads
from amalgam_edge.serving.batching import ModelOutput

_LABEL, _SCORE, _PROBABILITIES, _HOLDS, TRUNCATED = "label", "score", "probabilities", "holds", "truncated"
_DATATYPES = {_LABEL: "BYTES", _SCORE: "FP32", _PROBABILITIES: "FP32", _HOLDS: "BOOL", TRUNCATED: "BOOL"}


class OutputDescription(NamedTuple):
    """The datatype and the shape of an output; -1 stands for the number of texts."""

    datatype: str
    shape: list[int]


def describe_outputs(heads: Heads) -> dict[str, OutputDescription]:
    """Name → description of each output, in order."""
    outputs = {}
    for head in heads:
        for kind in _kinds(head):
            shape = [-1, len(head)] if kind in (_PROBABILITIES, _HOLDS) else [-1]
            outputs[_prefix(heads, head) + kind] = OutputDescription(_DATATYPES[kind], shape)
    return {**outputs, TRUNCATED: OutputDescription(_DATATYPES[TRUNCATED], [-1])}


def output_values(heads: Heads, output: ModelOutput) -> dict[str, np.ndarray]:
    """Name → values of each output, for the texts of a model's output."""
    values = {}
    for head in heads:
        of_head = output.labels(heads.columns(head.name))
        for kind, found in zip(_kinds(head), _values(head, of_head), strict=True):
            values[_prefix(heads, head) + kind] = found
    return {**values, TRUNCATED: output.truncated}


def describe_labels(heads: Heads) -> dict[str, Any]:
    """The labels, in the order of ``probabilities``, and unless one of them holds, what says which do.

    Where there are several heads, each entry is by head.
    """
    labels = {head.name: [*head.labels] for head in heads}
    if heads.is_one_softmax:
        return {"labels": next(iter(labels.values()))}
    described: dict[str, dict[str, Any]] = {
        "labels": labels,
        "activation": {head.name: head.activation for head in heads},
        "thresholds": {head.name: [*head.thresholds] for head in heads if head.activation == SIGMOID},
    }
    if len(heads) > 1:
        return described
    return {name: next(iter(by_head.values())) for name, by_head in described.items()}


def _kinds(head: Head) -> tuple[str, ...]:
    shared = (_LABEL, _SCORE, _PROBABILITIES)
    return (*shared, _HOLDS) if head.activation == SIGMOID else shared


def _prefix(heads: Heads, head: Head) -> str:
    return f"{head.name}." if len(heads) > 1 else ""


def _values(head: Head, output: ModelOutput) -> Iterator[np.ndarray]:
    """The values of a head's outputs, in the order of :func:`_kinds`."""
    best = output.ranking[:, 0]
    holds = head.holds(output.probabilities) if head.activation == SIGMOID else None
    if holds is None:
        labels = [head.labels[k] for k in best]
    else:
        held = (ranking[of_text[ranking]] for ranking, of_text in zip(output.ranking, holds, strict=True))
        labels = [SET_SEPARATOR.join(head.labels[k] for k in ranking) for ranking in held]
    yield np.array([label.encode() for label in labels], dtype=object)
    yield output.probabilities[np.arange(len(best)), best].astype(np.float32)
    yield output.probabilities.astype(np.float32)
    if holds is not None:
        yield holds
