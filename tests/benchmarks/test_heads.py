"""Teachers of independent questions: gold columns, splits, and how good answers are."""

import numpy as np
import pytest
import torch

from benchmarks.heads import questions, teachers

ROWS = [
    {"text": f"text {i}", "colour": "red" if i % 3 else "blue", "parts": ["", "wheel", "wheel;door"][i % 3]}
    for i in range(60)
]


def test_a_column_of_several_or_no_answers_is_a_sigmoid_question():
    colour, parts = questions.find_questions(ROWS)
    assert (colour.name, colour.labels, colour.multi) == ("colour", ("blue", "red"), False)
    assert (parts.name, parts.labels, parts.multi) == ("parts", ("door", "wheel"), True)
    assert parts.target(ROWS[:3]).tolist() == [[0, 0], [0, 1], [1, 1]]


def test_the_split_of_rows_depends_on_no_order_and_shares_out_every_text_once():
    split = questions.split(ROWS)
    assert split == questions.split(ROWS[::-1])
    assert sorted(row["text"] for part in split for row in part) == sorted(row["text"] for row in ROWS)
    assert [len(part) for part in split] == [30, 16, 14]


def test_binary_cross_entropy_is_that_of_each_label_and_weighs_texts():
    logits = torch.tensor([[0.0, 2.0], [-1.0, 0.5]], dtype=torch.float64)
    target = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    p = 1 / (1 + np.exp(-logits.numpy()))
    by_text = -(target.numpy() * np.log(p) + (1 - target.numpy()) * np.log(1 - p)).sum(axis=1)
    expected = (2.0 * by_text[0] + 0.5 * by_text[1]) / 2
    loss = teachers.binary_cross_entropy(logits, target, torch.tensor([2.0, 0.5]))
    assert float(loss) == pytest.approx(expected, rel=1e-6)


def test_quality_is_accuracy_of_one_answer_and_micro_f1_of_any_number():
    one = questions.Question("colour", ("blue", "red"))
    target = np.array([[1, 0], [1, 0], [0, 1], [1, 0]], np.float32)
    assert teachers.quality(one, np.array([[2, 1], [0, 1], [0, 1], [3, 1]]), target) == (0.75, 0.75)
    many = questions.Question("parts", ("door", "wheel"), multi=True)
    target = np.array([[1, 1], [0, 1], [0, 0]], np.float32)
    # Given are both, nothing, and door: two hits, one wrong, one missed. So it is with wheel for every text.
    measured = teachers.quality(many, np.array([[1, 1], [-1, -1], [1, -1]]), target)
    assert measured == pytest.approx((4 / 6, 4 / 6))
