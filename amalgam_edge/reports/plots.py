"""Figures of a build, as SVG to be set inline in a page."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from matplotlib.transforms import Bbox

from amalgam_edge.metrics.calibration import N_BINS, Reliability
from amalgam_edge.metrics.risk_coverage import RiskCoverage
from amalgam_edge.runtime.manifest_models import FrontCandidate
from amalgam_edge.runtime.manifest_origin import TrainingPoint

_COLOURS = ("#2f6db3", "#d9822b", "#3a9a6e", "#8e5bb0", "#c8504f", "#6b7785")
_INK = "#27313d"
_GRID = "#e3e8ee"
_BESIDE = (
    ((6, 5), "left"),
    ((6, -12), "left"),
    ((-6, 5), "right"),
    ((-6, -12), "right"),
    ((6, 16), "left"),
    ((6, -23), "left"),
)
_STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "svg.hashsalt": "amalgam-edge",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _INK,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def uncertainty_histograms(uncertainty: Mapping[str, np.ndarray]) -> str:
    """One panel a teacher: how many texts have which normalised predictive entropy ``(n_texts,)``."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(6.4, 1.5 * len(uncertainty) + 0.4), layout="constrained")
        panels = figure.subplots(len(uncertainty), 1, sharex=True, squeeze=False)[:, 0]
        for panel, (teacher, values), colour in zip(panels, uncertainty.items(), _cycle(), strict=False):
            panel.hist(values, bins=40, range=(0, 1), color=colour)
            panel.set_title(teacher, loc="left", fontsize=9)
            panel.set_ylabel("texts")
        panels[-1].set_xlabel("normalised predictive entropy u")
        return _svg(figure)


def front_scatter(candidates: Sequence[FrontCandidate], picked: str) -> str:
    """Each model's size and latency, its share of changed labels beside its name; the front is joined by a line.

    Models of several students or vocabularies have a colour for each of these, and names on the front alone.
    """
    kinds = list(dict.fromkeys(_student(candidate) for candidate in candidates))
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(6.4, 3.2), layout="constrained")
        panel = figure.subplots()
        on_front = sorted((c.megabytes, c.latency_ms) for c in candidates if c.on_front)
        panel.plot(*zip(*on_front, strict=True), color=_GRID, zorder=1)
        named: list[tuple[tuple[float, float], str]] = []
        for candidate, own_colour in zip(candidates, _cycle(), strict=False):
            place = (candidate.megabytes, candidate.latency_ms)
            marker = "*" if candidate.name == picked else "o" if candidate.on_front else "x"
            colour = own_colour if len(kinds) == 1 else _COLOURS[kinds.index(_student(candidate)) % len(_COLOURS)]
            panel.scatter(*place, color=colour, marker=marker, s=120 if marker == "*" else 40, zorder=2)
            if len(kinds) == 1 or marker != "x":
                named.append((place, f"{candidate.precision} ({candidate.loss_percent:.2g}%)"))
        if len(kinds) > 1:
            for kind, colour in zip(kinds, _cycle(), strict=False):
                panel.scatter([], [], color=colour, label=kind)
            panel.legend(frameon=False)
        panel.set_xlabel("size, MB")
        panel.set_ylabel("median of one text, ms")
        panel.set_xlim(left=0)
        panel.set_ylim(bottom=0)
        panel.margins(x=0.15, y=0.15)
        figure.draw_without_rendering()  # now it is known where points lie
        _name_points(panel, named)
        return _svg(figure)


def _name_points(panel: Axes, named: Sequence[tuple[tuple[float, float], str]]) -> None:
    """A name beside each point, at the first of several places where it covers no other name and no point."""
    points = panel.transData.transform([point for point, _ in named])
    covered = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in points]
    for point, name in named:
        for offset, side in _BESIDE:
            label = panel.annotate(name, point, offset, textcoords="offset points", ha=side)
            extent = label.get_window_extent()
            if not any(extent.overlaps(other) for other in covered):
                break
            label.remove()
        else:
            label = panel.annotate(name, point, _BESIDE[0][0], textcoords="offset points")
            extent = label.get_window_extent()
        covered.append(extent)


def _student(candidate: FrontCandidate) -> str:
    """What a candidate was made of, in words."""
    layers, n_tokens = candidate.layers, candidate.n_tokens
    return ", ".join(([f"{layers} layers"] if layers else []) + ([f"{n_tokens} tokens"] if n_tokens else []))


