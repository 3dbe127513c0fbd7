import pytest

from amalgam_edge.metrics.timing import WorkloadTiming
from amalgam_edge.reports.bundle_tables import (
    calibration_lines,
    cascade_line,
    front_line,
    front_table,
    kernel_lines,
    precision_table,
    teacher_table,
)
from amalgam_edge.reports.evaluation_tables import benchmark_table, evaluation_table
from amalgam_edge.reports.score_tables import score_table
from amalgam_edge.reports.tables import Column, Table
from amalgam_edge.runtime.manifest_models import Answered, Cascade, CascadeAttempt, StaticModel
from amalgam_edge.scoring.scores import ScoreSummary
from tests.support.manifests import (
    make_accuracy,
    make_calibration,
    make_candidate,
    make_evaluation,
    make_front,
    make_head,
    make_manifest,
    make_precision,
    make_teacher,
)


def titles(table):
    return [column.title for column in table.columns]


def test_precisions_have_a_row_each_and_the_default_a_star():
    table = precision_table(make_manifest())
    assert titles(table) == ["precision", "MB", "agreement", "mean KL", "p50 ms", "p95 ms", "made by"]
    assert table.rows == (
        ("fp32", "45.7", "100.00%", "0.0e+00", "3.46", "5.00", "float"),
        ("int8 *", "11.4", "99.31%", "1.2e-03", "1.20", "2.00", "signed 7-bit weights"),
    )


def test_float_alone_is_starred():
    only = {"fp32": make_precision("onnx/model.onnx", 1_000_000, "float", 1.0, 0.0, 1.0, 1.0)}
    table = precision_table(make_manifest(precisions=only, default_precision="fp32"))
    assert [row[0] for row in table.rows] == ["fp32 *"]


def test_teachers_have_their_classes_and_their_share():
    table = teacher_table(make_manifest())
    assert titles(table) == ["teacher", "classes", "dropout sites", "mean u", "picked", "own accuracy"]
    assert table.rows == (
        ("fun", "games, net", "13", "0.123", "60.0%", "95.5%"),
        ("work", "science, net", "13", "0.123", "40.0%", "–"),
    )


def test_teachers_without_evaluation_have_no_accuracy():
    table = teacher_table(make_manifest(evaluation=None, teachers=(make_teacher("fun", ["a", "b"], picked_share=1.0),)))
    assert table.rows == (("fun", "a, b", "13", "0.123", "100.0%", "–"),)


def test_evaluation_has_a_row_a_precision():
    table = evaluation_table(make_evaluation())
    assert titles(table) == ["model", "texts", "accuracy", "macro-F1"]
    assert table.rows == (("student fp32", "60", "90.0%", "87.6%"), ("student int8", "60", "88.3%", "80.0%"))


def test_abstaining_has_columns_of_its_own():
    student = {
        "fp32": make_accuracy(0.9, 0.8765, abstaining=Answered(0.5, 1.0)),
        "int8": make_accuracy(0.9, 0.8765, abstaining=Answered(0.0, None)),
    }
    table = evaluation_table(make_evaluation(student=student))
    assert titles(table) == ["model", "texts", "accuracy", "macro-F1", "answered", "accuracy on those"]
    assert [row[4:] for row in table.rows] == [("50.0%", "100.0%"), ("0.0%", "–")]


@pytest.mark.parametrize(
    ("entries", "lines"),
    [
        ({}, []),
        ({"calibration": None, "abstain": 0.0}, []),
        (
            {"calibration": make_calibration(gold=None)},
            ["temperature 1.23, calibration error on supervision 10.0% → 1.2% (12 held-out texts)"],
        ),
        (
            {"calibration": make_calibration(), "abstain": 0.75},
            [
                "temperature 1.23, calibration error on supervision 10.0% → 1.2% (12 held-out texts), "
                "on gold labels 20.0% → 15.0% (60 texts), no label below a score of 0.75"
            ],
        ),
        (
            {
                "heads": (
                    make_head(name="topic", abstain=0.5),
                    make_head(name="plain"),
                    make_head(
                        name="tags",
                        activation="sigmoid",
                        calibration=make_calibration(temperatures=(2.0, 0.5, 1.0), gold=None),
                    ),
                )
            },
            [
                "topic: no label below a score of 0.5",
                "tags: temperatures 0.5 to 2, calibration error on supervision 10.0% → 1.2% (12 held-out texts)",
            ],
        ),
    ],
)
def test_calibration_is_a_line_for_each_head(entries, lines):
    assert calibration_lines(make_manifest(**entries)) == lines


def test_scores_have_a_row_a_teacher():
    table = score_table([ScoreSummary("fun", 5000, 10.0, 0.12345, 0.666), ScoreSummary("work", 5000, 3.14, 1.0, 0.334)])
    assert titles(table) == ["teacher", "texts", "passes a text", "mean u", "picked"]
    assert table.rows == (("fun", "5000", "10.0", "0.123", "66.6%"), ("work", "5000", "3.1", "1.000", "33.4%"))


