"""A build that is told whose stream texts came from, and some labels."""

from __future__ import annotations

import json

import pytest

from amalgam_edge.building.pipeline import prepare_training_data
from amalgam_edge.progress import SilentProgress
from amalgam_edge.recipe.reading import read_recipe
from tests.cli.conftest import THINGS, write_jsonl

pytestmark = pytest.mark.usefixtures("quick")


def test_no_supervision_contradicts_what_is_known(invoke, inputs, static_options, tmp_path):
    teacher_of = {"games": "a", "net": "a", "fonts": "b", "text": "b"}
    rows = [json.loads(line) for line in inputs.corpus.read_text("utf-8").splitlines()]
    label_of = {word: label for label, words in THINGS.items() for word in words.split()}
    for position, row in enumerate(rows):
        label = label_of.get(row["text"].split(" ")[0])
        row["stream"] = teacher_of[label] if label and position % 2 else ""
    known = [{"text": text, "label": label_of[text.split()[0]]} for text in inputs.texts[::10]]
    result = invoke(
        "build", *static_options, "--corpus", write_jsonl(tmp_path / "corpus.jsonl", rows), "--owner-column", "stream",
        "--known-labels", write_jsonl(tmp_path / "known.jsonl", known), "--method", "muka-hard",
        "--output", tmp_path / "student",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "known beforehand: the owner of 40 and the label of 8 of 80 texts" in result.output
    recipe = read_recipe(tmp_path / "student" / "recipe.yaml", {"output": str(tmp_path / "student")})
    _, data = prepare_training_data(recipe, SilentProgress())
    owner = {row["text"]: row["stream"] for row in rows}
    labels = data.heads.only.labels
    for text, target in zip(data.texts.corpus.texts, data.supervision.target, strict=True):
        if text in inputs.texts[::10]:
            assert target[labels.names.index(label_of[text.split()[0]])] == 1
        elif owner[text]:
            assert target[list(labels.columns[owner[text]])].sum() == pytest.approx(1, abs=1e-6)
