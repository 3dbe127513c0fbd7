"""Teachers of independent questions: gold columns, splits, and how good answers are."""

import numpy as np
import pytest
import torch

from amalgam_edge.methods.losses import weighted_binary_divergence
from benchmarks.heads import questions, scoring, settings, teachers

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
    loss = weighted_binary_divergence(logits, target, torch.tensor([2.0, 0.5]))
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


def test_what_a_sigmoid_teacher_says_is_by_label_and_what_a_softmax_teacher_says_by_text():
    random = np.random.default_rng(0)
    logits = random.normal(size=(scoring.PASSES + 1, 6, 3))
    passes = logits[: scoring.PASSES]
    one = np.exp(passes) / np.exp(passes).sum(axis=-1, keepdims=True)
    entropy = -(one.mean(axis=0) * np.log(one.mean(axis=0))).sum(axis=-1)
    expected = -(one * np.log(one)).sum(axis=-1).mean(axis=0)
    softmax = scoring.say(logits, multi=False)
    assert softmax.certainty == pytest.approx(1 - entropy / np.log(3))
    assert softmax.information == pytest.approx(entropy - expected)
    assert softmax.answer.tolist() == logits[-1].argmax(axis=-1).tolist()

    p = 1 / (1 + np.exp(-passes))
    mean = p.mean(axis=0)
    entropy = -(mean * np.log(mean) + (1 - mean) * np.log(1 - mean))
    expected = -(p * np.log(p) + (1 - p) * np.log(1 - p)).mean(axis=0)
    sigmoid = scoring.say(logits, multi=True)
    assert sigmoid.certainty == pytest.approx(1 - entropy.mean(axis=1) / np.log(2))
    assert sigmoid.information == pytest.approx((entropy - expected).sum(axis=1))


def test_sets_of_independent_questions_are_all_combinations_of_columns_over_texts_that_no_teacher_learned_from():
    rows = [{**row, "third": "x" if i % 2 else "y"} for i, row in enumerate(ROWS)]
    sets = settings.independent_sets("toys", rows, (2, 3))
    assert [made.name for made in sets] == [
        "toys, colour + parts",
        "toys, colour + third",
        "toys, parts + third",
        "toys, colour + parts + third",
    ]
    learned = {text for made in sets for teacher in made.teachers for text, _ in teacher.rows}
    assert learned.isdisjoint(sets[0].texts) and len(sets[0].texts) == 16


def test_questions_about_requests_and_verses_are_read_off_the_text():
    asked, told = settings.clinc_questions([{"text": "what is my balance"}, {"text": "tell jokes"}])
    assert (asked["form"], asked["person"], told["form"], told["person"]) == ("question", "me", "request", "nobody")
    (verse,) = settings.verse_questions(["And the LORD spake unto Moses, saying,"], ["Leviticus"])
    assert [*verse.values()][1:] == ["Leviticus", "speech", "others", "God"]
