"""The tables of a build, drawn alike in the terminal, the report and the model card. Pure functions of a manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from amalgam_edge.metrics.timing import WorkloadTiming
from amalgam_edge.scoring.scores import ScoreSummary

_FAILURES_SHOWN = 5


@dataclass(frozen=True)
class Column:
    """A column's title and whether it holds numbers."""

    title: str
    numeric: bool = True


@dataclass(frozen=True)
class Table:
    """Titles and cells, ready to be shown."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]

    def to_markdown(self) -> str:
        """As a GitHub table."""
        lines = [
            [column.title for column in self.columns],
            ["---:" if column.numeric else "---" for column in self.columns],
            *([cell.replace("|", "\\|") for cell in row] for row in self.rows),
        ]
        return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)

    def to_text(self) -> str:
        """With columns aligned by spaces."""
        cells = [[column.title for column in self.columns], *self.rows]
        widths = [max(len(row[k]) for row in cells) for k in range(len(self.columns))]
        aligned = (
            [
                text.rjust(width) if column.numeric else text.ljust(width)
                for text, width, column in zip(row, widths, self.columns, strict=True)
            ]
            for row in cells
        )
        return "\n".join("  ".join(row).rstrip() for row in aligned)


def precision_table(manifest: dict[str, Any]) -> Table:
    """Each precision's size, agreement and latency."""
    return Table(
        (
            Column("precision", numeric=False),
            Column("MB"),
            Column("agreement"),
            Column("mean KL"),
            Column("p50 ms"),
            Column("p95 ms"),
            Column("made by", numeric=False),
        ),
        tuple(
            (
                name + (" *" if name == manifest["default_precision"] else ""),
                f"{row['bytes'] / 1e6:.1f}",
                f"{row['fidelity']['agreement']:.2%}",
                f"{row['fidelity']['mean_kl']:.1e}",
                f"{row['latency_ms']['p50']:.2f}",
                f"{row['latency_ms']['p95']:.2f}",
                row["quantization"],
            )
            for name, row in manifest["precisions"].items()
        ),
    )


def teacher_table(manifest: dict[str, Any]) -> Table:
    """Each teacher's classes and dropout, and how often it was the most certain one."""
    return Table(
        (
            Column("teacher", numeric=False),
            Column("classes", numeric=False),
            Column("dropout sites"),
            Column("mean u"),
            Column("picked"),
            Column("own accuracy"),
        ),
        tuple(
            (
                teacher["name"],
                ", ".join(teacher["labels"]),
                str(teacher["dropout_sites"]),
                f"{teacher['mean_uncertainty']:.3f}",
                f"{teacher['picked_share']:.1%}",
                share(manifest["evaluation"].get("teachers", {}).get(teacher["name"], {}).get("accuracy")),
            )
            for teacher in manifest["teachers"]
        ),
    )


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
                _decimals(one["passes"]["mean"], 1),
                *(
                    _decimals((one[name] or {}).get(part), 3)
                    for name in ("confidence", "uncertainty")
                    for part in spread
                ),
                _decimals(one["texts_per_second"], 1),
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


def _decimals(value: float | None, places: int) -> str:
    return "–" if value is None else f"{value:.{places}f}"


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


def method_table(methods: Sequence[Mapping[str, Any]]) -> Table:
    """Methods as :func:`amalgam_edge.methods.catalogue` lists them; parameters as options of ``build``."""
    return Table(
        (
            Column("method", numeric=False),
            Column("paper", numeric=False),
            Column("what the student learns", numeric=False),
            Column("options and defaults", numeric=False),
        ),
        tuple(
            (
                row["name"],
                row["paper"],
                row["summary"],
                ", ".join(_option(name, default) for name, default in row["parameters"].items()),
            )
            for row in methods
        ),
    )


def _option(name: str, default: Any) -> str:
    flag = f"--{name.replace('_', '-')}"
    return flag if default is True else f"{flag} {default:g}"


def evaluation_table(manifest: dict[str, Any]) -> Table:
    """Accuracy and macro-F1 of the student over the union, each precision; and what it answers where it may abstain.

    How good its scores are stands beside these where that was measured.
    """
    evaluation = manifest["evaluation"]
    rows = evaluation["student"].values()
    columns: dict[str, tuple[str, str]] = {"accuracy": ("accuracy", ".1%"), "macro-F1": ("macro_f1", ".1%")}
    if any("answered" in row for row in rows):
        columns |= {"answered": ("answered", ".1%"), "accuracy on those": ("answered_accuracy", ".1%")}
    if any("nll" in row for row in rows):
        columns |= {"NLL": ("nll", ".3f"), "ECE": ("ece", ".1%"), "AURC": ("aurc", ".3f")}
    return Table(
        (Column("model", numeric=False), Column("texts"), *map(Column, columns)),
        tuple(
            (
                f"student {name}",
                str(evaluation["n_texts"]),
                *("–" if row.get(key) is None else format(row[key], form) for key, form in columns.values()),
            )
            for name, row in evaluation["student"].items()
        ),
    )


