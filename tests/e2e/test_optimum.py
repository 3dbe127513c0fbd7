"""A bundle in Optimum's ONNX Runtime classes, which need an older transformers and so an environment of their own."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from pathlib import Path

import pytest

TEXTS = ["a puzzle game about falling blocks", "typefaces for old manuscripts"]

ASK = """
import json, sys
from optimum.onnxruntime import ORTModelForSequenceClassification
from transformers import AutoTokenizer, pipeline
bundle, texts = sys.argv[1], sys.argv[2:]
model = ORTModelForSequenceClassification.from_pretrained(bundle, subfolder="onnx", file_name="model.onnx")
ask = pipeline("text-classification", model=model, tokenizer=AutoTokenizer.from_pretrained(bundle))
print(json.dumps(ask(texts)))
"""


def test_optimum_gives_the_same_answers(real, tmp_path):
    import torch

    from amalgam_edge import EdgeClassifier

    venv.create(tmp_path / "optimum", with_pip=True)
    python = tmp_path / "optimum" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    same_torch = f"torch=={torch.__version__.split('+')[0]}"  # another would bring CUDA along
    install = [python, "-m", "pip", "install", "--quiet", same_torch, "optimum-onnx[onnxruntime]"]
    installed = subprocess.run(install, capture_output=True, text=True, check=False)
    if installed.returncode != 0:
        pytest.skip(f"optimum-onnx cannot be installed here: {installed.stderr.strip().splitlines()[-1]}")
    asked = subprocess.run(
        [python, "-c", ASK, str(Path(real.bundle)), *TEXTS], capture_output=True, text=True, check=True
    )
    answers = json.loads(asked.stdout.splitlines()[-1])
    own = EdgeClassifier.from_pretrained(real.bundle, precision="fp32")(TEXTS)
    assert [answer["label"] for answer in answers] == [answer.label for answer in own]
    assert [answer["score"] for answer in answers] == pytest.approx([answer.score for answer in own], abs=1e-4)
