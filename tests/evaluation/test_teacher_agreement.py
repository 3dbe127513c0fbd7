"""A student beside its teachers, by hand."""

import numpy as np
import pytest

from amalgam_edge.evaluation.teacher_agreement import (
    TaughtLabels,
    TeacherAnswers,
    differing_answers,
    teacher_accuracy,
    teacher_agreement,
)
from amalgam_edge.gold import gold_answers
from amalgam_edge.heads import Head
from amalgam_edge.runtime.manifest_models import TeacherAccuracy, TeacherAgreement, with_models
from amalgam_edge.storage.records import from_json, to_json
from tests.support.manifests import make_accuracy, make_evaluation

TOPIC = Head("topic", "softmax", ("a", "b", "c"))
FLAGS = Head("flags", "sigmoid", ("x", "y", "z"), thresholds=(0.5, 0.5, 0.9))


def likeliest(head, labels):
    """Logits whose likeliest label is the one named."""
    return np.eye(len(head))[[head.labels.index(label) for label in labels]]


def holding(head, sets):
    """Logits of which the labels named hold, by any threshold up to 0.9."""
    return np.array([[5.0 if label in labels else -5.0 for label in head.labels] for labels in sets])


def asked(labels, logits, cells=None, n_texts=None, **options):
    """What a teacher answers by logits of its own classes for all texts."""
    gold = None if cells is None else gold_answers(labels.head, cells, **options)
    rows = labels.rows(gold, len(logits) if n_texts is None else n_texts)
    return TeacherAnswers.of_logits(labels, rows, logits[rows], gold)


def counts(row):
    return row.n_texts, row.agreement, row.accuracy, row.student_right, row.teacher_right, row.neither_right


def test_one_teacher_is_asked_about_all_texts():
    """The teacher's classes stand in another order than the labels: c, a, b."""
    only = TaughtLabels("t", TOPIC, (2, 0, 1), is_only=True)
    teacher = asked(only, np.eye(3)[[1, 1, 2, 0, 0]], ["a", "b", "b", None, "a"], may_lack=True)  # a a b c c
    student = likeliest(TOPIC, "abbaa")
    assert counts(teacher_agreement(teacher, student)) == (5, 2 / 5, 4 / 4, 2, 0, 0)
    own = teacher_accuracy(teacher)
    assert (own.accuracy, own.n_texts) == (2 / 4, 4)
    assert own.macro_f1 == pytest.approx(np.mean([2 * 1 / (2 + 2), 2 * 1 / (2 + 1), 0]))
    examples = differing_answers(teacher, student, ["0", "1", "2", "3", "4"])
    assert {who: [row.text for row in rows] for who, rows in examples.items()} == {
        "student_right": ["1", "4"],
        "no_gold": ["3"],
    }
    (unknown,) = examples["no_gold"]
    assert (unknown.gold, unknown.teacher, unknown.student) == (None, ("c",), ("a",))


def test_who_is_right_where_they_differ():
    only = TaughtLabels("t", TOPIC, (0, 1, 2), is_only=True)
    teacher = asked(only, likeliest(TOPIC, "aabcb"), ["a", "b", "c", "c", "a"])
    row = teacher_agreement(teacher, likeliest(TOPIC, "abaac"))
    assert counts(row) == (5, 1 / 5, 2 / 5, 1, 1, 2)
    assert row.labels == {}


def test_of_several_teachers_each_has_its_own_texts():
    """By gold labels where there are any; without them by what the student answers."""
    first, second = (
        TaughtLabels(name, TOPIC, columns, is_only=False) for name, columns in (("t", (0, 1)), ("u", (1, 2)))
    )
    logits = np.eye(2)[[0, 0, 1, 1]]
    cells, student = ["a", "c", "b", "c"], likeliest(TOPIC, "aabb")
    teacher = asked(first, logits, cells)
    assert teacher.rows.tolist() == [0, 2]
    assert counts(teacher_agreement(teacher, student)) == (2, 1.0, 1.0, 0, 0, 0)
    other = asked(second, logits, cells)
    assert other.rows.tolist() == [1, 2, 3]
    assert counts(teacher_agreement(other, student)) == (3, 0.0, 1 / 3, 1, 1, 1)
    unlabelled = asked(second, logits)
    assert counts(teacher_agreement(unlabelled, student)) == (2, 0.0, None, 0, 0, 0)
    nothing = teacher_agreement(unlabelled, likeliest(TOPIC, "aaaa"))
    assert (nothing.n_texts, nothing.agreement) == (0, None)
    assert teacher_accuracy(unlabelled).accuracy is None


def test_sets_are_compared_on_the_teachers_own_labels_by_the_heads_thresholds():
    """The teacher knows z and x; 0.88 is not enough for z, whose threshold is 0.9."""
    labels = TaughtLabels("t", FLAGS, (2, 0), is_only=False)
    almost = np.log(0.88 / 0.12)
    teacher = asked(labels, np.array([[almost, 5.0], [5.0, 5.0], [-5.0, -5.0]]), ["x;y", "z", ""])
    student = holding(FLAGS, ["xy", "xz", "x"])
    row = teacher_agreement(teacher, student)
    assert counts(row) == (3, 2 / 3, 1 / 3, 0, 1, 0)
    assert row.labels == {"z": 1.0, "x": 2 / 3}
    own = teacher_accuracy(teacher)
    assert (own.accuracy, own.n_texts) == (2 / 3, 3)
    assert own.micro_f1 == pytest.approx(2 * 2 / (2 + 3))
    (example,) = differing_answers(teacher, student, ["0", "1", "2"])["teacher_right"]
    assert (example.text, example.gold, example.teacher, example.student) == ("2", (), (), ("x",))


def test_an_answer_that_is_no_number_agrees_with_nobody():
    labels = TaughtLabels("t", FLAGS, (0, 1, 2), is_only=True)
    teacher = asked(labels, holding(FLAGS, ["", ""]))
    broken = holding(FLAGS, ["", ""])
    broken[1] = np.nan
    assert teacher_agreement(teacher, broken).agreement == 0.5


def test_ten_examples_of_a_kind_with_their_middle_left_out():
    only = TaughtLabels("t", TOPIC, (0, 1, 2), is_only=True)
    teacher = asked(only, likeliest(TOPIC, "a" * 12), ["b"] * 12)
    texts = ["word " * 1000, *(f"text {number}" for number in range(11))]
    found = differing_answers(teacher, likeliest(TOPIC, "c" * 12), texts)
    assert list(found) == ["neither_right"]
    assert [row.text for row in found["neither_right"][1:]] == texts[1:10]
    assert len(found["neither_right"][0].text) < 2010
    assert " … " in found["neither_right"][0].text


def test_models_that_leave_a_bundle_take_their_agreement_with_them():
    agreed = TeacherAgreement(4, 1.0, {}, 0.5, 0, 0, 0)
    teacher = TeacherAccuracy(0.5, 4, student={"fp32": agreed, "int8": agreed})
    accuracy = make_accuracy(0.5, 0.5)
    evaluation = make_evaluation(student={"fp32": accuracy, "int8": accuracy}, teachers={"t": teacher})
    kept = with_models(evaluation, lambda name: name == "fp32").heads["label"]
    assert (list(kept.student), list(kept.teachers["t"].student)) == (["fp32"], ["fp32"])
    assert from_json(TeacherAccuracy, to_json(teacher)) == teacher
    assert from_json(TeacherAccuracy, {"accuracy": 0.5, "n_texts": 4}) == TeacherAccuracy(0.5, 4)
