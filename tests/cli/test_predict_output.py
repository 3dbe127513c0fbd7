"""How ``amalgam-edge predict`` writes predictions."""

import csv
import io
import json

import pytest

from amalgam_edge.cli.predict import _WRITERS
from amalgam_edge.runtime import Prediction

SCORES = {"games": 0.75, "science": 0.25}


def written(capsys, output_format, *rows, all_scores=False):
    """Standard output after these texts and predictions."""
    write = _WRITERS[output_format](("science", "games"), all_scores)
    for text, prediction in rows:
        write(text, prediction)
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "shown"),
    [("x" * 60, "x" * 60), ("x" * 61, "x" * 59 + "…"), (" a\tb\n c ", "a b c")],
)
def test_the_table_shows_sixty_characters_on_one_line(capsys, text, shown):
    assert written(capsys, "table", (text, Prediction("games", 0.12345))) == f"games    0.123  {shown}\n"


def test_the_table_shows_a_dash_without_a_label(capsys):
    assert written(capsys, "table", ("x", Prediction(None, 0.5))) == "–        0.500  x\n"


@pytest.mark.parametrize("all_scores", [True, False])
def test_json_lines_hold_the_whole_text(capsys, all_scores):
    row = json.loads(written(capsys, "jsonl", ("é\n" * 99, Prediction(None, 0.75, SCORES)), all_scores=all_scores))
    expected = {"text": "é\n" * 99, "label": None, "score": 0.75}
    assert row == ({**expected, "scores": SCORES} if all_scores else expected)


@pytest.mark.parametrize("all_scores", [True, False])
def test_csv_has_a_column_for_each_label_if_all_scores_are_requested(capsys, all_scores):
    output = written(capsys, "csv", ('a, "b"', Prediction("games", 0.75, SCORES)), all_scores=all_scores)
    expected = {"text": 'a, "b"', "label": "games", "score": "0.75"}
    more = {"science": "0.25", "games": "0.75"} if all_scores else {}
    assert [*csv.DictReader(io.StringIO(output))] == [{**expected, **more}]
