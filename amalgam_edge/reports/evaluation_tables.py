"""Each teacher's domain and another bundle, as ``amalgam-edge evaluate`` shows them. Pure functions."""

from __future__ import annotations

from typing import Any

from amalgam_edge.reports.tables import Column, Table, share


def domain_table(measured: dict[str, Any]) -> Table:
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
            (f"student {name}", teacher, str(domain["n_texts"]), share(domain["accuracy"]), share(domain["macro_f1"]))
            for name, row in measured["student"].items()
            for teacher, domain in row["domains"].items()
        ),
    )


def comparison_table(measured: dict[str, Any]) -> Table:
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
                row["other"],
                str(row["n_texts"]),
                share(row["accuracy"]),
                share(row["other_accuracy"]),
                _points(row["difference"]),
                " … ".join(map(_points, row["interval"])),
                str(row["b"]),
                str(row["c"]),
                f"{row['p_value']:.2g}",
            )
            for name, row in measured["comparison"]["models"].items()
        ),
    )


def comparison_lines(measured: dict[str, Any]) -> list[str]:
    """What has to be known to read the table of the comparison, a line each."""
    comparison = measured["comparison"]
    lines = [
        f"b texts only this bundle has right, c only {comparison['bundle']}; p by the exact McNemar test, the interval "
        "by a paired bootstrap"
    ]
    if comparison["missing_labels"]:
        named = ", ".join(f"'{label}' ({count})" for label, count in comparison["missing_labels"].items())
        lines.append(f"{comparison['bundle']} does not know {named}: it counts as wrong on those texts")
    if comparison["same_bundle"]:
        lines.append("both are the same bundle, file by file")
    return lines


def _points(difference: float) -> str:
    return f"{100 * difference:+.1f}"
