from __future__ import annotations

import json
import re

import numpy as np
import pytest

CHANCE = 0.25


def test_the_student_knows_what_both_teachers_knew(real):
    manifest = json.loads((real.bundle / "amalgam.json").read_text("utf-8"))
    student = manifest["evaluation"]["heads"]["label"]["student"][manifest["default_precision"]]["accuracy"]
    assert student > 2 * CHANCE
    best_of_one = max(row["accuracy"] * 0.5 for row in manifest["evaluation"]["heads"]["label"]["teachers"].values())
    assert student > best_of_one


def test_int8_keeps_within_its_budget_on_real_text(real):
    manifest = json.loads((real.bundle / "amalgam.json").read_text("utf-8"))
    precisions = manifest["precisions"]
    assert 1 - precisions["int8"]["fidelity"]["agreement"] <= manifest["recipe"]["max_disagreement"]
    assert precisions["int8"]["bytes"] < 0.5 * precisions["fp32"]["bytes"]


def test_progress_names_every_step(real):
    steps = re.findall(r"^\[(\d+)/11\]", real.said, re.MULTILINE)
    assert steps == [str(step) for step in range(1, 12)]


def test_predict_answers_a_sentence(command, real):
    shown = command("predict", real.bundle, "a puzzle game about falling blocks").stdout
    assert shown.split()[0] == "games"


def test_evaluate_repeats_what_the_build_measured(command, real):
    manifest = json.loads((real.bundle / "amalgam.json").read_text("utf-8"))
    measured = json.loads(command("evaluate", real.bundle, "--data", real.labelled, "--json").stdout)
    for precision, row in manifest["evaluation"]["heads"]["label"]["student"].items():
        assert measured["heads"]["label"]["student"][precision]["accuracy"] == pytest.approx(row["accuracy"], abs=0.01)


def test_the_exported_student_is_the_trained_one(real):
    """The float model against torch on real text, through the weights that --include-torch ships uncalibrated."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from amalgam_edge import EdgeClassifier

    bundle = real.bundle
    model, tokenizer = (auto.from_pretrained(bundle) for auto in (AutoModelForSequenceClassification, AutoTokenizer))
    texts = [json.loads(line)["text"] for line in real.labelled.read_text("utf-8").splitlines()][:40]
    with torch.inference_mode():
        expected = model(**tokenizer(texts, padding=True, truncation=True, return_tensors="pt")).logits.numpy()
    (head,) = json.loads((bundle / "amalgam.json").read_text("utf-8"))["heads"]
    (temperature,) = head["calibration"]["temperatures"]
    answered = EdgeClassifier.from_pretrained(bundle, precision="fp32").logits(texts) * temperature
    np.testing.assert_allclose(answered, expected, atol=1e-4)


def test_a_mistake_ends_with_status_2_and_one_line(command, real):
    finished = command("predict", real.folder / "nowhere", "text", status=2)
    assert finished.stderr.count("\n") == 1
    assert "Traceback" not in finished.stderr
