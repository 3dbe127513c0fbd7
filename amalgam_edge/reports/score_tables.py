"""Tables and lines about teachers' scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from amalgam_edge.reports.tables import Column, Table, number
from amalgam_edge.scoring.scores import ScoreSummary

_FAILURES_SHOWN = 5


def stored_scores_table(described: Sequence[dict[str, Any]]) -> Table:
    """How far each teacher's stored scores are and how they are distributed: 5 %, 50 % and 95 % of the texts."""
    spread = ("5%", "50%", "95%")
    return Table(
        (
            Column("teacher", numeric=False),
            *(Column(title) for title in ("texts", "scored", "failed", "shards", "passes a text")),
            *(Column(f"{name} {part}") for name in ("confidence", "u") for part in spread),
            Column("texts/s"),
        ),
        tuple(
            (
                one["teacher"],
                str(one["n_texts"]),
                str(one["n_scored"]),
                str(one["n_failed"]),
                f"{one['shards']['there']} of {one['shards']['there'] + one['shards']['missing']}",
                number(one["passes"]["mean"], ".1f"),
                *(
                    number((one[name] or {}).get(part), ".3f")
                    for name in ("confidence", "uncertainty")
                    for part in spread
                ),
                number(one["texts_per_second"], ".1f"),
            )
            for one in described
        ),
    )


def stored_scores_lines(one: dict[str, Any]) -> list[str]:
    """Where one teacher's stored scores come from, and what failed."""
    settings = ", ".join(
        f"{name.replace('_', ' ')} {len(value) if isinstance(value, list) else value}"
        for name, value in one["settings"].items()
    )
    passes = ", ".join(f"{count} on {n} texts" for count, n in one["passes"]["texts"].items())
    shown = one["failures"][:_FAILURES_SHOWN]
    more = one["n_failed"] - len(shown)
    return [
        f"{one['teacher']}: {one['folder']}",
        f"  teacher {one['teacher_fingerprint']}",
        f"  corpus {one['corpus_fingerprint']}",
        f"  settings: {settings}",
        *([f"  passes: {passes}"] if passes else []),
        *(
            f"  {by['shards']} shards by amalgam-edge {by['version']}, engine {by['engine']}, {by['backend']}"
            for by in one["shards_by"]
        ),
        *(f"  text {failure['text']} failed: {failure['error']}" for failure in shown),
        *([f"  and {more} more; --json has them all"] if more else []),
    ]


def score_table(summaries: Sequence[ScoreSummary]) -> Table:
    """What each teacher's scores come to; texts that could not be scored have a column where there are any."""
    failed = any(row.n_failed for row in summaries)
    return Table(
        (
            Column("teacher", numeric=False),
            Column("texts"),
            *([Column("failed")] if failed else []),
            Column("passes a text"),
            Column("mean u"),
            Column("picked"),
        ),
        tuple(
            (
                row.teacher,
                str(row.n_texts),
                *([str(row.n_failed)] if failed else []),
                f"{row.mean_passes:.1f}",
                f"{row.mean_uncertainty:.3f}",
                f"{row.picked_share:.1%}",
            )
            for row in summaries
        ),
    )
