"""What ``amalgam-edge evaluate`` and ``benchmark`` show: models, teachers' domains, another bundle, speed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from amalgam_edge import shown_text
from amalgam_edge.heads import SIGMOID
from amalgam_edge.metrics.timing import WorkloadTiming
from amalgam_edge.reports.tables import MISSING, Column, Table, number, share
from amalgam_edge.runtime.evaluation import BundleComparison, DifferingAnswer, Evaluation
from amalgam_edge.runtime.manifest_models import BuildEvaluation, TeacherAgreement
from amalgam_edge.storage.records import to_json

# column → (entry of a model, form)
_LABEL_SETS = {"micro-F1": ("micro_f1", ".1%"), "mAP": ("mean_average_precision", ".1%")}
_ACCURACY = {"accuracy": ("accuracy", ".1%"), "macro-F1": ("macro_f1", ".1%")}
_ABSTAINING = {"answered": ("answered", ".1%"), "accuracy on those": ("answered_accuracy", ".1%")}
_SCORES = {"NLL": ("nll", ".3f"), "ECE": ("ece", ".1%"), "AURC": ("aurc", ".3f")}

_RIGHT = {"student_right": "student", "teacher_right": "teacher", "neither_right": "neither", "no_gold": MISSING}
TEACHERS_NOTE = (
    "agreement: share of texts that both answer alike; right: where they differ, how many texts the student, the "
    "teacher or neither has right"
)
_LONGEST_EXAMPLE = 300  # characters of a text in a table


def has_gold(evaluation: Evaluation) -> bool:
    """Whether any head has gold labels."""
    return any(head.student for head in evaluation.heads.values())


def evaluation_table(evaluation: BuildEvaluation | Evaluation) -> Table:
    """Accuracy and macro-F1 of each model over all labels, for each head with gold labels.

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
    return by_head(
        (Column("model", numeric=False), Column("texts"), *map(Column, columns)),
        [
            (head, (name, str(n_texts), *(number(row.get(entry), form) for entry, form in columns.values())))
            for head, name, n_texts, row in rows
        ],
        several=len(evaluation.heads) > 1,
    )


def by_head(columns: Sequence[Column], rows: Sequence[tuple[str, tuple[str, ...]]], *, several: bool) -> Table:
    """A table whose first column names the head, where there are several.

    Args:
        columns: The other columns.
        rows: The name of the head and the other cells of each row.
        several: Whether there are several heads.
    """
    if not several:
        return Table(tuple(columns), tuple(cells for _, cells in rows))
    return Table((Column("head", numeric=False), *columns), tuple((head, *cells) for head, cells in rows))


def domain_table(evaluation: Evaluation) -> Table:
    """Accuracy and macro-F1 of each model on the texts whose gold label is one of a teacher's.

    A head of several with one teacher has no rows: all texts are that teacher's.
    """
    several = len(evaluation.heads) > 1
    return by_head(
        (
            Column("model", numeric=False),
            Column("on labels of", numeric=False),
            Column("texts"),
            Column("accuracy"),
            Column("macro-F1"),
        ),
        [
            (name, (f"student {model}", teacher, str(row.n_texts), share(row.accuracy), share(row.macro_f1)))
            for name, head in evaluation.heads.items()
            for model, measured in head.student.items()
            for teacher, row in measured.domains.items()
            if not several or len(measured.domains) > 1
        ],
        several=several,
    )


def teachers_table(evaluation: BuildEvaluation | Evaluation) -> Table:
    """Each model beside each teacher of its head: how often they agree, how good both are, who is right if they differ.

    Accuracies are on the same texts, those whose gold label is one of the teacher's.
    """
    return by_head(
        (
            Column("teacher", numeric=False),
            Column("student", numeric=False),
            Column("texts"),
            Column("agreement"),
            Column("teacher's accuracy"),
            Column("student's accuracy"),
            Column("student right"),
            Column("teacher right"),
            Column("neither right"),
        ),
        [
            (
                name,
                (
                    teacher,
                    model,
                    str(row.n_texts),
                    share(row.agreement),
                    share(own.accuracy),
                    share(row.accuracy),
                    *(_count(row, count) for count in (row.student_right, row.teacher_right, row.neither_right)),
                ),
            )
            for name, head in evaluation.heads.items()
            for teacher, own in head.teachers.items()
            for model, row in own.student.items()
        ],
        several=len(evaluation.heads) > 1,
    )


