import json
import re
from dataclasses import replace
from html import unescape
from xml.etree import ElementTree

import numpy as np
import pytest

from amalgam_edge.evaluation.head_metrics import evaluate_head
from amalgam_edge.gold import GoldAnswers
from amalgam_edge.heads import Head
from amalgam_edge.reports.evaluation_report import render_evaluation
from amalgam_edge.reports.evaluation_tables import (
    comparison_lines,
    comparison_table,
    domain_table,
    evaluation_table,
    example_table,
    label_table,
    teacher_lines,
    teachers_table,
)
from amalgam_edge.runtime.evaluation import (
    BundleComparison,
    DifferingAnswer,
    DomainAccuracy,
    Evaluation,
    HeadComparison,
    HeadEvaluation,
    ModelComparison,
    TeacherEvaluation,
)
from amalgam_edge.runtime.manifest_models import TeacherAgreement
from amalgam_edge.storage.records import from_json, to_json

SVG = "{http://www.w3.org/2000/svg}"
LOGITS = np.log([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4], [0.5, 0.4, 0.1]])
GOLD = GoldAnswers(np.arange(4), np.array([0, 1, 2, 1]))
HEAD = Head("label", "softmax", ("a", "b", "c"))
FLAGS = Head("flags", "sigmoid", ("x", "y"))


def make_measured(teacher="fun", models=("int8",), **changes):
    student = {name: evaluate_head(HEAD, GOLD, LOGITS, {teacher: [0, 1], "work": [2]}) for name in models}
    heads = {"label": HeadEvaluation("softmax", 4, HEAD.labels, student)} | changes.pop("heads", {})
    return Evaluation("labelled.csv", 4, models[0], heads, **changes)


def make_comparison(**changes):
    row = ModelComparison(
        other="fp32", n_texts=4, accuracy=0.75, other_accuracy=0.5, difference=0.25, interval=(-0.25, 0.75), b=2, c=1,
        p_value=1.0,
    )  # fmt: skip
    missing = changes.pop("missing_labels", {})
    heads = {"label": HeadComparison(missing, {"int8": row})}
    return BundleComparison(
        **({"bundle": "other/", "same_bundle": False, "heads": heads, "missing_heads": ()} | changes)
    )


def make_flags(**changes):
    """A sigmoid head of two texts, and a teacher that it agrees with on one of them."""
    gold = GoldAnswers(np.arange(2), np.array([[True, False], [False, False]]))
    row = evaluate_head(FLAGS, gold, np.array([[2.0, -2.0], [-2.0, 2.0]]), {})
    agreed = TeacherAgreement(
        n_texts=2, agreement=0.5, labels={"x": 1.0, "y": 0.5}, accuracy=0.5, student_right=0, teacher_right=1,
        neither_right=0,
    )  # fmt: skip
    example = DifferingAnswer("a <b>\u202etext", (), (), ("y",))
    teacher = TeacherEvaluation(1.0, 2, 1.0, 1.0, {"int8": agreed}, examples={"teacher_right": (example,)}, **changes)
    return HeadEvaluation("sigmoid", 2, FLAGS.labels, {"int8": row}, {"tagger": teacher})


