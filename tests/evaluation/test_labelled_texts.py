"""Several columns of gold labels, read alike without and with the training extra."""

import json

import pyarrow
import pyarrow.parquet
import pytest

from amalgam_edge.errors import AmalgamError
from amalgam_edge.evaluation.labelled_texts import read_labelled_texts
from amalgam_edge.gold import gold_answers
from amalgam_edge.heads import Head

TOPIC = Head("topic", "softmax", ("a", "b"))
FLAGS = Head("flags", "sigmoid", ("x", "y"))
ROWS = [
    {"text": "one", "topic": "a", "flags": ["x", "y"]},
    {"text": "two", "topic": None, "flags": []},
    {"text": " ", "topic": "b", "flags": ["x"]},
    {"text": "three", "topic": "b", "flags": ["y"]},
]


def written(folder, name):
    """The rows in a file of some format; a cell of CSV has its labels between semicolons, or is a list of JSON."""
    path = folder / name
    if name.endswith(".jsonl"):
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), "utf-8")
    elif name.endswith(".parquet"):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    else:
        path.write_text('text,topic,flags\none,a,x; y\ntwo,,\n" ",b,x\nthree,b,"[""y""]"\n', "utf-8")
    return str(path)


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl", "rows.parquet"])
def test_several_columns_are_read_alike(tmp_path, name):
    labelled = read_labelled_texts(
        written(tmp_path, name), text_column=None, label_columns=("topic", "flags"), split="test"
    )
    assert labelled.texts == ["one", "two", "three"]
    topic = gold_answers(TOPIC, labelled.labels["topic"], may_lack=True)
    assert (topic.rows.tolist(), topic.answers.tolist()) == ([0, 2], [0, 1])
    flags = gold_answers(FLAGS, labelled.labels["flags"], may_lack=True)
    assert flags.answers.tolist() == [[True, True], [False, False], [False, True]]


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl", "rows.parquet"])
def test_a_column_that_is_not_there_is_a_mistake_unless_it_may_lack(tmp_path, name):
    path, columns = written(tmp_path, name), ("topic", "area")
    with pytest.raises(AmalgamError, match="no column 'area'; it has 'text', 'topic', 'flags'"):
        read_labelled_texts(path, text_column=None, label_columns=columns, split="test")
    labelled = read_labelled_texts(path, text_column=None, label_columns=columns, may_lack_labels=True, split="test")
    assert list(labelled.labels) == ["topic"]


def test_texts_alone_have_no_labels(tmp_path):
    (tmp_path / "texts.txt").write_text("one\ntwo\n", "utf-8")
    labelled = read_labelled_texts(
        str(tmp_path / "texts.txt"), text_column=None, label_columns=("label",), may_lack_labels=True, split="test"
    )
    assert (labelled.texts, labelled.labels) == (["one", "two"], {})


def test_labels_that_are_no_strings_have_the_names_that_a_data_set_gives_them(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "one", "label": 3}\n{"text": "two", "label": [4, "x"]}\n', "utf-8")
    labelled = read_labelled_texts(str(path), text_column=None, label_columns=("label",), split="test")
    assert labelled.labels["label"] == ["3", ["4", "x"]]
