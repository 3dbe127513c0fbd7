"""Gold answers: which cells mean what, and which columns are whose."""

from __future__ import annotations

import pytest

from amalgam_edge.errors import AmalgamError
from amalgam_edge.gold import gold_answers, label_columns
from amalgam_edge.heads import SIGMOID, SOFTMAX, Head

TOPIC = Head("topic", SOFTMAX, ("games", "net"))
TAGS = Head("tags", SIGMOID, ("a", "b", "c;d"), (0.5,) * 3)


def test_the_gold_label_of_a_softmax_head_is_a_position():
    gold = gold_answers(TOPIC, ["net", "games", "net"])
    assert (gold.rows.tolist(), gold.answers.tolist()) == ([0, 1, 2], [1, 0, 1])


def test_texts_without_gold_are_left_out_where_they_may_lack_it():
    gold = gold_answers(TOPIC, ["net", "", None, "games"], may_lack=True)
    assert (gold.rows.tolist(), gold.answers.tolist()) == ([0, 3], [1, 0])
    with pytest.raises(AmalgamError, match=r"1 label name.*''; known are games, net"):
        gold_answers(TOPIC, ["net", ""])
    with pytest.raises(AmalgamError, match="head 'topic': no text has a gold label"):
        gold_answers(TOPIC, ["", None], may_lack=True)


@pytest.mark.parametrize(
    ("cell", "holds"),
    [
        ("a", [1, 0, 0]),
        ("a;b", [1, 1, 0]),
        (" b ; a;", [1, 1, 0]),
        ("", [0, 0, 0]),
        (None, [0, 0, 0]),
        (["a", "c;d"], [1, 0, 1]),
        ('["a", "c;d"]', [1, 0, 1]),
        ("[]", [0, 0, 0]),
        ("c;d", [0, 0, 1]),  # a label's own name wins over the separator
    ],
)
def test_a_cell_of_a_sigmoid_head_holds_any_number_of_labels(cell, holds):
    assert gold_answers(TAGS, [cell]).answers.tolist() == [[bool(one) for one in holds]]


@pytest.mark.parametrize(
    ("cell", "holds"),
    [("1", 1), ("0", 0), ("True", 1), ("false", 0), ("yes", 1), (" NO ", 0), ("toxic", 1), ("", 0), (None, 0)],
)
def test_a_cell_of_a_head_with_one_label_may_say_whether_it_holds(cell, holds):
    toxic = Head("toxic", SIGMOID, ("toxic",), (0.5,))
    assert gold_answers(toxic, [cell]).answers.tolist() == [[bool(holds)]]


def test_a_label_that_looks_like_yes_or_no_is_a_label():
    zero = Head("zero", SIGMOID, ("0",), (0.5,))
    assert gold_answers(zero, ["0", "1", ""]).answers.tolist() == [[True], [True], [False]]


@pytest.mark.parametrize(
    ("head", "cell", "reason"),
    [
        (TOPIC, "chess", "head 'topic': 1 label name.*'chess'; known are games, net"),
        (TAGS, "a;z", "head 'tags': 1 label name.*'z'"),
        (TAGS, "[a", "'\\[a'"),
        (TOPIC, ["net", "games"], "head 'topic' gives one label, and a text has several: net, games"),
    ],
)
def test_labels_that_the_head_does_not_have_are_named(head, cell, reason):
    with pytest.raises(AmalgamError, match=reason):
        gold_answers(head, [cell])


@pytest.mark.parametrize(
    ("heads", "columns", "found"),
    [
        (["label"], ["label"], {"label": "label"}),
        (["label"], ["kind"], {"label": "kind"}),
        (["intent"], ["label"], {"intent": "label"}),
        (["intent"], ["intent=kind"], {"intent": "kind"}),
        (["a", "b"], ["label"], {"a": "a", "b": "b"}),
        (["a", "b"], ["b=column=x"], {"b": "column=x"}),
        (["a", "b"], ["a=one", "b=two"], {"a": "one", "b": "two"}),
        (["label"], ["strange=name"], {"label": "strange=name"}),
    ],
)
def test_columns_are_named_by_head_where_there_are_several(heads, columns, found):
    assert label_columns(heads, columns) == found


@pytest.mark.parametrize(
    ("heads", "columns", "reason"),
    [
        (["a", "b"], ["kind"], "--label-column kind: name the head, as HEAD=COLUMN; there are a, b"),
        (["a", "b"], ["c=kind"], "--label-column c=kind: name the head"),
        (["a", "b"], ["a=x", "a=y"], "head 'a' is named twice"),
        (["a"], ["x", "y"], "head 'a' is named twice"),
    ],
)
def test_columns_of_no_head_are_refused(heads, columns, reason):
    with pytest.raises(AmalgamError, match=reason):
        label_columns(heads, columns)
