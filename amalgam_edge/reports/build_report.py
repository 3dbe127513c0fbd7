"""The report of a build: one HTML page that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

import numpy as np

from amalgam_edge.methods.supervision import margin
from amalgam_edge.metrics.calibration import Reliability
from amalgam_edge.reports import plots
from amalgam_edge.reports.bundle_tables import (
    calibration_lines,
    cascade_line,
    change_lines,
    front_line,
    front_table,
    head_table,
    precision_table,
    teacher_table,
)
from amalgam_edge.reports.evaluation_tables import TEACHERS_NOTE, evaluation_table, teachers_table
from amalgam_edge.reports.pages import html_table, page, section
from amalgam_edge.runtime.manifest import Manifest
from amalgam_edge.runtime.manifest_heads import BundleHead
from amalgam_edge.runtime.manifest_models import Front
from amalgam_edge.scoring.scores import TeacherScores, certainty


@dataclass(frozen=True)
class ReportData:
    """What the report shows besides the manifest.

    Attributes:
        scores: Each teacher's scores of the whole corpus.
        confusions: Softmax head → counts by gold and predicted class, ``(n_labels, n_labels)``; empty without gold
            labels.
        reliability: Head → name of a curve → confidence against gold labels; empty without these.
    """

    scores: Sequence[TeacherScores]
    confusions: Mapping[str, np.ndarray] = field(default_factory=dict)
    reliability: Mapping[str, Mapping[str, Reliability]] = field(default_factory=dict)


def render_report(manifest: Manifest, data: ReportData) -> str:
    """The page, with its figures inline.

    Args:
        manifest: The bundle's manifest.
        data: What the figures are drawn from.
    """
    uncertainty = {scores.teacher: scores.uncertainty for scores in data.scores}
    sections = [
        *_head_sections(manifest),
        section("Precisions", html_table(precision_table(manifest)), _gate_note(manifest)),
        section("Teachers", html_table(teacher_table(manifest))),
    ]
    if manifest.front:
        sections.append(front_section(manifest, manifest.front))
    sections += _accuracy_sections(manifest)
    if lines := calibration_lines(manifest):
        sections.append(section("Calibration", "".join(f"<p>{escape(line)}</p>" for line in lines)))
    figures = [
        section(
            "Uncertainty of each teacher",
            plots.uncertainty_histograms(uncertainty),
            "0: every dropout pass is sure of one class; 1: all classes are equally likely.",
        ),
    ]
    for head in manifest.heads:
        figures += _choice_figures(manifest, head, data.scores)
    figures.append(section("Training", plots.training_curve(manifest.training)))
    for head in manifest.heads:
        figures += _gold_figures(manifest, head, data)
    return _page(manifest, f"{_contents(manifest)} from {len(uncertainty)} teacher(s)", sections, figures)


def _contents(manifest: Manifest) -> str:
    """What the student answers with, in a few words."""
    n_labels = f"{len(manifest.answers.labels)} labels"
    return f"{len(manifest.heads)} heads with {n_labels}" if len(manifest.heads) > 1 else n_labels


def _of(manifest: Manifest, head: BundleHead) -> str:
    """The head's name after a title, where there are several."""
    return f": {head.name}" if len(manifest.heads) > 1 else ""


def _head_sections(manifest: Manifest) -> list[str]:
    """What the heads are, where that is not said by the labels alone."""
    if manifest.answers.is_one_softmax:
        return []
    return [
        section(
            "Heads",
            html_table(head_table(manifest)),
            "Each head is a question of its own. Agreements are shares of held-out texts with the same answer: the "
            "same label, or the same set of labels.",
        )
    ]


def _accuracy_sections(manifest: Manifest) -> list[str]:
    """What gold labels tell of the student, and of its teachers beside it."""
    if not manifest.evaluation:
        return []
    sections = [section("Accuracy on labelled texts", html_table(evaluation_table(manifest.evaluation)))]
    teachers = teachers_table(manifest.evaluation)
    if teachers.rows:
        sections.append(section("Beside the teachers", html_table(teachers), TEACHERS_NOTE))
    return sections


