"""Tables of the amalgamation benchmark, from the results of its runs. Only the last function writes files."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from amalgam_edge.reports.tables import Column, Table
from amalgam_edge.storage.staging import write_text_atomically
from benchmarks.amalgamation.plots import base_plot, settings_plot
from benchmarks.amalgamation.results import (
    ATTAINABLE,
    BASELINE,
    OURS,
    PAPER,
    SHOWN,
    Result,
    by_seed,
    names,
    of_setting,
    read_results,
)
from benchmarks.amalgamation.settings import BASE, SETTINGS

NONE = "–"
CSV_FIELDS = (
    "corpus",
    "setting",
    "seed",
    "method",
    "accuracy",
    "macro_f1",
    "share_attained",
    "teacher_selection",
    "target_accuracy",
    "ece",
    "nll",
    "temperature",
    "mean_teacher_accuracy",
    "n_corpus",
    "n_test",
    "seconds",
)


def mean_sd(values: Iterable[float], percent: bool = True) -> str:
    """Mean ± standard deviation of a sample; the mean alone of a single value."""
    values = [value * (100 if percent else 1) for value in values]
    if not values:
        return NONE
    digits = 1 if percent else 3
    spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{fmean(values):.{digits}f}{spread}"


def share_attained(results: Sequence[Result], method: str, measure: str = "accuracy", **of: Any) -> float | None:
    """(method − vanilla-kd) / (oracle-teacher − vanilla-kd), of means over the seeds that all three have results for.

    A student that is told the right teacher of every text is as good as choosing teachers can make it: where teachers
    err on their own texts, no method reaches the student of the true labels. It is a quotient of means, because the
    quotient of a single seed says nothing if its gap is small. None if there are no such seeds or no gap.
    """
    ours, low, high = (by_seed(results, measure, method=name, **of) for name in (method, BASELINE, ATTAINABLE))
    seeds = ours.keys() & low.keys() & high.keys()
    gap = sum(high[seed] - low[seed] for seed in seeds)
    return sum(ours[seed] - low[seed] for seed in seeds) / gap if seeds and gap > 0 else None


def difference(results: Sequence[Result], method: str, other: str, **of: Any) -> list[float]:
    """Accuracy of a method minus that of another, for each seed that both have results for."""
    ours, theirs = (by_seed(results, "accuracy", method=name, **of) for name in (method, other))
    return [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]


def signed(values: Sequence[float]) -> str:
    """Mean difference in points with its sign, ± the standard deviation over seeds."""
    if not values:
        return NONE
    spread = f" ± {100 * stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * fmean(values):+.1f}{spread}"


def measure_table(results: Sequence[Result], measure: str, methods: Sequence[str]) -> Table:
    """A row per method and a column per corpus; cells are mean ± standard deviation over seeds."""
    corpora = names(results, "corpus")
    return Table(
        (Column("method", numeric=False), *map(Column, corpora), Column("mean")),
        tuple(
            (method, *cells, mean_percent(means))
            for method in methods
            for cells, means in [_cells(results, measure, method, corpora)]
        ),
    )


def _cells(
    results: Sequence[Result], measure: str, method: str, corpora: Sequence[str]
) -> tuple[list[str], list[float]]:
    """A cell per corpus, and the means of those that have values."""
    values = [by_seed(results, measure, method=method, corpus=corpus).values() for corpus in corpora]
    return [mean_sd(of) for of in values], [fmean(of) for of in values if of]


def mean_percent(values: Sequence[float]) -> str:
    """The mean over corpora, in percent."""
    return f"{100 * fmean(values):.1f}" if values else NONE


def quality_table(results: Sequence[Result], methods: Sequence[str]) -> Table:
    """A row per method: its share of the attainable on each corpus, and means of other measures over corpora."""
    corpora = names(results, "corpus")
    measures = {
        "right teacher": "teacher_selection",
        "right target": "target_accuracy",
        "ECE": "ece",
        "NLL": "nll",
    }
    rows = []
    for method in methods:
        gaps = [share_attained(results, method, corpus=corpus) for corpus in corpora]
        others = []
        for measure in measures.values():
            _, means = _cells(results, measure, method, corpora)
            others.append((f"{fmean(means):.3f}" if measure == "nll" else mean_percent(means)) if means else NONE)
        rows.append((method, *map(_percent, gaps), _percent(_mean(gaps)), *others))
    titles = [*(f"attained, {corpus}" for corpus in corpora), "attained, mean", *measures]
    return Table((Column("method", numeric=False), *map(Column, titles)), tuple(rows))


def settings_table(results: Sequence[Result], methods: Sequence[str]) -> Table:
    """A row per setting and a column per method, for one corpus; cells are mean ± standard deviation of accuracy."""
    return Table(
        (Column("setting", numeric=False), Column("teachers"), *map(Column, methods)),
        tuple(
            (
                setting,
                mean_sd(by_seed(results, "mean_teacher_accuracy", setting=setting).values()),
                *(mean_sd(by_seed(results, "accuracy", setting=setting, method=method).values()) for method in methods),
            )
            for setting in names(results, "setting", [*SETTINGS])
        ),
    )


def goals_table(results: Sequence[Result], methods: Sequence[str], ours: str = OURS) -> Table:
    """A row per other method and a column per corpus: by how many points of accuracy ours is above it."""
    corpora = names(results, "corpus")
    rows = []
    for method in methods:
        if method != ours:
            values = [difference(results, ours, method, corpus=corpus) for corpus in corpora]
            rows.append((f"{ours} − {method}", *map(signed, values), _mean_signed(values)))
    gaps = [share_attained(results, ours, corpus=corpus) for corpus in corpora]
    rows.append((f"share of the attainable, {ours}, %", *map(_percent, gaps), _percent(_mean(gaps))))
    return Table((Column("points of accuracy", numeric=False), *map(Column, corpora), Column("mean")), tuple(rows))


def ours_by_setting_table(results: Sequence[Result], other: str = PAPER, ours: str = OURS) -> Table:
    """A row per setting and a column per corpus: by how many points of accuracy ours is above another method."""
    corpora = names(results, "corpus")
    rows = []
    for setting in names(results, "setting", [*SETTINGS]):
        values = [difference(results, ours, other, setting=setting, corpus=corpus) for corpus in corpora]
        rows.append((setting, *map(signed, values), _mean_signed(values)))
    return Table((Column(f"{ours} − {other}", numeric=False), *map(Column, corpora), Column("mean")), tuple(rows))


def worse_line(results: Sequence[Result], other: str = PAPER, ours: str = OURS) -> str:
    """In how many pairs of corpus and setting ours is below another method, and by how much at most."""
    cells = {
        f"{corpus}, {setting}": fmean(values)
        for corpus in names(results, "corpus")
        for setting in names(results, "setting", [*SETTINGS])
        if (values := difference(results, ours, other, corpus=corpus, setting=setting))
    }
    below = {cell: value for cell, value in cells.items() if value < 0}
    if not below:
        return f"{ours} is below {other} in none of {len(cells)} pairs of corpus and setting."
    worst = min(below, key=lambda cell: below[cell])
    return (
        f"{ours} is below {other} in {len(below)} of {len(cells)} pairs of corpus and setting, the most in {worst}: "
        f"{100 * below[worst]:+.1f} points."
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _percent(value: float | None) -> str:
    return NONE if value is None else f"{100 * value:.0f}"


def _mean_signed(values: Sequence[Sequence[float]]) -> str:
    means = [fmean(of) for of in values if of]
    return f"{100 * fmean(means):+.1f}" if means else NONE


def with_derived(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The results with two more fields: the run's share of the attainable, and the teachers' mean accuracy."""
    return [
        {
            **row,
            "share_attained": share_attained(
                results, row["method"], corpus=row["corpus"], setting=row["setting"], seed=row["seed"]
            ),
            "mean_teacher_accuracy": _mean([*row["teacher_accuracy"].values()]),
        }
        for row in results
    ]