def drawn_in(svg):
    return ["".join(text.itertext()).strip() for text in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_the_numbers_by_hand():
    """Surest first: right 0.8, right 0.7, wrong 0.5, right 0.4; each in a bin of its own."""
    row = make_measured().heads["label"].student["int8"]
    assert row.accuracy == 0.75
    assert row.nll == pytest.approx(-np.log(0.7 * 0.8 * 0.4 * 0.4) / 4)
    assert row.ece == pytest.approx((0.3 + 0.2 + 0.6 + 0.5) / 4)
    assert row.aurc == pytest.approx((0 + 0 + 1 / 3 + 1 / 4) / 4)
    assert row.domains["fun"].accuracy == 2 / 3
    assert row.domains["work"] == DomainAccuracy(n_texts=1, accuracy=1.0, macro_f1=1.0)
    assert "answered" not in to_json(row)


def test_tables_by_hand():
    measured = make_measured(comparison=make_comparison())
    assert evaluation_table(measured).rows == (("student int8", "4", "75.0%", "77.8%", "0.603", "40.0%", "0.146"),)
    assert domain_table(measured).rows == (
        ("student int8", "fun", "3", "66.7%", "66.7%"),
        ("student int8", "work", "1", "100.0%", "100.0%"),
    )
    assert label_table(measured, "label").rows == (
        ("a", "1", "50.0%", "100.0%", "66.7%"),
        ("b", "2", "100.0%", "50.0%", "66.7%"),
        ("c", "1", "100.0%", "100.0%", "100.0%"),
    )
    assert comparison_table(measured.comparison).rows == (
        ("student int8", "fp32", "4", "75.0%", "50.0%", "+25.0", "-25.0 … +75.0", "2", "1", "1"),
    )


def test_several_heads_are_named_in_every_table():
    measured = make_measured(heads={"flags": make_flags()}, comparison=make_comparison(missing_heads=("flags",)))
    assert [row[0] for row in evaluation_table(measured).rows] == ["label", "flags"]
    assert [row[0] for row in domain_table(measured).rows] == ["label", "label"]
    assert [row[0] for row in comparison_table(measured.comparison).rows] == ["label"]
    assert teachers_table(measured).rows == (
        ("flags", "tagger", "int8", "2", "50.0%", "100.0%", "50.0%", "0", "1", "0"),
    )
    assert evaluation_table(measured).rows[1][3:] == ("50.0%", "50.0%", "66.7%", "100.0%", "0.627", "13.1%", "–")
    assert "other/ has no head flags" in comparison_lines(measured.comparison)


def test_a_sigmoid_head_has_its_labels_calibration_and_agreement():
    measured = make_measured(heads={"flags": make_flags()})
    table = label_table(measured, "flags")
    assert [column.title for column in table.columns][-2:] == ["ECE", "agreement with tagger"]
    assert [row[1:5] for row in table.rows] == [("1", "100.0%", "100.0%", "100.0%"), ("0", "0.0%", "–", "0.0%")]
    assert [row[-1] for row in table.rows] == ["100.0%", "50.0%"]


def test_a_teacher_that_the_bundle_was_not_built_from_is_said():
    assert len(teacher_lines(make_measured(heads={"flags": make_flags()}))) == 1
    (_, said) = teacher_lines(make_measured(heads={"flags": make_flags(as_built=False)}))
    assert said == "teacher 'tagger' is not the one that the bundle was built from: its fingerprint differs"


def test_texts_that_are_answered_differently_are_shown_and_do_nothing():
    examples = make_flags().teachers["tagger"].examples
    assert example_table(examples).rows == (("teacher", "a <b>\\u202etext", "(no label)", "(no label)", "y"),)
    without_gold = {"no_gold": (DifferingAnswer("a", None, ("x",), ()),)}
    assert example_table(without_gold).rows == (("a", "x", "(no label)"),)
    html = render_evaluation(make_measured(heads={"flags": make_flags()}), "student/")
    assert "a &lt;b&gt;\\u202etext" in html
    assert "\u202e" not in html


def test_the_page_has_a_part_for_each_head():
    html = render_evaluation(make_measured(heads={"flags": make_flags()}), "student/")
    assert [unescape(title) for title in re.findall("<h2>(.*?)</h2>", html)] == [
        "Accuracy on labelled texts",
        "Each teacher's domain",
        "Beside the teachers",
        "Labels: label",
        "Labels: flags",
        "Where student and teacher 'tagger' differ: flags",
        "Reliability: label",
        "Risk and coverage: label",
        "Reliability: flags",
    ]


def test_a_head_without_gold_labels_stands_beside_its_teachers_alone():
    flags = make_flags()
    agreed = replace(flags.teachers["tagger"].student["int8"], accuracy=None)
    teacher = TeacherEvaluation(None, 0, student={"int8": agreed})
    measured = Evaluation(
        "texts.txt", 2, "int8", {"flags": replace(flags, n_texts=0, student={}, teachers={"tagger": teacher})}
    )
    assert teachers_table(measured).rows == (("tagger", "int8", "2", "50.0%", "–", "–", "–", "–", "–"),)
    assert label_table(measured, "flags").rows == (("x", "100.0%"), ("y", "50.0%"))
    html = render_evaluation(measured, "student/")
    assert re.findall("<h2>(.*?)</h2>", html) == ["Beside the teachers", "Labels"]
    assert "2 texts without gold labels" in html


def test_an_evaluation_becomes_what_it_was():
    measured = make_measured(heads={"flags": make_flags(as_built=False)}, comparison=make_comparison())
    assert from_json(Evaluation, json.loads(json.dumps(to_json(measured), allow_nan=False))) == measured


def test_what_has_to_be_known_of_a_comparison():
    plain = comparison_lines(make_comparison())
    assert len(plain) == 1
    assert "c only other/" in plain[0]
    said = comparison_lines(make_comparison(missing_labels={"net": 7, "x": 1}, same_bundle=True))
    assert said[1:] == [
        "other/ does not know 'net' (7), 'x' (1): it counts as wrong on those texts",
        "both are the same bundle, file by file",
    ]


def test_every_model_has_its_curves():
    models = ("fp32", "int8", "fp16", "w8", "q4", "int8-pq", "cascade")
    reliability, risk = re.findall("<svg.*?</svg>", render_evaluation(make_measured(models=models), "student/"), re.S)
    for name in models:
        assert f"{name}: calibration error 40.0%" in drawn_in(reliability)
        assert f"{name}: area 0.146" in drawn_in(risk)


def test_names_are_text():
    nasty = '<b>"fun" & $x$</b>'
    comparison = make_comparison(bundle=nasty, missing_labels={nasty: 1})
    page = render_evaluation(make_measured(teacher=nasty, models=(nasty,), comparison=comparison), nasty)
    assert "<b>" not in page
    assert "&amp;amp;" not in page
    assert "&amp;lt;" not in page
    assert f"Compared with {nasty}" in [unescape(title) for title in re.findall("<h2>(.*?)</h2>", page)]
    assert page == render_evaluation(make_measured(teacher=nasty, models=(nasty,), comparison=comparison), nasty)
