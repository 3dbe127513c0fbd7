"""Plots of the amalgamation benchmark, as SVG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from statistics import fmean, stdev

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from benchmarks.amalgamation.results import ATTAINABLE, BASELINE, LABELS, OURS, PAPER, Result, by_seed, names
from benchmarks.amalgamation.settings import SETTINGS

# Colour and marker. Colour-blind readers can tell blue from orange too, and markers differ as well.
_LOOKS = {
    BASELINE: ("#6b7785", "s"),
    PAPER: ("#2f6db3", "o"),
    OURS: ("#d9822b", "D"),
    ATTAINABLE: ("#2e8b57", "^"),
    LABELS: ("#27313d", "|"),
}
_OTHERS = ("#9aa5b1", "o")
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "amalgam-edge",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.edgecolor": "#e3e8ee",
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def base_plot(results: Sequence[Result], methods: Sequence[str]) -> str:
    """A panel per corpus and a line per method: the accuracy of each seed, their mean and standard deviation."""
    corpora, rows = names(results, "corpus"), names(results, "method", methods)
    with mpl.rc_context(_STYLE):
        figure, panels = _panels(corpora, rows)
        for panel, corpus in zip(panels, corpora, strict=True):
            for place, method in enumerate(rows):
                values = [*by_seed(results, "accuracy", corpus=corpus, method=method).values()]
                _mark(panel, place, values, *_look(method))
        return _svg(figure)


def settings_plot(results: Sequence[Result], methods: Sequence[str]) -> str:
    """A panel per corpus, a line per setting and a mark per method."""
    shown = names(results, "method", methods)
    corpora, rows = names(results, "corpus"), names(results, "setting", [*SETTINGS])
    with mpl.rc_context(_STYLE):
        figure, panels = _panels(corpora, rows)
        for panel, corpus in zip(panels, corpora, strict=True):
            for method in shown:
                colour, marker = _look(method)
                for place, setting in enumerate(rows):
                    values = [*by_seed(results, "accuracy", corpus=corpus, setting=setting, method=method).values()]
                    shift = 0.5 * (shown.index(method) + 0.5) / len(shown) - 0.25
                    _mark(panel, place + shift, values, colour, marker)
        marks = [
            Line2D([], [], ls="", marker=_look(method)[1], color=_look(method)[0], label=method) for method in shown
        ]
        figure.legend(handles=marks, frameon=False, loc="outside upper left", ncols=len(shown))
        return _svg(figure)


def _panels(titles: Sequence[str], rows: Sequence[str]) -> tuple[Figure, list[Axes]]:
    """Panels side by side that share their rows; the first row is at the top."""
    figure = Figure(figsize=(1.6 + 2.1 * len(titles), 1.3 + 0.26 * len(rows)), layout="constrained")
    panels = [*figure.subplots(1, len(titles), sharey=True, squeeze=False)[0]]
    for panel, title in zip(panels, titles, strict=True):
        panel.set_title(title, loc="left", fontsize=9)
        panel.grid(axis="x", color="#e3e8ee")
        panel.set_axisbelow(True)
        panel.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        panel.locator_params(axis="x", nbins=4, steps=[1, 2, 5, 10])
        panel.set_xlabel("accuracy")
        panel.tick_params(axis="y", length=0)
    panels[0].set_yticks(range(len(rows)), rows)
    panels[0].set_ylim(len(rows) - 0.5, -0.5)
    return figure, panels


def _mark(panel: Axes, place: float, values: Sequence[float], colour: str, marker: str) -> None:
    """Draw each seed as a small dot, and the mean with a bar of one standard deviation to each side."""
    if not values:
        return
    spread = stdev(values) if len(values) > 1 else 0.0
    panel.plot(values, [place] * len(values), ".", color=colour, alpha=0.35, markersize=4, markeredgewidth=0)
    size = 9 if marker == "|" else 5.5
    panel.errorbar(fmean(values), place, xerr=spread, fmt=marker, color=colour, markersize=size, capsize=2)


def _look(method: str) -> tuple[str, str]:
    return _LOOKS.get(method, _OTHERS)


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None}, facecolor="white")
    return buffer.getvalue()
