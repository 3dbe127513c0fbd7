"""Owners and known labels of a build: read beside the corpus, and handed to the method row by row."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from amalgam_edge.building.hinting import check_hints, find_hints
from amalgam_edge.building.inputs import read_texts, take_texts
from amalgam_edge.errors import AmalgamError
from amalgam_edge.heads import SIGMOID, SOFTMAX, Head
from amalgam_edge.labels import LabelSpace
from amalgam_edge.methods.taught_heads import TaughtHead, TaughtHeads
from amalgam_edge.recipe.recipe import Recipe
from tests.support.taught import one_head

TEACHERS = ["a=models/a", "b=models/b"]
CORPUS = [
    {"text": "chess", "stream": "a"},
    {"text": "mail", "stream": "b"},
    {"text": "chess", "stream": "b"},  # a text once: the first counts
    {"text": "", "stream": "a"},
    {"text": "cards", "stream": None},
    {"text": "proxy", "stream": ""},
    {"text": "dice", "stream": "a"},
]


@pytest.fixture
def read(tmp_path):
    """Read a corpus, and texts of known labels if there are any."""

    def run(known=None, corpus=CORPUS, **settings) -> SimpleNamespace:
        files = {"corpus": corpus, "known": known}
        for name, rows in files.items():
            if rows is not None:
                (tmp_path / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
        if known is not None:
            settings["known_labels"] = str(tmp_path / "known.jsonl")
        recipe = Recipe(**{"teachers": TEACHERS, "corpus": str(tmp_path / "corpus.jsonl"), **settings})
        texts = read_texts(recipe.corpus, recipe.evaluation, recipe.teachers, recipe.hints)
        return SimpleNamespace(texts=texts, settings=recipe.hints)

    return run


HEADS = one_head({"a": ["games", "sound"], "b": ["net", "mail"]})


def test_owners_follow_their_texts(read):
    made = read(owner_column="stream")
    hints = find_hints(made.texts, HEADS, made.settings)["label"]
    assert list(made.texts.corpus.texts) == ["chess", "mail", "cards", "proxy", "dice"]
    assert hints.owner.tolist() == [0, 1, -1, -1, 0]
    assert len(hints.rows) == 0
    fewer = take_texts(made.texts, np.array([1, 3, 4]), 1)  # without those that a teacher could not score
    assert find_hints(fewer, HEADS, made.settings)["label"].owner.tolist() == [1, -1, 0]


def test_known_labels_are_found_by_their_texts_and_blank_ones_say_nothing(read):
    known = [{"text": "dice", "label": "games"}, {"text": "nowhere", "label": "net"}, {"text": "mail", "label": "mail"}]
    made, said = read([*known, {"text": "cards", "label": ""}]), []
    hints = find_hints(made.texts, HEADS, made.settings)["label"]
    assert dict(zip(hints.rows.tolist(), hints.target.argmax(axis=1).tolist(), strict=True)) == {1: 3, 4: 0}
    assert (hints.owner == -1).all()
    check_hints(made.texts, HEADS, made.settings, said.append)
    assert said[0] == "known beforehand: the owner of 0 and the label of 2 of 5 texts"
    assert said[1].endswith("1 of 4 texts are not in the corpus and are left out")


def test_known_texts_that_no_teacher_could_score_are_no_mistake(read):
    made = read([{"text": "dice", "label": "games"}])
    check_hints(made.texts, HEADS, made.settings, lambda line: None)
    without = take_texts(made.texts, np.array([0, 1, 2]), 1)
    assert find_hints(without, HEADS, made.settings) == {}


def test_each_head_has_its_own(read):
    topic, tags = LabelSpace.union({"a": ["games", "net"]}), LabelSpace.union({"b": ["rude", "spam", "urgent"]})
    heads = TaughtHeads(
        (TaughtHead(Head("topic", SOFTMAX, topic.names), topic), TaughtHead(Head("tags", SIGMOID, tags.names), tags))
    )
    made = read(
        [{"text": "chess", "tags": ["rude", "urgent"]}, {"text": "proxy", "tags": []}],
        heads={"topic": ["a"], "tags": ["b"]}, owner_column="stream",
    )  # fmt: skip
    hints = find_hints(made.texts, heads, made.settings)
    assert hints["topic"].owner.tolist() == [0, -1, -1, -1, 0]
    assert hints["tags"].owner.tolist() == [-1, 0, -1, -1, -1]
    assert len(hints["topic"].rows) == 0
    order = np.argsort(hints["tags"].rows)
    assert hints["tags"].rows[order].tolist() == [0, 3]
    np.testing.assert_array_equal(hints["tags"].target[order], [[1, 0, 1], [0, 0, 0]])


def test_where_nothing_is_known_there_are_no_hints(read):
    made, said = read(), []
    assert find_hints(made.texts, HEADS, made.settings) == {}
    check_hints(made.texts, HEADS, made.settings, said.append)
    assert said == []


@pytest.mark.parametrize(
    ("known", "settings", "expected"),
    [
        (None, {"owner_column": "team"}, "no column 'team'; it has 'text', 'stream'"),
        (None, {"owner_column": "text"}, "cannot be both text and label"),
        (None, {"corpus": [{"text": "x", "stream": "c"}, {"text": "y", "stream": "a"}], "owner_column": "stream"},
         "--owner-column stream: no teacher 'c'; there are a, b"),
        ([{"text": "dice", "kind": "games"}], {}, "no column 'label'; it has 'text', 'kind'"),
        ([{"text": "dice", "label": "gaming"}], {}, "no teacher knows: 'gaming'"),
        ([{"text": "elsewhere", "label": "net"}], {}, "none of its texts is in the corpus"),
        ([{"text": "dice", "label": "games"}], {"heads": "each"}, "no column of labels; one is called as its head: a"),
    ],
)  # fmt: skip
def test_hints_that_cannot_be_are_refused_by_name(read, known, settings, expected):
    with pytest.raises(AmalgamError) as refused:
        made = read(known, **settings)
        check_hints(made.texts, HEADS, made.settings, lambda line: None)
    assert expected in str(refused.value)
