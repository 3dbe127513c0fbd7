"""The page of ``amalgam-edge evaluate``. A pure function of what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

import numpy as np

from amalgam_edge.heads import SIGMOID
from amalgam_edge.metrics.calibration import Reliability
from amalgam_edge.metrics.risk_coverage import RiskCoverage
from amalgam_edge.reports import plots
from amalgam_edge.reports.evaluation_tables import (
    comparison_lines,
    comparison_table,
    domain_table,
    evaluation_table,
    example_table,
    has_gold,
    label_table,
    teacher_lines,
    teachers_table,
)
from amalgam_edge.reports.pages import html_table, page, section
from amalgam_edge.runtime.evaluation import Evaluation, HeadEvaluation, ReliabilityBins, RiskCoverageCurve


def render_evaluation(evaluation: Evaluation, bundle: str) -> str:
    """Tables and curves, with figures inline.

    Args:
        evaluation: What was measured.
        bundle: The bundle's name in the heading.
    """
    sections = _overview(evaluation)
    figures = []
    for name, head in evaluation.heads.items():
        of_head = f": {name}" if len(evaluation.heads) > 1 else ""
        if (labels := label_table(evaluation, name)).rows:
            sections.append(section(f"Labels{of_head}", html_table(labels), f"By {escape(evaluation.default_model)}."))
        sections += _examples(head, evaluation.default_model, of_head)
        figures += _figures(head, of_head)
    kind = "labelled texts" if has_gold(evaluation) else "texts without gold labels"
    return page(f"{bundle} on {evaluation.data}", f"{evaluation.n_texts} {kind}", sections, figures)


def _overview(evaluation: Evaluation) -> list[str]:
    """What is said of all heads in one table each."""
    sections = []
    if has_gold(evaluation):
        sections.append(
            section(
                "Accuracy on labelled texts",
                html_table(evaluation_table(evaluation)),
                "NLL: mean −log p of the gold label, in nats. ECE: how far confidence is from accuracy. AURC: area "
                "under the curve of risk and coverage. Of all three, less is better.",
            )
        )
    if (domains := domain_table(evaluation)).rows:
        sections.append(section("Each teacher's domain", html_table(domains)))
    if (teachers := teachers_table(evaluation)).rows:
        sections.append(section("Beside the teachers", html_table(teachers), _lines(teacher_lines(evaluation))))
    if comparison := evaluation.comparison:
        title = f"Compared with {comparison.bundle}"
        sections.append(section(title, html_table(comparison_table(comparison)), _lines(comparison_lines(comparison))))
    return sections


def _lines(lines: list[str]) -> str:
    return "<br>".join(f"{escape(line)}." for line in lines)


def _examples(head: HeadEvaluation, model: str, of_head: str) -> list[str]:
    """Texts that the student answers otherwise than a teacher."""
    return [
        section(
            f"Where student and teacher '{teacher}' differ{of_head}",
            html_table(example_table(row.examples)),
            f"By {escape(model)}: the first ten texts, of each kind where gold labels tell who is right.",
        )
        for teacher, row in head.teachers.items()
        if row.examples
    ]


def _figures(head: HeadEvaluation, of_head: str) -> list[str]:
    """The curves of a head with gold labels."""
    curves: Mapping[str, Reliability] = {name: _reliability(row.reliability) for name, row in head.student.items()}
    risks = {
        name: _risk_coverage(row.risk_coverage, row.aurc)
        for name, row in head.student.items()
        if row.risk_coverage is not None and row.aurc is not None
    }
    figures = []
    if curves:
        figures.append(
            section(
                f"Reliability{of_head}",
                plots.reliability_diagram(curves),
                "Where the line runs along the diagonal, a score is the probability of being right."
                + (" Every label of every text counts, yes or no." if head.activation == SIGMOID else ""),
            )
        )
    if risks:
        figures.append(
            section(
                f"Risk and coverage{of_head}",
                plots.risk_coverage_curves(risks),
                "How many answers are wrong if only the surest texts are answered.",
            )
        )
    return figures


def _reliability(bins: ReliabilityBins) -> Reliability:
    return Reliability(np.array(bins.confidence), np.array(bins.accuracy), np.array(bins.share))


def _risk_coverage(curve: RiskCoverageCurve, area: float) -> RiskCoverage:
    return RiskCoverage(np.array(curve.coverage), np.array(curve.risk), area)
