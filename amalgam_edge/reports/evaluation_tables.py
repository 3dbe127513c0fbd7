"""What ``amalgam-edge evaluate`` and ``benchmark`` show: models, teachers' domains, another bundle, speed."""

from __future__ import annotations

from collections.abc import Sequence

from amalgam_edge.metrics.timing import WorkloadTiming
from amalgam_edge.reports.tables import Column, Table, number, share
from amalgam_edge.runtime.evaluation import BundleComparison, Evaluation
from amalgam_edge.runtime.manifest_models import BuildEvaluation
from amalgam_edge.storage.records import to_json

# column → (entry of a model, form)
_LABEL_SETS = {"micro-F1": ("micro_f1", ".1%"), "mAP": ("mean_average_precision", ".1%")}
_ACCURACY = {"accuracy": ("accuracy", ".1%"), "macro-F1": ("macro_f1", ".1%")}
_ABSTAINING = {"answered": ("answered", ".1%"), "accuracy on those": ("answered_accuracy", ".1%")}
_SCORES = {"NLL": ("nll", ".3f"), "ECE": ("ece", ".1%"), "AURC": ("aurc", ".3f")}


def evaluation_table(evaluation: BuildEvaluation | Evaluation) -> Table:
    """Accuracy and macro-F1 of each model over all labels, for each head.

    What a model answers where it may abstain, and how good its scores are, stand beside these where that was measured.
    """
    rows = [
        (head, f"student {name}", measured.n_texts, to_json(row))
        for head, measured in evaluation.heads.items()
        for name, row in measured.student.items()
    ]
    columns = dict(_ACCURACY)
    for more in (_LABEL_SETS, _ABSTAINING, _SCORES):
        if any(entry in row for entry, _ in more.values() for *_, row in rows):
            columns |= more
    several = len(evaluation.heads) > 1
    return Table(
        (
            *([Column("head", numeric=False)] if several else []),
            Column("model", numeric=False),
            Column("texts"),
            *map(Column, columns),
        ),
        tuple(
            (
                *([head] if several else []),
                name,
                str(n_texts),
                *(number(row.get(entry), form) for entry, form in columns.values()),
            )
            for head, name, n_texts, row in rows
        ),
    )


def domain_table(evaluation: Evaluation) -> Table:
    """Accuracy and macro-F1 of each model on the texts whose gold label is one of a teacher's."""
    return Table(
        (
            Column("model", numeric=False),
            Column("on labels of", numeric=False),
            Column("texts"),
            Column("accuracy"),
            Column("macro-F1"),
        ),
        tuple(
            (f"student {name}", teacher, str(domain.n_texts), share(domain.accuracy), share(domain.macro_f1))
            for head in evaluation.heads.values()
            for name, row in head.student.items()
            for teacher, domain in row.domains.items()
        ),
    )


def comparison_table(comparison: BundleComparison) -> Table:
    """Two bundles on the same texts: accuracies, their difference in points, and whether chance would do as well."""
    return Table(
        (
            Column("model", numeric=False),
            Column("other's", numeric=False),
            Column("texts"),
            Column("accuracy"),
            Column("other's accuracy"),
            Column("points"),
            Column("95% interval"),
            Column("b"),
            Column("c"),
            Column("p"),
        ),
        tuple(
            (
                f"student {name}",
                row.other,
                str(row.n_texts),
                share(row.accuracy),
                share(row.other_accuracy),
                _points(row.difference),
                " … ".join(map(_points, row.interval)),
                str(row.b),
                str(row.c),
                f"{row.p_value:.2g}",
            )
            for name, row in comparison.models.items()
        ),
    )


def comparison_lines(comparison: BundleComparison) -> list[str]:
    """What has to be known to read the table of a comparison, a line each."""
    lines = [
        f"b texts only this bundle has right, c only {comparison.bundle}; p by the exact McNemar test, the interval "
        "by a paired bootstrap"
    ]
    if comparison.missing_labels:
        named = ", ".join(f"'{label}' ({count})" for label, count in comparison.missing_labels.items())
        lines.append(f"{comparison.bundle} does not know {named}: it counts as wrong on those texts")
    if comparison.same_bundle:
        lines.append("both are the same bundle, file by file")
    return lines


def _points(difference: float) -> str:
    return f"{100 * difference:+.1f}"


def benchmark_table(cells: Sequence[WorkloadTiming]) -> Table:
    """Milliseconds of each contender by cell and, of ours, how many times as fast as the best peer that is."""
    return Table(
        (Column("ms", numeric=False), *(Column(cell.name) for cell in cells)),
        tuple((name, *(_timed(cell, name) for cell in cells)) for name in cells[0].seconds),
    )


def _timed(cell: WorkloadTiming, name: str) -> str:
    ratio = cell.speedup(name) if name in cell.bundle_seconds else None
    return f"{cell.seconds[name] * 1e3:.2f}" + ("" if ratio is None else f" ({ratio:.2f}×)")
