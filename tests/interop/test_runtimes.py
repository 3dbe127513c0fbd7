"""The blocks of docs/interop.md, run as they stand there: each runtime names the labels that ours does."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from tokenizers import Tokenizer

from amalgam_edge.runtime import Bundle, EdgeClassifier, Prediction

PAGE = Path(__file__).parents[2] / "docs" / "interop.md"
SHOWN = ["a puzzle game about falling blocks", "typefaces for old manuscripts"]
ODD = [
    "Ein Spiel über Züge und Brücken",
    "猫の写真を整理する",
    "x",
    "📬 🎮",
    "mail server " * 200,
    "[SEP] [MASK]",
    "é" * 90,
]
FILES = {"fp32": ("model.onnx", "fp32"), "int8": ("model_quantized.onnx", "q8")}


def block(heading: str) -> str:
    """The code under a heading of the page."""
    section = PAGE.read_text("utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    (code,) = re.findall(r"```(?:python|js)\n(.*?)```", section, re.DOTALL)
    return code


def adapted(code: str, precision: str, texts: list[str]) -> str:
    """The same code over other texts, with another of the bundle's models."""
    shown = f"texts = {json.dumps(SHOWN)}"
    assert code.count(shown) == 1
    file, dtype = FILES[precision]
    models = re.compile(r'model_quantized\.onnx|(?<=dtype: ")q8')
    assert len(models.findall(code)) == 1
    code = models.sub(lambda found: dtype if found[0] == "q8" else file, code)
    return code.replace(shown, f"texts = {json.dumps(texts, ensure_ascii=False)}")


@pytest.fixture(scope="session")
def texts(real) -> list[str]:
    labelled = [json.loads(line)["text"] for line in real.labelled.read_text("utf-8").splitlines()]
    return [*SHOWN, *labelled[::20], *ODD]


@pytest.fixture(scope="session")
def asked(real, texts):
    """Run a block over both models, beside the bundle: (label, score) of each text by each precision."""

    def asked(heading: str, program: str | Path, script: Path) -> dict[str, list[tuple[str, float]]]:
        blocks = [adapted(block(heading), precision, texts) for precision in FILES]
        scripts = blocks if script.suffix == ".mjs" else ["\n".join(blocks)]  # which of JavaScript would name twice
        lines = [line for content in scripts for line in run(program, script, content)]
        assert len(lines) == len(FILES) * len(texts)
        answers = [(label, float(score)) for label, score in (line.split("\t") for line in lines)]
        return {"fp32": answers[: len(texts)], "int8": answers[len(texts) :]}

    def run(program: str | Path, script: Path, content: str) -> list[str]:
        script.write_text(content, "utf-8")
        finished = subprocess.run([program, script], cwd=real.folder, capture_output=True, text=True, check=False)
        assert finished.returncode == 0, finished.stderr
        return finished.stdout.splitlines()

    return asked


@pytest.fixture(scope="session")
def ours(real, texts) -> dict[str, list[Prediction]]:
    """Our answers, a text at a time."""
    return {
        precision: EdgeClassifier.from_pretrained(real.bundle, precision=precision)(texts, batch_size=1)
        for precision in FILES
    }


def assert_same(
    answers: dict[str, list[tuple[str, float]]], ours: dict[str, list[Prediction]], **within: float
) -> None:
    for precision, own in ours.items():
        exact = [answer.score for answer in own]
        labels, scores = zip(*answers[precision], strict=True)
        assert labels == tuple(answer.label for answer in own), precision
        assert scores == pytest.approx(exact, abs=within.get(precision, 1e-3)), precision


def test_onnxruntime(asked, ours, tmp_path):
    assert_same(asked("onnxruntime", sys.executable, tmp_path / "block.py"), ours)


def test_onnxruntime_takes_fifteen_lines():
    assert len([line for line in block("onnxruntime").splitlines() if line]) <= 15


def test_openvino(asked, ours, tmp_path):
    if find_spec("openvino") is None:
        pytest.skip("openvino is not installed: pip install openvino")
    answers = asked("OpenVINO", sys.executable, tmp_path / "block.py")
    assert_same(answers, ours, int8=error_of_int8(ours))
    assert np.mean(apart([score for _, score in answers["int8"]], ours["int8"]) < 1e-5) > 0.5


def error_of_int8(ours: dict[str, list[Prediction]]) -> float:
    """How far int8 is from float at most, over all texts.

    A runtime that sums in another order differs by an ulp. Where an activation is that near to half a step of int8, it
    is rounded to the other side, and all that follows it may be: another answer of the same precision.
    """
    return float(apart([answer.score for answer in ours["fp32"]], ours["int8"]).max())


def apart(scores: list[float], own: list[Prediction]) -> np.ndarray:
    return np.abs(np.array(scores) - [answer.score for answer in own])


def test_optimum(asked, ours, optimum_python, tmp_path):
    assert_same(asked("Optimum", optimum_python, tmp_path / "block.py"), ours)


def test_transformers_js(asked, ours, real, texts, transformers_js):
    """It cuts long texts together with their closing token, as the page says, so theirs are worked out that way."""
    answers = asked("transformers.js", shutil.which("node"), transformers_js / "block.mjs")
    expected = {
        precision: [
            without_closing_token(real.bundle, precision, text) if answer.truncated else answer
            for answer, text in zip(own, texts, strict=True)
        ]
        for precision, own in ours.items()
    }
    assert expected != ours
    assert_same(answers, expected)


def without_closing_token(folder: Path, precision: str, text: str) -> Prediction:
    """The answer to the first tokens of a text, the closing one not among them."""
    bundle = Bundle.open(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    ids = np.array([tokenizer.encode(text).ids[: bundle.manifest.max_length]])
    session = onnxruntime.InferenceSession(folder / "onnx" / FILES[precision][0])
    (scores,) = session.run(["probabilities"], {"input_ids": ids, "attention_mask": np.ones_like(ids)})
    return Prediction(bundle.labels[scores.argmax()], float(scores.max()), truncated=True)