def _choice_figures(manifest: Manifest, head: BundleHead, scores: Sequence[TeacherScores]) -> list[str]:
    """Which of a head's teachers is the most certain, and by how much; nothing of one of several heads with one."""
    own = [each for each in scores if each.teacher in manifest.teachers_of(head.name)]
    if len(own) == 1 and len(manifest.heads) > 1:
        return []
    certainties = certainty(own)
    names = [each.teacher for each in own]
    title = f"Most certain teacher{_of(manifest, head)}"
    figures = [section(title, plots.picked_bars(names, certainties.argmax(axis=1)))]
    if len(own) > 1:
        figures.append(
            section(
                f"Margin{_of(manifest, head)}",
                plots.margin_histogram(margin(certainties)),
                "Under re-weighting a text counts in proportion to its margin.",
            )
        )
    return figures


def _gold_figures(manifest: Manifest, head: BundleHead, data: ReportData) -> list[str]:
    """What gold labels show of a head."""
    figures = []
    if head.name in data.confusions:
        labels = [label.name for label in head.labels]
        drawn = plots.confusion_heatmap(labels, data.confusions[head.name])
        figures.append(section(f"Confusion{_of(manifest, head)}", drawn))
    if head.name in data.reliability:
        figures.append(
            section(
                f"Reliability{_of(manifest, head)}",
                plots.reliability_diagram(data.reliability[head.name]),
                "Where the line runs along the diagonal, a score is the probability of being right.",
            )
        )
    return figures


def render_front(manifest: Manifest, title: str = "models chosen anew") -> str:
    """The page of a finished bundle that was changed, when the teachers' scores are not at hand any more.

    Args:
        manifest: The bundle's manifest.
        title: What was changed.
    """
    sections = [
        *_head_sections(manifest),
        section("Precisions", html_table(precision_table(manifest)), _gate_note(manifest)),
        *([front_section(manifest, manifest.front)] if manifest.front else []),
        section("Teachers", html_table(teacher_table(manifest))),
    ]
    sections += _accuracy_sections(manifest)
    if manifest.changes:
        changes = "".join(f"<li>{escape(line)}</li>" for line in change_lines(manifest))
        sections.append(section("Changes to heads", f"<ul>{changes}</ul>"))
    return _page(manifest, f"{_contents(manifest)}, {title}", sections)


def _page(manifest: Manifest, title: str, sections: Sequence[str], figures: Sequence[str] = ()) -> str:
    corpus = manifest.corpus
    summary = (
        f"{manifest.method} · {corpus.n_texts} texts "
        f"({corpus.n_duplicate} duplicates and {corpus.n_blank} blank ones left out) · "
        f"amalgam-edge {manifest.written_with}"
    )
    return page(title, summary, sections, figures)


def front_section(manifest: Manifest, front: Front) -> str:
    """What was tried under a budget, as a table and a figure."""
    drawn = plots.front_scatter(front.candidates, front.picked)
    note = (
        f"{escape(front_line(manifest))}. * is what was picked. A model is on the front if no other is as good in "
        "size, both latencies, labels changed and its student's agreement with supervision, and better in one. Labels "
        "changed are those of the student's float model with all tokens; the agreement is that model's, on held-out "
        "texts. In the figure, beside each name: labels changed."
    )
    return section("Models under the budget", html_table(front_table(manifest)) + drawn, note)


def _gate_note(manifest: Manifest) -> str:
    gate = manifest.gate
    tried = "; ".join(f"{escape(attempt.quantization)} {attempt.disagreement:.2%}" for attempt in gate.attempts)
    verdict = "" if gate.passed else '<b class="miss">No int8 model kept within the budget; float only. </b>'
    return (
        f"{verdict}* is the default. Agreement is with {escape(gate.compared_with)} on {gate.n_texts} texts held "
        f"out from training; budget {gate.max_disagreement:.2%} of changed labels. Measured: {tried}."
        + (f"<br>{escape(line)}." if (line := cascade_line(manifest)) else "")
    )
