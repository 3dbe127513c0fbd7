"""Responses of the Hugging Face protocol, as bytes."""

import json

import numpy as np
import pytest

from amalgam_edge.serving.batching import ModelOutput
from amalgam_edge.serving.protocols.hugging_face import ClassificationParameters, encode_response, shown_positions

LABELS = ["a", 'b "quoted"', "Straße 猫"]
LABELS_AS_JSON = [json.dumps(label, ensure_ascii=False) for label in LABELS]
LOGITS = np.array([[1.0, 3.0, 2.0], [0.5, -0.5, 0.0]], dtype=np.float32)


def response(**parameters):
    output = ModelOutput.from_logits(LOGITS, np.zeros(2, dtype=bool))
    given = ClassificationParameters(**parameters) if parameters else None
    return json.loads(encode_response(output, LABELS_AS_JSON, given))


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (None, softmax(LOGITS.astype(float))),
        ("softmax", softmax(LOGITS.astype(float))),
        ("sigmoid", 1 / (1 + np.exp(-LOGITS.astype(float)))),
        ("none", LOGITS.astype(float)),
    ],
)
def test_scores_are_those_of_the_requested_function(function, expected):
    for row, scores in zip(response(function_to_apply=function), expected, strict=True):
        found = {entry["label"]: entry["score"] for entry in row}
        assert found == pytest.approx(dict(zip(LABELS, scores, strict=True)), abs=1e-12)


def test_all_labels_are_returned_in_descending_order():
    assert [[entry["label"] for entry in row] for row in response()] == [
        ['b "quoted"', "Straße 猫", "a"],
        ["a", "Straße 猫", 'b "quoted"'],
    ]


def test_top_k_keeps_the_likeliest_labels():
    assert [[entry["label"] for entry in row] for row in response(top_k=1)] == [['b "quoted"'], ["a"]]
    assert [len(row) for row in response(top_k=9)] == [3, 3]


@pytest.mark.parametrize(
    ("positions", "shown"),
    [([], ""), ([0], "0"), ([1, 2], "1-2"), ([0, 3, 4, 5, 9], "0,3-5,9"), (range(10), "0-9"), ([8, 9], "8-9")],
)
def test_positions_of_texts_are_short(positions, shown):
    chosen = np.zeros(10, dtype=bool)
    chosen[[*positions]] = True
    assert shown_positions(chosen) == shown
