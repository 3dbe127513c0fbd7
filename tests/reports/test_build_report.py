import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest

from amalgam_edge.metrics.calibration import reliability
from amalgam_edge.reports.build_report import ReportData, render_report
from amalgam_edge.reports.plots import front_scatter
from amalgam_edge.runtime.manifest_models import GateAttempt
from amalgam_edge.runtime.manifest_origin import TrainingPoint
from amalgam_edge.scoring.scores import TeacherScores
from tests.support.manifests import (
    make_accuracy,
    make_calibration,
    make_candidate,
    make_evaluation,
    make_front,
    make_gate,
    make_label,
    make_manifest,
    make_precision,
    make_teacher,
)

TRAINING = (
    TrainingPoint(1, 0.5, loss=0.9),
    TrainingPoint(2, 1.0, loss=0.7),
    TrainingPoint(2, 1.0, held_out_loss=0.8),
)
CONFUSION = np.array([[20, 1, 0], [2, 17, 0], [0, 41, 0]])
SVG = "{http://www.w3.org/2000/svg}"


class Page(HTMLParser):
    """What a browser would see: elements with their attributes, and the text."""

    VOID = frozenset({"meta", "link", "br", "img", "hr"})

    def __init__(self, html):
        super().__init__()
        self.html, self.elements, self.text, self.open = html, [], [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def count(self, tag):
        return sum(name == tag for name, _ in self.elements)

    @property
    def headings(self):
        return re.findall("<h2>(.*?)</h2>", self.html)

    @property
    def figures(self):
        return [ElementTree.fromstring(svg) for svg in re.findall("<svg.*?</svg>", self.html, re.DOTALL)]


def scores(teacher, n_texts=120, seed=0):
    rng = np.random.default_rng(seed)
    return TeacherScores.from_logits(teacher, rng.normal(size=(n_texts, 2)), rng.normal(size=(4, n_texts, 2)))


def render(manifest=None, *, teachers=("fun", "work"), training=TRAINING, confusion=CONFUSION, curves=()):
    scored = [scores(name, seed=k) for k, name in enumerate(teachers)]
    confusions = {} if confusion is None else {"label": confusion}
    data = ReportData(scored, confusions, {"label": dict(curves)} if curves else {})
    return Page(render_report(replace(manifest or make_manifest(), training=training), data))


def single(**changes):
    """One teacher, of all labels."""
    labels = tuple(make_label(name, fun=name) for name in ("games", "science", "net"))
    return make_manifest(labels=labels, teachers=(make_teacher("fun", ["games", "net"], picked_share=1.0),), **changes)


def taught_by(teachers, names):
    """A label of each name, all of them classes of all teachers."""
    return tuple(make_label(name, **dict.fromkeys(teachers, name)) for name in names)


def test_the_page_shows_tables_and_figures():
    page = render()
    assert page.open == []
    assert page.html.startswith("<!doctype html>")
    assert page.headings == [
        "Precisions",
        "Teachers",
        "Accuracy on labelled texts",
        "Uncertainty of each teacher",
        "Most certain teacher",
        "Margin",
        "Training",
        "Confusion",
    ]
    assert page.count("svg") == len(page.figures) == 5
    assert page.count("table") == 3
    text = " ".join(page.text)
    for word in ("3 labels from 2 teacher(s)", "muka-soft", "120 texts", "7 duplicates and 2 blank", "0.1.0", "99.31%"):
        assert word in text


def test_figures_hold_the_numbers():
    texts = [["".join(t.itertext()).strip() for t in figure.iter(f"{SVG}text")] for figure in render().figures]
    uncertainty, picked, _, _, confusion = texts
    assert {"fun", "work"} <= set(uncertainty)
    certainties = np.stack([1 - scores(name, seed=k).uncertainty for k, name in enumerate(("fun", "work"))])
    counts = np.bincount(certainties.argmax(axis=0), minlength=2)
    for count in counts:
        assert f"{count} ({count / 120:.0%})" in picked
    assert {"20", "1", "2", "17", "41"} <= set(confusion)
    assert {"games", "science", "net"} <= set(confusion)


def test_the_page_needs_nothing_else():
    page = render()
    for tag in ("script", "link", "img", "iframe", "object", "embed"):
        assert page.count(tag) == 0, tag
    for tag, attributes in page.elements:
        for name, value in attributes.items():
            if "://" in (value or ""):  # the names of XML vocabularies, which nothing fetches
                assert name.startswith("xmlns") or name == "rdf:resource", (tag, name, value)
            if name in ("href", "src", "xlink:href"):
                assert value.startswith(("#", "data:image/png;base64,")), (tag, name, value)
    assert all(url.startswith("#") for url in re.findall(r"url\(([^)]*)\)", page.html))
    assert "@import" not in page.html


def test_two_reports_of_one_build_are_equal():
    assert render().html == render().html


def test_one_teacher_has_no_margin():
    page = render(single(), teachers=["fun"])
    assert "Margin" not in page.headings
    assert page.count("svg") == 4
    assert "3 labels from 1 teacher(s)" in "".join(page.text)


def test_without_labelled_texts_there_is_no_evaluation():
    page = render(make_manifest(evaluation=None), confusion=None)
    assert "Accuracy on labelled texts" not in page.headings
    assert "Confusion" not in page.headings
    assert page.count("table") == 2
    assert page.count("svg") == 4


def test_the_least_report():
    page = render(single(evaluation=None), teachers=["fun"], training=TRAINING[:1], confusion=None)
    assert page.count("svg") == 3


def test_reliability_is_drawn_where_gold_is_known():
    logits = np.random.default_rng(0).normal(scale=3, size=(60, 3))
    truth = np.eye(3)[np.arange(60) % 3]
    curves = {"as trained": reliability(logits, truth), "calibrated": reliability(logits, truth, temperature=9.0)}
    page = render(make_manifest(calibration=make_calibration()), curves=curves)
    assert page.headings[2:4] == ["Accuracy on labelled texts", "Calibration"]
    assert page.headings[-1] == "Reliability"
    assert "temperature 1.23, calibration error on supervision 10.0% → 1.2%" in " ".join(page.text)
    drawn = ["".join(t.itertext()).strip() for t in page.figures[-1].iter(f"{SVG}text")]
    for name, curve in curves.items():
        assert f"{name}: calibration error {curve.error:.1%}" in drawn


def test_reliability_of_one_text_is_drawn():
    curve = reliability(np.array([[3.0, 0.0, 0.0]]), np.eye(3)[:1])
    assert render(curves={"as trained": curve}).headings[-1] == "Reliability"


def test_a_refused_int8_is_said():
    attempts = (GateAttempt("one way", 0.25, 0.1), GateAttempt("another <way>", 0.125, None))
    gate = make_gate(passed=False, max_disagreement=0.0125, attempts=attempts)
    only = {"fp32": make_precision("onnx/model.onnx", 1_000_000, "float", 1.0, 0.0, 1.0, 1.0)}
    text = " ".join(render(make_manifest(gate=gate, precisions=only, default_precision="fp32")).text)
    for words in ("No int8 model kept within the budget", "one way 25.00%", "another <way> 12.50%", "1.25%"):
        assert words in text
    assert "No int8 model" not in " ".join(render().text)


NASTY = ['<script>alert("1")</script>', "a & b < c", "'\"><img src=x onerror=y>"]


def test_names_with_html_in_them_are_text():
    page = render(
        make_manifest(
            labels=taught_by(["<b>fun</b>", "&amp;"], NASTY),
            teachers=(make_teacher("<b>fun</b>", NASTY[:2]), make_teacher("&amp;", NASTY[1:])),
            recipe={"method": "<i>muka</i>"},
            evaluation=make_evaluation(student={"<u>fp32</u>": make_accuracy(0.5, 0.5)}),
        ),
        teachers=["<b>fun</b>", "&amp;"],
    )
    for tag in ("script", "b", "i", "u", "img"):
        assert page.count(tag) == 0, tag
    text = "".join(page.text)
    for words in (*NASTY, "<b>fun</b>", "&amp;", "<i>muka</i>", "<u>fp32</u>"):
        assert words in text
    drawn = ["".join(t.itertext()).strip() for figure in page.figures for t in figure.iter(f"{SVG}text")]
    for words in (*NASTY, "<b>fun</b>", "&amp;"):
        assert words in drawn


@pytest.mark.parametrize("name", [r"$\nonsense$", "$_$", "from $5 to $9", "100%", r"\n", "{x}", "a_b^c"])
def test_names_are_no_formulas(name):
    """Dollar signs make matplotlib typeset what is between them, or fail at it."""
    labels = taught_by([name, "work"], [name, "science", "net"])
    teachers = (make_teacher(name, [name]), make_teacher("work", ["science"]))
    page = render(make_manifest(labels=labels, teachers=teachers), teachers=[name, "work"])
    drawn = ["".join(t.itertext()).strip() for figure in page.figures for t in figure.iter(f"{SVG}text")]
    assert drawn.count(name) == 4  # both axes of the confusion, the histogram, the bar


@pytest.mark.filterwarnings("ignore:Glyph")
def test_many_labels_are_drawn_without_counts():
    n_labels = 25
    labels = taught_by(["fun", "work"], [f"label {k}" for k in range(n_labels)])
    page = render(make_manifest(labels=labels), confusion=np.full((n_labels, n_labels), 777))
    assert "label 24" in "".join(page.text)
    assert "777" not in "".join(page.text)


def test_a_build_without_updates_has_an_empty_curve():
    assert render(training=(TrainingPoint(1, 1.0, held_out_loss=0.5),)).count("svg") == 5


def drawn_in(svg):
    return ["".join(text.itertext()).strip() for text in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_a_front_of_one_student_names_every_model():
    front = make_front()
    names = drawn_in(front_scatter(front.candidates, front.picked))
    assert {"fp32 (0%)", "int8 (0.69%)", "fp16 (0.01%)"} <= set(names)


def test_a_front_of_several_students_tells_them_by_colour_and_names_what_is_on_it():
    candidates = tuple(
        replace(row, name=f"{layers}-layer {row.name}", layers=layers, n_tokens=812)
        for row, layers in zip(make_front().candidates, (6, 6, 3), strict=True)
    )
    page = render(make_manifest(front=make_front(picked="6-layer int8", candidates=candidates)))
    assert "Models under the budget" in page.headings
    names = [text for figure in page.figures for text in drawn_in(ElementTree.tostring(figure))]
    assert {"fp32 (0%)", "int8 (0.69%)", "6 layers, 812 tokens", "3 layers, 812 tokens"} <= set(names)
    assert "fp16 (0.01%)" not in names


def test_what_labels_are_compared_with_is_told():
    gate = make_gate(compared_with="the float model with all tokens")
    assert "with the float model with all tokens on 12 texts" in "".join(render(make_manifest(gate=gate)).text)
    assert "is with the float model on 12 texts" in "".join(render().text)


def test_names_of_points_that_lie_close_do_not_cover_each_other():
    """A name's room: 9 points high, at least 4 wide for each of its 11 characters."""
    close = [make_candidate(f"int8-{k}", megabytes=17 + k / 2, latency_ms=3 + k / 50) for k in range(4)]
    far = make_candidate("far", megabytes=70, latency_ms=5)
    svg = front_scatter([*close, far], "far")
    found = re.findall(r'text-anchor: (start|end)[^>]* x="([\d.]+)" y="([\d.]+)"[^>]*>(int8-\d) \(1%\)</text>', svg)
    assert len(found) == 4
    rooms = [(float(x) - 44 * (side == "end"), float(y)) for side, x, y, _ in found]
    for k, (x, y) in enumerate(rooms):
        assert all(abs(x - other_x) >= 44 or abs(y - other_y) >= 9 for other_x, other_y in rooms[:k])
