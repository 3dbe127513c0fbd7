"""Heads: how answers are read from logits that stand side by side."""

from __future__ import annotations

import math

import numpy as np
import pytest

from amalgam_edge.errors import AmalgamError
from amalgam_edge.heads import SIGMOID, SOFTMAX, Head, Heads, check_head_names

TOPIC = Head("topic", SOFTMAX, ("games", "net"))
SAFETY = Head("safety", SIGMOID, ("toxic", "spam", "sad"), (0.5, 0.9, 0.1))
BOTH = Heads((TOPIC, SAFETY))
LOGITS = np.array([[2.0, 0.0, 0.0, 3.0, -2.0], [0.0, 1.0, -0.1, 2.0, -3.0]])


def test_logits_are_named_by_head_and_label_where_there_are_several():
    assert BOTH.labels == ("topic/games", "topic/net", "safety/toxic", "safety/spam", "safety/sad")
    assert Heads((SAFETY,)).labels == ("toxic", "spam", "sad")
    assert Heads.of_labels("xy").labels == ("x", "y")


def test_each_head_has_its_columns():
    assert (BOTH.columns("topic"), BOTH.columns("safety")) == (slice(0, 2), slice(2, 5))
    np.testing.assert_array_equal(np.concatenate(BOTH.split(LOGITS), axis=1), LOGITS)


def test_probabilities_are_the_softmax_or_the_sigmoids_of_a_heads_own_logits():
    probabilities = BOTH.probabilities(LOGITS)
    for row, found in zip(LOGITS.tolist(), probabilities.tolist(), strict=True):
        whole = sum(math.exp(z) for z in row[:2])
        assert found[:2] == pytest.approx([math.exp(z) / whole for z in row[:2]])
        assert found[2:] == pytest.approx([1 / (1 + math.exp(-z)) for z in row[2:]])


def test_a_head_answers_whatever_the_others_say():
    shifted = LOGITS + np.array([0, 0, 50, 50, 50])
    np.testing.assert_array_equal(BOTH.probabilities(shifted)[:, :2], BOTH.probabilities(LOGITS)[:, :2])


def test_labels_hold_from_their_thresholds_on():
    # sigmoid: 0.5, 0.953, 0.119; and 0.475, 0.881, 0.047
    assert SAFETY.answers(LOGITS[:, 2:]).tolist() == [[1, 1, 1], [0, 0, 0]]
    assert not SAFETY.holds(np.full((1, 3), np.nan)).any()


def test_two_models_agree_on_a_head_if_they_give_the_same_label_or_the_same_set():
    other = LOGITS.copy()
    other[0, 4] = -5.0  # one label of the set no longer holds
    other[1, :2] = [3.0, 1.0]
    assert BOTH.same_answers(LOGITS, other).tolist() == [[True, False], [False, True]]
    other[:, 3] = np.nan
    assert not BOTH.same_answers(LOGITS, other)[:, 1].any()
    assert BOTH.same_answers(LOGITS, LOGITS).all()


@pytest.mark.parametrize(
    ("heads", "is_plain", "problem"),
    [
        (Heads((TOPIC,)), True, "single_label_classification"),
        (Heads((SAFETY,)), False, "multi_label_classification"),
        (BOTH, False, "multi_label_classification"),
    ],
)
def test_transformers_is_told_what_kind_of_problem_it_is(heads, is_plain, problem):
    assert (heads.is_one_softmax, heads.problem_type) == (is_plain, problem)


def test_a_head_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(AmalgamError, match="no head 'tone'; there are topic, safety"):
        BOTH["tone"]


@pytest.mark.parametrize("name", ["", " ", "a/b", "a=b", "a,b", "a;b", "a\nb"])
def test_names_that_could_not_be_told_from_labels_are_refused(name):
    with pytest.raises(AmalgamError, match="cannot be the name of a head"):
        check_head_names(["topic", name])


def test_two_heads_of_one_name_are_refused():
    with pytest.raises(AmalgamError, match="two heads are called 'a'"):
        check_head_names(["a", "b", "a"])
