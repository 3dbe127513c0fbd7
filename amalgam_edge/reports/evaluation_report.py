"""The page of ``amalgam-edge evaluate``. A pure function of what was measured."""

from __future__ import annotations

from html import escape

import numpy as np

from amalgam_edge.metrics.calibration import Reliability
from amalgam_edge.metrics.risk_coverage import RiskCoverage
from amalgam_edge.reports import plots
from amalgam_edge.reports.evaluation_tables import comparison_lines, comparison_table, domain_table, evaluation_table
from amalgam_edge.reports.pages import html_table, page, section
from amalgam_edge.runtime.evaluation import Evaluation, ModelEvaluation


def render_evaluation(evaluation: Evaluation, bundle: str) -> str:
    """Tables and curves, with figures inline.

    Args:
        evaluation: What was measured.
        bundle: The bundle's name in the heading.
    """
    rows = next(iter(evaluation.heads.values())).student
    sections = [
        section(
            "Accuracy on labelled texts",
            html_table(evaluation_table(evaluation)),
            "NLL: mean −log p of the gold label, in nats. ECE: how far confidence is from accuracy. AURC: area under "
            "the curve of risk and coverage. Of all three, less is better.",
        )
    ]
    if any(row.domains for row in rows.values()):
        sections.append(section("Each teacher's domain", html_table(domain_table(evaluation))))
    if comparison := evaluation.comparison:
        note = "<br>".join(f"{escape(line)}." for line in comparison_lines(comparison))
        sections.append(section(f"Compared with {comparison.bundle}", html_table(comparison_table(comparison)), note))
    figures = [
        section(
            "Reliability",
            plots.reliability_diagram({name: _reliability(row) for name, row in rows.items()}),
            "Where the line runs along the diagonal, a score is the probability of being right.",
        ),
        section(
            "Risk and coverage",
            plots.risk_coverage_curves({name: _risk_coverage(row) for name, row in rows.items()}),
            "How many answers are wrong if only the surest texts are answered.",
        ),
    ]
    return page(f"{bundle} on {evaluation.data}", f"{evaluation.n_texts} labelled texts", sections, figures)


def _reliability(row: ModelEvaluation) -> Reliability:
    bins = row.reliability
    return Reliability(np.array(bins.confidence), np.array(bins.accuracy), np.array(bins.share))


def _risk_coverage(row: ModelEvaluation) -> RiskCoverage:
    curve = row.risk_coverage
    return RiskCoverage(np.array(curve.coverage), np.array(curve.risk), row.aurc)
