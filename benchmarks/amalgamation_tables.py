"""Tables and plots of the amalgamation benchmark, from the results of its runs. Pure functions but for the last one."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from amalgamation_plots import base_plot, settings_plot
from amalgamation_results import (
    BASELINE,
    OURS,
    PAPER,
    REFERENCE,
    SHOWN,
    Result,
    by_seed,
    names,
    of_setting,
    read_results,
)
from settings import BASE, SETTINGS

from amalgam_edge.reports.tables import Column, Table
from amalgam_edge.storage.staging import write_text_atomically

NONE = "–"
CSV_FIELDS = (
    "corpus",
    "setting",
    "seed",
    "method",
    "accuracy",
    "macro_f1",
    "gap_closed",
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
    """Mean ± standard deviation of a sample; no deviation of one value."""
    values = [value * (100 if percent else 1) for value in values]
    if not values:
        return NONE
    digits = 1 if percent else 3
    spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{fmean(values):.{digits}f}{spread}"


def gap_closed(results: Sequence[Result], method: str, measure: str = "accuracy", **of: Any) -> float | None:
    """(method − vanilla-kd) / (labels − vanilla-kd), of means over the seeds that all three were made with.

    A quotient of means: where the gap of a seed is small, its own quotient says nothing. None where there are no such
    seeds or no gap.
    """
    ours, low, high = (by_seed(results, measure, method=name, **of) for name in (method, BASELINE, REFERENCE))
    seeds = ours.keys() & low.keys() & high.keys()
    gap = sum(high[seed] - low[seed] for seed in seeds)
    return sum(ours[seed] - low[seed] for seed in seeds) / gap if seeds and gap > 0 else None


def difference(results: Sequence[Result], method: str, other: str, **of: Any) -> list[float]:
    """Accuracy of a method less that of another, seed by seed, of the seeds that both were made with."""
    ours, theirs = (by_seed(results, "accuracy", method=name, **of) for name in (method, other))
    return [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]


def signed(values: Sequence[float]) -> str:
    """Mean difference in points with its sign, ± standard deviation over seeds."""
    if not values:
        return NONE
    spread = f" ± {100 * stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * fmean(values):+.1f}{spread}"


def measure_table(results: Sequence[Result], measure: str, methods: Sequence[str]) -> Table:
    """Rows are methods, columns corpora, cells mean ± sd over seeds."""
    corpora = names(results, "corpus")
    return Table(
        (Column("method", numeric=False), *map(Column, corpora), Column("mean")),
        tuple(
            (method, *cells, over(means))
            for method in methods
            for cells, means in [_cells(results, measure, method, corpora)]
        ),
    )


def _cells(
    results: Sequence[Result], measure: str, method: str, corpora: Sequence[str]
) -> tuple[list[str], list[float]]:
    """A cell a corpus, and the means in those that are filled."""
    values = [by_seed(results, measure, method=method, corpus=corpus).values() for corpus in corpora]
    return [mean_sd(of) for of in values], [fmean(of) for of in values if of]


def over(values: Sequence[float]) -> str:
    """The mean over corpora in percent."""
    return f"{100 * fmean(values):.1f}" if values else NONE


def quality_table(results: Sequence[Result], methods: Sequence[str]) -> Table:
    """Rows are methods: how much of the gap is closed on each corpus, and means over corpora of other measures."""
    corpora = names(results, "corpus")
    measures = {
        "right teacher": "teacher_selection",
        "right target": "target_accuracy",
        "ECE": "ece",
        "NLL": "nll",
    }
    rows = []
    for method in methods:
        gaps = [gap_closed(results, method, corpus=corpus) for corpus in corpora]
        others = []
        for measure in measures.values():
            _, means = _cells(results, measure, method, corpora)
            others.append((f"{fmean(means):.3f}" if measure == "nll" else over(means)) if means else NONE)
        rows.append((method, *map(_percent, gaps), _percent(_mean(gaps)), *others))
    titles = [*(f"gap closed, {corpus}" for corpus in corpora), "gap closed, mean", *measures]
    return Table((Column("method", numeric=False), *map(Column, titles)), tuple(rows))


def settings_table(results: Sequence[Result], methods: Sequence[str]) -> Table:
    """Rows are settings, columns methods, cells mean ± sd of accuracy; of one corpus."""
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
    """Rows are the other methods, columns corpora: how many points of accuracy ours is above each."""
    corpora = names(results, "corpus")
    rows = []
    for method in methods:
        if method != ours:
            values = [difference(results, ours, method, corpus=corpus) for corpus in corpora]
            rows.append((f"{ours} − {method}", *map(signed, values), _mean_signed(values)))
    gaps = [gap_closed(results, ours, corpus=corpus) for corpus in corpora]
    rows.append((f"gap closed by {ours}, %", *map(_percent, gaps), _percent(_mean(gaps))))
    return Table((Column("points of accuracy", numeric=False), *map(Column, corpora), Column("mean")), tuple(rows))


def ours_by_setting_table(results: Sequence[Result], other: str = PAPER, ours: str = OURS) -> Table:
    """Rows are settings, columns corpora: how many points of accuracy ours is above another method."""
    corpora = names(results, "corpus")
    rows = []
    for setting in names(results, "setting", [*SETTINGS]):
        values = [difference(results, ours, other, setting=setting, corpus=corpus) for corpus in corpora]
        rows.append((setting, *map(signed, values), _mean_signed(values)))
    return Table((Column(f"{ours} − {other}", numeric=False), *map(Column, corpora), Column("mean")), tuple(rows))


def worse_line(results: Sequence[Result], other: str = PAPER, ours: str = OURS) -> str:
    """In how many settings of how many corpora ours is below another method, and by how much at most."""
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
    there = [value for value in values if value is not None]
    return fmean(there) if there else None


def _percent(value: float | None) -> str:
    return NONE if value is None else f"{100 * value:.0f}"


def _mean_signed(values: Sequence[Sequence[float]]) -> str:
    there = [fmean(of) for of in values if of]
    return f"{100 * fmean(there):+.1f}" if there else NONE


def with_derived(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The results with what each seed's runs say of each other: share of the gap, and mean accuracy of teachers."""
    return [
        {
            **row,
            "gap_closed": gap_closed(
                results, row["method"], corpus=row["corpus"], setting=row["setting"], seed=row["seed"]
            ),
            "mean_teacher_accuracy": _mean([*row["teacher_accuracy"].values()]),
        }
        for row in results
    ]