def _count(row: TeacherAgreement, count: int) -> str:
    """How many texts; a dash where no gold label tells."""
    return MISSING if row.accuracy is None else str(count)


def teacher_lines(evaluation: Evaluation) -> list[str]:
    """What has to be known to read the table of teachers, a line each."""
    lines = [TEACHERS_NOTE]
    for head in evaluation.heads.values():
        for teacher, row in head.teachers.items():
            if not row.as_built:
                lines.append(
                    f"teacher '{teacher}' is not the one that the bundle was built from: its fingerprint differs"
                )
    return lines


def label_table(evaluation: Evaluation, head: str) -> Table:
    """Each label of a head by the model that answers by default: precision, recall and F1 where there are gold labels.

    Of a sigmoid head, the calibration error and the agreement with each teacher too; without any column there are no
    rows.
    """
    measured, model = evaluation.heads[head], evaluation.default_model
    columns: dict[str, Sequence[str]] = {}
    if measured.student:
        rows = [measured.student[model].labels[label] for label in measured.labels]
        columns["gold texts"] = [str(row.n_gold) for row in rows]
        columns["precision"] = [share(row.precision) for row in rows]
        columns["recall"] = [share(row.recall) for row in rows]
        columns["F1"] = [share(row.f1) for row in rows]
        if measured.activation == SIGMOID:
            columns["ECE"] = [share(row.ece) for row in rows]
    for teacher, beside in measured.teachers.items():
        if by_label := beside.student[model].labels:
            columns[f"agreement with {teacher}"] = [share(by_label.get(label)) for label in measured.labels]
    titles = (Column("label", numeric=False), *map(Column, columns))
    return Table(titles, tuple(zip(measured.labels, *columns.values(), strict=True)) if columns else ())


def example_table(examples: Mapping[str, Sequence[DifferingAnswer]]) -> Table:
    """Texts that student and teacher answer differently, and who is right where gold labels tell."""
    columns: dict[str, list[str]] = {"right": [], "text": [], "gold": [], "teacher": [], "student": []}
    for who, rows in examples.items():
        for row in rows:
            columns["right"].append(_RIGHT.get(who, who))
            columns["text"].append(shown_text.line(row.text, _LONGEST_EXAMPLE))
            columns["gold"].append(MISSING if row.gold is None else _labels(row.gold))
            columns["teacher"].append(_labels(row.teacher))
            columns["student"].append(_labels(row.student))
    if examples.keys() <= {"no_gold"}:
        del columns["right"], columns["gold"]
    return Table(tuple(Column(title, numeric=False) for title in columns), tuple(zip(*columns.values(), strict=True)))


def _labels(labels: Sequence[str]) -> str:
    return shown_text.line(", ".join(labels)) or "(no label)"


def comparison_table(comparison: BundleComparison) -> Table:
    """Two bundles on the same texts: accuracies, their difference in points, and whether chance would do as well."""
    return by_head(
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
        [
            (
                head,
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
                ),
            )
            for head, compared in comparison.heads.items()
            for name, row in compared.models.items()
        ],
        several=len(comparison.heads) + len(comparison.missing_heads) > 1,
    )


def comparison_lines(comparison: BundleComparison) -> list[str]:
    """What has to be known to read the table of a comparison, a line each."""
    lines = [
        f"b texts only this bundle has right, c only {comparison.bundle}; p by the exact McNemar test, the interval "
        "by a paired bootstrap"
    ]
    several = len(comparison.heads) + len(comparison.missing_heads) > 1
    for head, compared in comparison.heads.items():
        if compared.missing_labels:
            named = ", ".join(f"'{label}' ({count})" for label, count in compared.missing_labels.items())
            where = f"{head}: " if several else ""
            lines.append(f"{where}{comparison.bundle} does not know {named}: it counts as wrong on those texts")
    if comparison.missing_heads:
        lines.append(f"{comparison.bundle} has no head {', '.join(comparison.missing_heads)}")
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