def calibration_line(manifest: dict[str, Any]) -> str:
    """What the temperature changes, and below which score there is no label; empty where neither is set."""
    calibration, abstain = manifest.get("calibration"), manifest.get("abstain")
    parts = []
    if calibration:
        parts.append(f"temperature {calibration['temperature']:.3g}")
        parts.append(f"calibration error on supervision {_change(calibration, 'held-out texts')}")
        if calibration.get("gold"):
            parts.append(f"on gold labels {_change(calibration['gold'], 'texts')}")
    if abstain:
        parts.append(f"no label below a score of {abstain:g}")
    return ", ".join(parts)


def _change(measured: dict[str, Any], texts: str) -> str:
    return f"{measured['ece_before']:.1%} → {measured['ece_after']:.1%} ({measured['n_texts']} {texts})"


def kernel_lines(manifest: dict[str, Any]) -> list[str]:
    """What ONNX Runtime fuses in each model, a line each; nothing of bundles that do not say."""
    return [
        f"{name} runs with {', '.join(f'{operator} ×{count}' for operator, count in row['kernels'].items())}"
        for name, row in manifest["precisions"].items()
        if row.get("kernels")
    ]


def front_table(manifest: dict[str, Any]) -> Table:
    """Every model that was tried under a budget: what it costs, and whether another is better in all of it."""
    front = manifest["front"]
    return Table(
        (
            Column("model", numeric=False),
            Column("layers"),
            Column("tokens"),
            Column("MB"),
            Column("p50 ms"),
            Column("p95 ms"),
            Column("32 texts ms"),
            Column("memory MB"),
            Column("labels changed"),
            Column("mean KL"),
            Column("agreement with supervision"),
            Column("on the front", numeric=False),
        ),
        tuple(
            (
                row.get("precision", row["name"]) + (" *" if row["name"] == front["picked"] else ""),
                _count(row.get("layers")),
                _count(row.get("n_tokens")),
                f"{row['megabytes']:.1f}",
                f"{row['latency_ms']:.2f}",
                f"{row['p95_ms']:.2f}",
                f"{row['batch_ms']:.1f}",
                _count(row["memory_megabytes"]),
                f"{row['loss_percent']:.2f}%",
                f"{row['mean_kl']:.1e}",
                share(row.get("agreement")),
                "yes" if row["on_front"] else "no",
            )
            for row in front["candidates"]
        ),
    )


def front_line(manifest: dict[str, Any]) -> str:
    """What a budget led to, in a line; empty where there was none."""
    front = manifest.get("front")
    return f"{front['picked']}: {front['reason']}" if front else ""


def benchmark_table(cells: Sequence[WorkloadTiming]) -> Table:
    """Milliseconds of each contender by cell and, of ours, how many times as fast as the best peer that is."""
    return Table(
        (Column("ms", numeric=False), *(Column(cell.name) for cell in cells)),
        tuple((name, *(_timed(cell, name) for cell in cells)) for name in cells[0].seconds),
    )


def _timed(cell: WorkloadTiming, name: str) -> str:
    ratio = cell.speedup(name) if name in cell.bundle_seconds else None
    return f"{cell.seconds[name] * 1e3:.2f}" + ("" if ratio is None else f" ({ratio:.2f}×)")


def cascade_line(manifest: dict[str, Any]) -> str:
    """What became of a bundle's cascade, in a line; empty where none was asked for."""
    cascade = manifest.get("cascade")
    if not cascade:
        return ""
    asked = f"{cascade['agreement_asked']:.2%}"
    if not cascade["file"]:
        best = max((attempt["agreement"] for attempt in cascade["attempts"] if attempt["share"] > 0), default=None)
        return (
            f"no cascade: no threshold kept {asked} agreement with the encoder on {cascade['n_texts']} held-out texts "
            f"(best: {share(best)})"
        )
    return (
        f"cascade: a static student of {cascade['bytes'] / 1e6:.1f} MB answers {cascade['share']:.1%} of "
        f"{cascade['n_texts']} held-out texts, those with a probability of {cascade['threshold']:.3f} or more; "
        f"{cascade['agreement']:.2%} agreement with the encoder alone (asked: {asked})"
    )


def _count(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f}"


def share(value: float | None) -> str:
    """A share in percent, a dash where there is none."""
    return "–" if value is None else f"{value:.1%}"