def picked_bars(teachers: Sequence[str], picked: np.ndarray) -> str:
    """How many texts have each teacher as the most certain one; ``picked`` is ``(n_texts,)``."""
    counts = np.bincount(picked, minlength=len(teachers))
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(6.4, 0.4 * len(teachers) + 0.8), layout="constrained")
        panel = figure.subplots()
        colours = [colour for colour, _ in zip(_cycle(), teachers, strict=False)]
        bars = panel.barh(range(len(teachers)), counts, color=colours, height=0.6)
        panel.bar_label(bars, [f" {count} ({count / max(1, counts.sum()):.0%})" for count in counts])
        panel.set_yticks(range(len(teachers)), teachers)
        panel.invert_yaxis()
        panel.set_xlim(0, counts.max() * 1.2)
        panel.set_xlabel("texts")
        return _svg(figure)


def margin_histogram(margin: np.ndarray) -> str:
    """How far the most certain teacher is ahead of the next, ``(n_texts,)``."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(6.4, 2.0), layout="constrained")
        panel = figure.subplots()
        panel.hist(margin, bins=40, range=(0, 1), color=_COLOURS[2])
        panel.set_xlabel("margin between the two most certain teachers")
        panel.set_ylabel("texts")
        return _svg(figure)


def training_curve(points: Sequence[TrainingPoint]) -> str:
    """Loss over updates, on the texts trained on and on those held out."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(6.4, 2.6), layout="constrained")
        panel = figure.subplots()
        for losses, name, style, colour in (
            ([(point.step, point.loss) for point in points], "training", "-", _COLOURS[0]),
            ([(point.step, point.held_out_loss) for point in points], "held out", "o--", _COLOURS[1]),
        ):
            known = [(step, loss) for step, loss in losses if loss is not None]
            if known:
                panel.plot(*zip(*known, strict=True), style, color=colour, label=name, markersize=5)
        _grid(panel)
        panel.set_ylim(bottom=0)
        panel.set_xlabel("update")
        panel.set_ylabel("loss (nats, weighted)")
        panel.legend(frameon=False)
        return _svg(figure)


def confusion_heatmap(labels: Sequence[str], confusion: np.ndarray) -> str:
    """Gold class (rows) against predicted class (columns), each row as shares; counts are written in."""
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    side = min(1.6 + 0.55 * len(labels), 14)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(max(side, 4.5), side), layout="constrained")
        panel = figure.subplots()
        panel.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        panel.set_xticks(range(len(labels)), labels, rotation=40, ha="right")
        panel.set_yticks(range(len(labels)), labels)
        panel.set_xlabel("predicted")
        panel.set_ylabel("gold")
        panel.spines[:].set_visible(False)
        if len(labels) <= 20:
            for (row, column), count in np.ndenumerate(confusion):
                if count:
                    ink = "white" if shares[row, column] > 0.55 else _INK
                    panel.text(column, row, str(count), ha="center", va="center", color=ink, fontsize=8)
        return _svg(figure)


def reliability_diagram(curves: Mapping[str, Reliability]) -> str:
    """Accuracy over confidence, a line a curve, above how many texts have which confidence."""
    edges = np.linspace(0, 1, N_BINS + 1)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(6.4, 4.2), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        above.plot((0, 1), (0, 1), ":", color=_COLOURS[5])
        for (name, curve), colour in zip(curves.items(), _cycle(), strict=False):
            filled = curve.share > 0
            label = f"{name}: calibration error {curve.error:.1%}"
            above.plot(curve.confidence[filled], curve.accuracy[filled], "o-", color=colour, label=label, markersize=4)
            below.stairs(curve.share, edges, color=colour)
        _grid(above)
        above.set_ylim(0, 1.03)
        above.set_ylabel("accuracy")
        above.legend(frameon=False, loc="upper left")
        below.set_ylabel("texts")
        below.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        below.set_xlim(0, 1)
        below.set_xlabel("confidence: the likeliest label's probability")
        return _svg(figure)


def risk_coverage_curves(curves: Mapping[str, RiskCoverage]) -> str:
    """Share of wrong answers over the share of texts that are answered, surest first, a line a curve."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(6.4, 3.2), layout="constrained")
        panel = figure.subplots()
        for (name, curve), colour in zip(curves.items(), _cycle(), strict=False):
            panel.plot(curve.coverage, curve.risk, color=colour, label=f"{name}: area {curve.area:.3f}")
        _grid(panel)
        panel.set_xlim(0, 1)
        panel.set_ylim(bottom=0)
        panel.set_xlabel("coverage: texts answered, surest first")
        panel.set_ylabel("risk: wrong answers")
        for axis in (panel.xaxis, panel.yaxis):
            axis.set_major_formatter(PercentFormatter(1))
        panel.legend(frameon=False)
        return _svg(figure)


def _cycle() -> Sequence[str]:
    return _COLOURS * 50


def _grid(panel: Axes) -> None:
    panel.grid(axis="y", color=_GRID)
    panel.set_axisbelow(True)


def _svg(figure: Figure) -> str:
    """The figure as an ``<svg>`` element without prologue."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
