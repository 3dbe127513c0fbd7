"""How ``amalgam-edge predict`` writes predictions."""

import csv
import io
import json

import pytest

from amalgam_edge.cli.prediction_output import make_writer
from amalgam_edge.errors import AmalgamError
from amalgam_edge.heads import Heads
from amalgam_edge.runtime import Prediction
from amalgam_edge.tables.reading import TextRow, TextTable, texts_as_table

SCORES = {"games": 0.75, "science": 0.25}


def written(output_format, *rows, table=None, all_scores=False, labels=("science", "games")):
    """What is written of these texts, or rows, and predictions."""
    stream = io.StringIO()
    heads = Heads.of_labels(labels)
    writer = make_writer(output_format, stream, table or texts_as_table([]), heads, all_scores=all_scores)
    for row, prediction in rows:
        values = {"text": row} if isinstance(row, str) else row
        writer.write(TextRow(values.get("text", ""), values, "line 7"), prediction)
    return stream.getvalue()


def table_of(*columns):
    return TextTable("x.csv", columns, "text", iter(()))


@pytest.mark.parametrize(
    ("text", "shown"),
    [("x" * 60, "x" * 60), ("x" * 61, "x" * 59 + "…"), (" a\tb\n c ", "a b c")],
)
def test_the_table_shows_sixty_characters_on_one_line(text, shown):
    assert written("table", (text, Prediction("games", 0.12345))) == f"games    0.123  {shown}\n"


def test_the_table_shows_a_dash_without_a_label():
    assert written("table", ("x", Prediction(None, 0.5))) == "–        0.500  x\n"


@pytest.mark.parametrize("all_scores", [True, False])
def test_json_lines_hold_the_whole_text(all_scores):
    prediction = Prediction(None, 0.75, SCORES, truncated=True)
    row = json.loads(written("jsonl", ("é\n" * 99, prediction), all_scores=all_scores))
    expected = {"text": "é\n" * 99, "label": None, "score": 0.75, "truncated": True, "abstained": True}
    assert row == ({**expected, "scores": SCORES} if all_scores else expected)


@pytest.mark.parametrize("all_scores", [True, False])
def test_csv_has_a_column_for_each_label_if_all_scores_are_requested(all_scores):
    output = written("csv", ('a, "b"\nc', Prediction("games", 0.75, SCORES)), all_scores=all_scores)
    expected = {"text": 'a, "b"\nc', "label": "games", "score": "0.75", "truncated": "false", "abstained": "false"}
    more = {"science": "0.25", "games": "0.75"} if all_scores else {}
    assert [*csv.DictReader(io.StringIO(output))] == [{**expected, **more}]


ROW = {"id": 7, "text": "a", "label": "gold", "tags": ["x", None]}


def test_columns_of_the_input_come_first_and_keep_their_names():
    rows = [(ROW, Prediction("games", 0.75))]
    line = written("jsonl", *rows, table=table_of(*ROW))
    own = {"predicted_label": "games", "score": 0.75, "truncated": False, "abstained": False}
    assert json.loads(line) == ROW | own
    assert list(json.loads(line)) == [*ROW, *own]
    header, cells = csv.reader(io.StringIO(written("csv", *rows, table=table_of(*ROW))))
    assert header == [*ROW, *own]
    assert cells == ["7", "a", "gold", '["x", null]', "games", "0.75", "false", "false"]


def test_labels_called_like_a_column_get_a_prefix_too():
    rows = [("a", Prediction("text", 0.75, {"text": 0.75, "score": 0.25}))]
    header, cells = csv.reader(io.StringIO(written("csv", *rows, labels=("text", "score"), all_scores=True)))
    assert header == ["text", "label", "score", "truncated", "abstained", "predicted_text", "predicted_score"]
    assert cells[-2:] == ["0.75", "0.25"]


def test_a_name_that_is_taken_with_its_prefix_is_refused():
    with pytest.raises(AmalgamError, match=r"x\.csv: columns 'label' and 'predicted_label' are both taken"):
        written("jsonl", table=table_of("text", "label", "predicted_label"))


@pytest.mark.parametrize(("output_format", "column"), [("jsonl", "score"), ("csv", "score"), ("csv", "more")])
def test_a_column_that_first_rows_do_not_have_is_never_lost_nor_mistaken(output_format, column):
    with pytest.raises(AmalgamError, match=f"x.csv, line 7: has a column '{column}', which the first rows do not"):
        written(output_format, ({"text": "a", column: 1}, Prediction("games", 0.75)), table=table_of("text"))
