import re
from html import unescape
from xml.etree import ElementTree

import numpy as np
import pytest

from amalgam_edge.evaluation.bundle_evaluation import measure_answers
from amalgam_edge.reports.evaluation_report import render_evaluation
from amalgam_edge.reports.evaluation_tables import comparison_lines, comparison_table, domain_table, evaluation_table
from amalgam_edge.runtime.evaluation import (
    BundleComparison,
    DomainAccuracy,
    Evaluation,
    HeadEvaluation,
    ModelComparison,
)
from amalgam_edge.storage.records import to_json

SVG = "{http://www.w3.org/2000/svg}"
LOGITS = np.log([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4], [0.5, 0.4, 0.1]])
GOLD = np.array([0, 1, 2, 1])


def make_measured(teacher="fun", models=("int8",), **changes):
    student = {name: measure_answers(GOLD, LOGITS, {teacher: [0, 1], "work": [2]}, 0.0) for name in models}
    return Evaluation("labelled.csv", 4, {"label": HeadEvaluation("softmax", 4, ("a", "b", "c"), student)}, **changes)


def make_comparison(**changes):
    row = ModelComparison(
        other="fp32", n_texts=4, accuracy=0.75, other_accuracy=0.5, difference=0.25, interval=(-0.25, 0.75), b=2, c=1,
        p_value=1.0,
    )  # fmt: skip
    plain = {"bundle": "other/", "same_bundle": False, "missing_labels": {}, "models": {"int8": row}}
    return BundleComparison(**(plain | changes))


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
    assert comparison_table(measured.comparison).rows == (
        ("student int8", "fp32", "4", "75.0%", "50.0%", "+25.0", "-25.0 … +75.0", "2", "1", "1"),
    )


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
