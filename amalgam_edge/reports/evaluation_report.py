"""The page of ``amalgam-edge evaluate``. A pure function of what was measured."""

from __future__ import annotations

from html import escape
from typing import Any

import numpy as np

from amalgam_edge.metrics.calibration import Reliability
from amalgam_edge.metrics.risk_coverage import RiskCoverage
from amalgam_edge.reports import plots
from amalgam_edge.reports.evaluation_tables import comparison_lines, comparison_table, domain_table
from amalgam_edge.reports.pages import html_table, page, section
from amalgam_edge.reports.tables import evaluation_table


def render_evaluation(measured: dict[str, Any], bundle: str) -> str:
    """Tables and curves, with figures inline.

    Args:
        measured: as :func:`~amalgam_edge.evaluation.bundle_evaluation.evaluate_bundle` gives it.
        bundle: what it is called in the heading.
    """
    rows = measured["student"]
    sections = [
        section(
            "Accuracy on labelled texts",
            html_table(evaluation_table({"evaluation": measured})),
            "NLL: mean −log p of the gold label, in nats. ECE: how far confidence is from accuracy. AURC: area under "
            "the curve of risk and coverage. Of all three, less is better.",
        )
    ]
    if any(row["domains"] for row in rows.values()):
        sections.append(section("Each teacher's domain", html_table(domain_table(measured))))
    if "comparison" in measured:
        title = f"Compared with {measured['comparison']['bundle']}"
        note = "<br>".join(f"{escape(line)}." for line in comparison_lines(measured))
        sections.append(section(title, html_table(comparison_table(measured)), note))
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
    return page(f"{bundle} on {measured['data']}", f"{measured['n_texts']} labelled texts", sections, figures)


def _reliability(row: dict[str, Any]) -> Reliability:
    return Reliability(**{name: np.array(values) for name, values in row["reliability"].items()})


def _risk_coverage(row: dict[str, Any]) -> RiskCoverage:
    curve = {name: np.array(values) for name, values in row["risk_coverage"].items()}
    return RiskCoverage(**curve, area=row["aurc"])