SMALL = Table((Column("name", numeric=False), Column("count")), (("a", "12345678"), ("longer", "1")))


def test_text_columns_are_aligned():
    assert SMALL.to_text() == "name       count\na       12345678\nlonger         1"


def test_markdown_aligns_numbers_to_the_right():
    assert SMALL.to_markdown() == "| name | count |\n| --- | ---: |\n| a | 12345678 |\n| longer | 1 |"


def test_a_table_without_rows_is_its_head():
    empty = Table(SMALL.columns, ())
    assert empty.to_text() == "name  count"
    assert empty.to_markdown() == "| name | count |\n| --- | ---: |"


def test_a_bar_in_a_cell_does_not_split_it():
    """GitHub reads \\| inside a table as a bar that belongs to the cell."""
    row = Table(SMALL.columns, (("a|b", "1"),)).to_markdown().splitlines()[-1]
    assert row.replace(r"\|", "").count("|") == 3


ATTEMPTS = (CascadeAttempt(0.8, agreement=0.975, share=0.7), CascadeAttempt(0.9, agreement=1.0, share=0.0))


def test_no_cascade_is_no_line():
    assert cascade_line(make_manifest()) == ""
    assert cascade_line(make_manifest(cascade=None)) == ""


def test_a_cascade_in_a_line():
    static = StaticModel("onnx/model_static.onnx", 2_340_000, 64, threshold=0.87654, agreement=0.995, share=0.62)
    assert cascade_line(make_manifest(cascade=Cascade(0.99, 200, ATTEMPTS, static))) == (
        "cascade: a static student of 2.3 MB answers 62.0% of 200 held-out texts, those with a probability of 0.877 or "
        "more; 99.50% agreement with the encoder alone (asked: 99.00%)"
    )


def test_a_refused_cascade_says_how_near_it_came():
    assert cascade_line(make_manifest(cascade=Cascade(0.99, 200, ATTEMPTS, None))) == (
        "no cascade: no threshold kept 99.00% agreement with the encoder on 200 held-out texts (best: 97.5%)"
    )
    assert cascade_line(make_manifest(cascade=Cascade(0.99, 200, (), None))).endswith("(best: –)")


def test_the_front_by_hand():
    manifest = make_manifest(front=make_front())
    text = front_table(manifest).to_text()
    assert [line.split()[0] for line in text.splitlines()[1:]] == ["fp32", "int8", "fp16"]
    assert "int8 *" in text
    assert "–" in text.splitlines()[1]  # memory is not known
    assert "0.69%" in text
    assert [line.split()[-1] for line in text.splitlines()[1:]] == ["yes", "yes", "no"]
    assert front_line(manifest) == "int8: it alone meets the budget"
    assert front_line(make_manifest()) == ""


def test_students_are_told_apart_by_layers_and_tokens():
    candidates = (
        make_candidate("fp32"),
        make_candidate("6-layer trimmed int8", precision="int8", layers=6, n_tokens=812, agreement=0.8344),
        make_candidate("3-layer int8", precision="int8", layers=3, n_tokens=30522),
    )
    table = front_table(make_manifest(front=make_front(picked="6-layer trimmed int8", candidates=candidates)))
    columns = [titles(table).index(name) for name in ("model", "layers", "tokens", "agreement with supervision")]
    assert [[row[column] for column in columns] for row in table.rows] == [
        ["fp32", "–", "–", "–"],  # as bundles of earlier versions have it
        ["int8 *", "6", "812", "83.4%"],
        ["int8", "3", "30522", "–"],
    ]


def test_a_benchmark_by_hand():
    cells = [WorkloadTiming("1×16", 1, {"amalgam-edge int8": 0.001, "torch": 0.0025})]
    rows = benchmark_table(cells).rows
    assert rows == (("amalgam-edge int8", "1.00 (2.50×)"), ("torch", "2.50"))


def test_kernels_by_hand():
    assert kernel_lines(make_manifest()) == []  # as bundles of early versions have it
    counted = make_precision("onnx/model_quantized.onnx", kernels={"DynamicQuantizeMatMul": 12, "Gelu": 3})
    manifest = make_manifest(precisions={"fp32": make_precision("onnx/model.onnx"), "int8": counted})
    assert kernel_lines(manifest) == ["int8 runs with DynamicQuantizeMatMul ×12, Gelu ×3"]


def test_a_divergence_that_is_not_finite_is_a_dash():
    table = precision_table(make_manifest(precisions={"int8": make_precision("onnx/model.onnx", mean_kl=None)}))
    assert table.rows[0][titles(table).index("mean KL")] == "–"
