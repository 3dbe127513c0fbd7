"""Three classifiers of different questions about the same real texts: merged as alternatives they would be useless."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.support.real_models import fine_tune

FACETS = Path(__file__).parents[2] / "examples" / "data" / "debian_facets.csv"
QUESTIONS = ("library", "language", "role")
N_TEACHER, N_CORPUS, N_TEST = 900, 400, 200


@pytest.fixture(scope="module")
def questions(encoder, command, tmp_path_factory) -> SimpleNamespace:
    """A teacher of each question, texts, and the build that was not told how to merge the teachers."""
    folder = tmp_path_factory.mktemp("questions")
    with FACETS.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:  # a label of one name would be one label
        row |= {name: f"other {name}" for name in QUESTIONS if row[name] == "other"}
    parts = rows[:N_TEACHER], rows[N_TEACHER : N_TEACHER + N_CORPUS], rows[-N_TEST:]
    for name in QUESTIONS:
        labels = sorted({row[name] for row in rows})
        fine_tune(encoder, labels, [(row["text"], row[name]) for row in parts[0]], folder / name)
    corpus, labelled = folder / "unlabeled.jsonl", folder / "labelled.jsonl"
    corpus.write_text("".join(json.dumps({"text": row["text"]}) + "\n" for row in parts[1]), "utf-8")
    labelled.write_text("".join(json.dumps(row) + "\n" for row in parts[2]), "utf-8")
    options = [
        *(option for name in QUESTIONS for option in ("--teacher", folder / name)),
        *("--corpus", corpus, "--student", encoder, "--student-layers", "2", "--passes", "4", "--epochs", "8"),
        *("--backend", "torch", "--max-disagreement", "0.05", "--output", folder / "student"),
    ]
    refused = command("build", *options, status=2).stderr
    return SimpleNamespace(folder=folder, options=options, labelled=labelled, refused=refused, test=parts[2])


@pytest.fixture(scope="module")
def student(questions, command) -> SimpleNamespace:
    """The same build, told to give each teacher a head; the scores are there already."""
    built = command("build", *questions.options, "--heads", "each", "--evaluate", questions.labelled)
    manifest = json.loads((questions.folder / "student" / "amalgam.json").read_text("utf-8"))
    return SimpleNamespace(bundle=questions.folder / "student", said=built.stderr, manifest=manifest)


def test_a_build_that_was_not_told_stops_before_training_and_names_both_ways(questions):
    last = questions.refused.strip().splitlines()[-1]
    assert "seem to answer different questions" in last
    assert "--heads each" in last and "--heads union" in last
    assert "training" not in questions.refused
    assert not (questions.folder / "student").exists()


def test_each_head_answers_as_its_teacher_does(questions, student):
    heads = student.manifest["evaluation"]["heads"]
    assert [*heads] == [*QUESTIONS]
    shipped = {name: head["student"][student.manifest["default_precision"]]["accuracy"] for name, head in heads.items()}
    teachers = {name: head["teachers"][name]["accuracy"] for name, head in heads.items()}
    commonest = [Counter(row[name] for row in questions.test).most_common(1)[0][1] / N_TEST for name in QUESTIONS]
    for name in QUESTIONS:
        assert shipped[name] > teachers[name] - 0.08, name  # two standard errors, and 320 texts to learn from
    assert np.mean([*shipped.values()]) > np.mean(commonest) + 0.05


def test_one_text_has_all_answers(student, command):
    shown = command("predict", student.bundle, "libfoo-perl - Perl module to read the Foo format").stdout
    assert shown.startswith("library library ")
    assert " · language perl " in shown
