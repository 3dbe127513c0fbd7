"""Heads in other runtimes: pipelines take the sigmoid of a sigmoid head's labels, and find all heads side by side."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from tests.support import heads, tiny

TEXTS = [*tiny.TEXTS[:8], "Straße 猫"]
JAVASCRIPT = """
import {{ env, pipeline }} from "@huggingface/transformers";

env.allowRemoteModels = false;
env.localModelPath = ".";
const classify = await pipeline("text-classification", "student", {{ dtype: "fp32" }});
const answers = [];
for (const text of {texts}) answers.push(await classify(text, {{ top_k: null }}));
console.log(JSON.stringify(answers));
"""
PYTHON = """
import json

from optimum.onnxruntime import ORTModelForSequenceClassification
from transformers import AutoTokenizer, pipeline

model = ORTModelForSequenceClassification.from_pretrained("student", subfolder="onnx", file_name="model.onnx")
classify = pipeline("text-classification", model=model, tokenizer=AutoTokenizer.from_pretrained("student"))
print(json.dumps([classify(text, truncation=True, top_k=None) for text in {texts}]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, bundle_folder: Path) -> Path:
    """A folder with a bundle of one sigmoid head, called student."""
    folder = tmp_path_factory.mktemp("sigmoid")
    heads.write_bundle(folder / "student", heads.ONE_SIGMOID, bundle_folder)
    # Version 4 of transformers, which Optimum needs, does not know version 5's name of a tokenizer of no architecture,
    # nor that this one puts a space before a text.
    settings = folder / "student" / "tokenizer_config.json"
    known = {
        **json.loads(settings.read_text("utf-8")),
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_prefix_space": True,
    }
    settings.write_text(json.dumps(known), "utf-8")
    return folder


def answers_of(program: str | Path, script: Path, code: str, folder: Path) -> list[list[dict[str, object]]]:
    script.write_text(code.format(texts=json.dumps(TEXTS, ensure_ascii=False)), "utf-8")
    ran = subprocess.run([program, script], cwd=folder, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    answers: list[list[dict[str, object]]] = json.loads(ran.stdout.splitlines()[-1])
    return answers


def assert_sigmoid_scores(answers: list[list[dict[str, object]]], folder: Path) -> None:
    logits, _ = heads.logits_of(folder / "student", TEXTS)
    wanted = heads.ranked(heads.SAFETY, logits, 1 / (1 + np.exp(-logits.astype(np.float64))))
    for answer, scores in zip(answers, wanted, strict=True):
        assert {entry["label"]: entry["score"] for entry in answer} == pytest.approx(scores, abs=1e-5)
        assert [entry["label"] for entry in answer] == [*scores]


def test_transformers_js_takes_the_sigmoid_of_a_sigmoid_head(folder, transformers_js):
    answers = answers_of(str(shutil.which("node")), transformers_js / "heads.mjs", JAVASCRIPT, folder)
    assert_sigmoid_scores(answers, folder)


def test_optimum_takes_the_sigmoid_of_a_sigmoid_head(folder, optimum_python, tmp_path):
    assert_sigmoid_scores(answers_of(optimum_python, tmp_path / "heads.py", PYTHON, folder), folder)


def test_other_runtimes_find_all_heads_side_by_side(bundle_folder, tmp_path):
    """``probabilities`` go by the order of the heads in the manifest."""
    heads.write_bundle(tmp_path / "student", heads.SIX, bundle_folder)
    manifest = json.loads((tmp_path / "student" / "amalgam.json").read_text("utf-8"))
    session = onnxruntime.InferenceSession(tmp_path / "student" / "onnx" / "model.onnx")
    ids = np.array([[2, 7, 8, 9, 3], [2, 30, 31, 32, 3]])
    logits, scores = session.run(["logits", "probabilities"], {"input_ids": ids, "attention_mask": np.ones_like(ids)})
    for k, head in enumerate(heads.SIX):
        first = sum(len(head["labels"]) for head in manifest["heads"][:k])
        columns = slice(first, first + len(manifest["heads"][k]["labels"]))
        wanted = heads.scores_of(head, logits[:, columns].astype(np.float64))
        np.testing.assert_allclose(scores[:, columns], wanted, atol=1e-6)
