"""Predictions of heads, from logits made by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from amalgam_edge.errors import AmalgamError
from amalgam_edge.heads import SIGMOID, SOFTMAX, Head, Heads
from amalgam_edge.runtime.predictions import (
    HeadPredictions,
    LabelSet,
    Prediction,
    any_abstains,
    predictions_of,
    with_abstain,
)

TOPIC = Head("topic", SOFTMAX, ("games", "net"), abstain=0.8)
TAGS = Head("tags", SIGMOID, ("a", "b"), (0.5, 0.7))
LOGITS = np.array([[3.0, 0.0, 1.0, 1.0], [0.1, 0.0, 2.0, -1.0]], dtype=np.float32)
CUT = np.array([False, True])


def sigmoid(z):
    return 1 / (1 + math.exp(-z))


def test_several_heads_answer_each_for_itself():
    first, second = predictions_of(Heads((TOPIC, TAGS)), LOGITS, CUT, all_scores=False)
    assert isinstance(first, HeadPredictions)
    assert first["topic"] == Prediction("games", pytest.approx(1 / (1 + math.exp(-3))))
    assert first["tags"] == LabelSet(
        {"a": pytest.approx(sigmoid(1), abs=1e-6), "b": pytest.approx(sigmoid(1), abs=1e-6)},
        pytest.approx(sigmoid(1), abs=1e-6),
    )
    assert (second["topic"].label, second["tags"].labels) == (None, ("a",))
    assert second.truncated and second["tags"].truncated and not first.truncated
    assert first.answer == {"topic": "games", "tags": ("a", "b")}
    assert [*first] == ["topic", "tags"] and len(first) == 2


def test_the_labels_that_hold_come_likeliest_first_and_all_scores_on_request():
    heads = Heads((Head("tags", SIGMOID, ("x", "y", "z"), (0.5, 0.5, 0.5)),))
    (found,) = predictions_of(heads, np.array([[0.5, 2.0, -1.0]]), CUT[:1], all_scores=True)
    assert isinstance(found, LabelSet)
    assert found.labels == ("y", "x")
    assert found.scores == pytest.approx({"y": sigmoid(2), "x": sigmoid(0.5), "z": sigmoid(-1)})
    assert [*found.scores] == ["y", "x", "z"]
    assert found.score == pytest.approx(sigmoid(2))


def test_where_no_label_holds_the_set_is_empty_and_the_score_is_that_of_the_likeliest():
    (found,) = predictions_of(Heads((TAGS,)), np.array([[-2.0, -1.0]]), CUT[:1], all_scores=False)
    assert (found.labels, found.score) == ((), pytest.approx(sigmoid(-1)))


def test_thresholds_are_set_for_all_softmax_heads_or_for_one():
    heads = Heads((TOPIC, TAGS))
    assert with_abstain(heads, None) == heads
    assert with_abstain(heads, 0.3)["topic"].abstain == 0.3
    assert with_abstain(heads, {"topic": 0.0})["topic"].abstain == 0.0


@pytest.mark.parametrize(
    ("abstain", "reason"),
    [
        (1.5, "between 0 and 1"),
        (float("nan"), "between 0 and 1"),
        ({"topic": -0.1}, "between 0 and 1"),
        ({"tone": 0.5}, "no head 'tone'; there are topic, tags"),
        ({"tags": 0.5}, "never abstains"),
    ],
)
def test_thresholds_that_make_no_sense_are_refused(abstain, reason):
    with pytest.raises(AmalgamError, match=reason):
        with_abstain(Heads((TOPIC, TAGS)), abstain)


def test_a_threshold_of_sigmoid_heads_alone_is_checked_too():
    with pytest.raises(AmalgamError, match="between 0 and 1"):
        with_abstain(Heads((TAGS,)), 7)


def test_abstaining_is_that_of_softmax_heads_alone():
    heads = Heads((TOPIC, TAGS))
    probabilities = np.array([[0.9, 0.1, 0.0, 0.0], [0.6, 0.4, 1.0, 1.0], [np.nan, np.nan, 0.0, 0.0]])
    assert any_abstains(heads, probabilities).tolist() == [False, True, True]
    assert not any_abstains(with_abstain(heads, 0), probabilities).any()