def to_csv(results: Sequence[Result]) -> str:
    """A row a run."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, CSV_FIELDS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(results)
    return buffer.getvalue()


def markdown(results: Sequence[Result], methods: Sequence[str]) -> str:
    """All tables."""
    base = of_setting(results, BASE)
    there = names(results, "method", methods)
    seeds = len(names(results, "seed"))
    parts = [f"Accuracy in percent on test texts, mean ± standard deviation over up to {seeds} seeds."]
    if base:
        own = names(base, "method", methods)
        parts += ["## Two teachers: accuracy", measure_table(base, "accuracy", own).to_markdown()]
        parts += ["## Two teachers: macro-F1", measure_table(base, "macro_f1", own).to_markdown()]
        parts += [
            "## Two teachers: what is behind it",
            "Gap closed: (method − vanilla-kd) / (labels − vanilla-kd) of mean accuracies. Right teacher: share of "
            "unlabeled texts on which the teacher with the most of the supervision's mass on its labels is the one "
            "that knows the gold label; right target: on which the likeliest label is the gold one. Percent, but NLL; "
            "the last four are means over corpora.",
            quality_table(base, own).to_markdown(),
        ]
        if OURS in own:
            parts += [f"## Two teachers: {OURS} against the others", goals_table(base, own).to_markdown()]
    if OURS in there and PAPER in there:
        parts += [f"## All settings: {OURS} − {PAPER}", ours_by_setting_table(results).to_markdown()]
        parts += [worse_line(results)]
    for corpus in names(results, "corpus"):
        own = [row for row in results if row["corpus"] == corpus]
        table = settings_table(own, names(own, "method", methods))
        parts += [f"## {corpus}: accuracy by setting", "Teachers: their mean on texts of their own labels."]
        parts += [table.to_markdown()]
    return "\n\n".join(parts) + "\n"


def write_tables(runs: Path, output: Path, methods: Sequence[str]) -> str:
    """Write results.csv, tables.md and the plots of all results below ``runs``; returns the Markdown."""
    results = with_derived(read_results(runs))
    if not results:
        return f"{runs}: no results yet"
    text = markdown(results, methods)
    write_text_atomically(output / "results.csv", to_csv(results))
    write_text_atomically(output / "tables.md", text)
    if base := of_setting(results, BASE):
        write_text_atomically(output / "two-teachers.svg", base_plot(base, methods))
    few = [row for row in results if row["method"] in SHOWN]
    if len(names(few, "setting")) > 1:
        write_text_atomically(output / "settings.svg", settings_plot(few, SHOWN))
    return f"{text}\ntables and plots: {output}"