def to_csv(results: Sequence[Result]) -> str:
    """CSV with a row per run."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, CSV_FIELDS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(results)
    return buffer.getvalue()


def markdown(results: Sequence[Result], methods: Sequence[str]) -> str:
    """All tables as one Markdown text."""
    base = of_setting(results, BASE)
    all_methods = names(results, "method", methods)
    seeds = len(names(results, "seed"))
    parts = [f"Accuracy in percent on test texts, mean ± standard deviation over up to {seeds} seeds."]
    if base:
        base_methods = names(base, "method", methods)
        parts += ["## Two teachers: accuracy", measure_table(base, "accuracy", base_methods).to_markdown()]
        parts += ["## Two teachers: macro-F1", measure_table(base, "macro_f1", base_methods).to_markdown()]
        parts += [
            "## Two teachers: what is behind it",
            "Attained: (method − vanilla-kd) / (oracle-teacher − vanilla-kd) of mean accuracies. Right teacher: share "
            "of unlabeled texts on which the teacher with the most of the supervision's mass on its labels is the one "
            "that knows the gold label; right target: on which the likeliest label is the gold one. Percent, but NLL; "
            "the last four are means over corpora.",
            quality_table(base, base_methods).to_markdown(),
        ]
        if OURS in base_methods:
            parts += [f"## Two teachers: {OURS} against the others", goals_table(base, base_methods).to_markdown()]
    if OURS in all_methods and PAPER in all_methods:
        parts += [f"## All settings: {OURS} − {PAPER}", ours_by_setting_table(results).to_markdown()]
        parts += [worse_line(results)]
    for corpus in names(results, "corpus"):
        of_corpus = [row for row in results if row["corpus"] == corpus]
        table = settings_table(of_corpus, names(of_corpus, "method", methods))
        parts += [f"## {corpus}: accuracy by setting", "Teachers: their mean on texts of their own labels."]
        parts += [table.to_markdown()]
    return "\n\n".join(parts) + "\n"


def write_tables(runs: Path, output: Path, methods: Sequence[str]) -> str:
    """Write results.csv, tables.md and plots of all results below ``runs``, and return the Markdown."""
    results = with_derived(read_results(runs))
    if not results:
        return f"{runs}: no results yet"
    text = markdown(results, methods)
    write_text_atomically(output / "results.csv", to_csv(results))
    write_text_atomically(output / "tables.md", text)
    if base := of_setting(results, BASE):
        write_text_atomically(output / "two-teachers.svg", base_plot(base, methods))
    shown = [row for row in results if row["method"] in SHOWN]
    if len(names(shown, "setting")) > 1:
        write_text_atomically(output / "settings.svg", settings_plot(shown, SHOWN))
    return f"{text}\ntables and plots: {output}"
