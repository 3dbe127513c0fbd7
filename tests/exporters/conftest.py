"""Exports of tiny students, each made once a test session, whatever the number of workers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from filelock import FileLock
from onnx import TensorProto, helper, numpy_helper
from transformers import AutoModelForSequenceClassification

from amalgam_edge.exporters.onnx_export import export_student


@dataclass(frozen=True)
class Exported:
    """A tiny student in torch, and the ONNX file that was made of it."""

    model: Any
    path: Path
    tokenizer: Path
    difference: float


@pytest.fixture(scope="session")
def exports(tmp_path_factory, make_classifier):
    """``exports(architecture)`` → :class:`Exported`. Read only."""
    shared = tmp_path_factory.getbasetemp()
    if shared.name.startswith("popen-"):  # a worker of xdist: its parent folder is common to all
        shared = shared.parent
    made = {}

    def exported(architecture):
        if architecture in made:
            return made[architecture]
        folder = shared / "exports" / architecture
        folder.mkdir(parents=True, exist_ok=True)
        path, said = folder / "model.onnx", folder / "difference.txt"
        with FileLock(folder / "lock"):
            if not said.exists():
                make_classifier(folder / "torch", ["a", "b", "c"], architecture=architecture)
                said.write_text(repr(export_student(_load(folder), path)), "utf-8")
        made[architecture] = Exported(
            _load(folder), path, folder / "torch" / "tokenizer.json", float(said.read_text("utf-8"))
        )
        return made[architecture]

    return exported


def _load(folder: Path) -> Any:
    return AutoModelForSequenceClassification.from_pretrained(folder / "torch", attn_implementation="eager").eval()


@pytest.fixture
def toy(tmp_path, tokenizer):
    """``toy(outlier)`` → path of a bag of words under three products w1, w2, w3 without biases.

    With an outlier, w2 has one weight so large that a single scale for the matrix leaves the others no resolution;
    what it feeds is never read.
    """

    def make(outlier: float = 0.0, name: str = "model.onnx") -> Path:
        rng = np.random.default_rng(0)
        width, n_labels = 32, 4
        weights = {
            "table": rng.normal(size=(len(tokenizer), width)),
            "w1": rng.normal(size=(width, width)) * 2 / math.sqrt(width),
            "w2": rng.normal(size=(width, width)) * 2 / math.sqrt(width),
            "w3": rng.normal(size=(width, n_labels)) * 2 / math.sqrt(width),
        }
        if outlier:
            weights["w2"][5, 7] = outlier
            weights["w3"][7] = 0.0
        steps = [
            helper.make_node("Gather", ["table", "input_ids"], ["vectors"], "look_up"),
            helper.make_node("Cast", ["attention_mask"], ["cast"], "cast", to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["cast", "last"], ["mask"], "unsqueeze"),
            helper.make_node("Mul", ["vectors", "mask"], ["seen"], "mul"),
            helper.make_node("ReduceSum", ["seen", "words"], ["bag"], "sum", keepdims=0),
            helper.make_node("MatMul", ["bag", "w1"], ["p1"], "w1"),
            helper.make_node("Tanh", ["p1"], ["h1"], "tanh1"),
            helper.make_node("MatMul", ["h1", "w2"], ["p2"], "w2"),
            helper.make_node("Tanh", ["p2"], ["h2"], "tanh2"),
            helper.make_node("MatMul", ["h2", "w3"], ["logits"], "w3"),
        ]
        graph = helper.make_graph(
            steps,
            "toy",
            [helper.make_tensor_value_info(n, TensorProto.INT64, ["n", "t"]) for n in ("input_ids", "attention_mask")],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", n_labels])],
            [
                *(numpy_helper.from_array(value.astype(np.float32), key) for key, value in weights.items()),
                numpy_helper.from_array(np.array([-1]), "last"),
                numpy_helper.from_array(np.array([1]), "words"),
            ],
        )
        path = tmp_path / name
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
        return path

    return make
