"""The table of a student's heads beside their teachers, by hand."""

from __future__ import annotations

import numpy as np

from amalgam_edge.gold import gold_answers
from amalgam_edge.heads import Head
from benchmarks.heads.run import accuracy_table, right

TOPIC = Head("topic", "softmax", ("a", "b"))
TAGS = Head("tags", "sigmoid", ("x", "y"), (0.5, 0.5))
GOLD = {
    "topic": gold_answers(TOPIC, ["a", "b", "", "a"], may_lack=True),
    "tags": gold_answers(TAGS, ["x", "", "x;y", "y"]),
}
TEACHERS = {
    "topic": np.array([[1.0, 0], [1, 0], [0, 1], [1, 0]]),  # right, wrong, no gold, right
    "tags": np.array([[1.0, -1], [-1, -1], [1, -1], [-1, 1]]),  # right, right, wrong, right
}
STUDENT = {
    "topic": np.array([[1.0, 0], [0, 1], [0, 1], [1, 0]]),  # all right
    "tags": np.array([[1.0, -1], [1, -1], [1, 1], [1, 1]]),  # right, wrong, right, wrong
}


def test_texts_without_gold_count_for_agreement_alone():
    assert right(TOPIC, GOLD["topic"], TEACHERS["topic"]).tolist() == [True, False, True]
    assert right(TAGS, GOLD["tags"], TEACHERS["tags"]).tolist() == [True, True, False, True]


def test_each_head_stands_beside_its_teacher_and_the_means_below():
    table = accuracy_table([TOPIC, TAGS], GOLD, TEACHERS, STUDENT, {})
    topic, tags, mean = table.rows
    assert topic == ("topic", "one of 2", "3", "66.7%", "100.0%", "+33.3", "75.0%")
    assert tags == ("tags", "any of 2", "4", "75.0%", "50.0%", "-25.0", "25.0%")
    assert mean == ("mean", "", "", "70.8%", "75.0%", "+4.2", "50.0%")


def test_students_of_one_teacher_have_columns_of_their_own():
    table = accuracy_table([TOPIC], GOLD, TEACHERS, STUDENT, TEACHERS)
    assert [column.title for column in table.columns][-2:] == ["alone", "agreement alone"]
    assert table.rows[0][-2:] == ("66.7%", "100.0%")
