"""ONNX files of tiny students and teachers, each exported once a test session, whatever the number of workers."""

from __future__ import annotations

import copy
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

from amalgam_edge.dropout.masks import Masks
from amalgam_edge.exporters import teacher_export
from amalgam_edge.exporters.student_export import export_student
from amalgam_edge.exporters.teacher_export import export_teacher
from amalgam_edge.inference.torch_runner import TorchRunner
from amalgam_edge.models.teacher import Teacher, load_teacher
from tests.support.translations import translations_read_once  # noqa: F401  (a fixture)


@dataclass(frozen=True)
class Exported:
    """A tiny student in torch, its ONNX file, and the difference that exporting it returned."""

    model: Any
    path: Path
    tokenizer: Path
    difference: float


@dataclass(frozen=True)
class ExportedTeacher:
    """A tiny teacher in torch, its ONNX file, and the difference that exporting it returned."""

    teacher: Teacher
    path: Path
    passes: int
    masks: Masks
    difference: float

    def in_torch(self, seed: int = 0, *, double: bool = False) -> TorchRunner:
        """The teacher in torch, on request in float64, where its logits are free of float32's rounding."""
        model = copy.deepcopy(self.teacher.model).double() if double else self.teacher.model
        return TorchRunner(model, self.teacher.sites, seed=seed, passes=self.passes, masks=self.masks, device="cpu")


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """A folder that all workers of xdist share."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if folder.name.startswith("popen-") else folder


@pytest.fixture(scope="session")
def teachers(shared, make_classifier):
    """``teachers(architecture, passes=…, masks=…, **config)`` → :class:`ExportedTeacher`. Read only.

    Teachers that differ in passes, masks and rates of dropout alone are traced once: their weights are the same.
    """
    known = {}

    def exported(architecture, *, passes=16, masks="systematic", **config):
        name = "-".join([architecture, *(f"{key}={value}" for key, value in config.items())])
        key = (name, passes, masks)
        if key in known:
            return known[key]
        folder = shared / "teachers" / name
        folder.mkdir(parents=True, exist_ok=True)
        path, difference_file = (folder / f"{passes}-{masks}{end}" for end in (".onnx", ".txt"))
        with FileLock(folder / "lock"):
            if not (folder / "torch").exists():
                make_classifier(folder / "torch", ["a", "b", "c"], architecture=architecture, **config)
            teacher = load_teacher(architecture, str(folder / "torch"))
            if not difference_file.exists():
                rates = {key: value > 0 if "drop" in key else value for key, value in config.items()}
                live = "-".join(
                    [architecture, *(f"{key}={value}" for key, value in rates.items() if value is not True)]
                )
                difference = _export_traced_once(teacher, shared / "traced" / live, path, passes, masks)
                difference_file.write_text(repr(difference), "utf-8")
        difference = float(difference_file.read_text("utf-8"))
        known[key] = ExportedTeacher(teacher, path, passes, masks, difference)
        return known[key]

    return exported


def _export_traced_once(teacher: Teacher, folder: Path, path: Path, passes: int, masks: Masks) -> float:
    trace, marked = teacher_export.to_onnx, folder / "marked.onnx"
    folder.mkdir(parents=True, exist_ok=True)

    def traced(*args: Any) -> onnx.ModelProto:
        with FileLock(folder / "lock"):
            if not marked.exists():
                onnx.save(trace(*args), marked)
        return onnx.load(marked)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(teacher_export, "to_onnx", traced)
        return export_teacher(teacher, path, passes=passes, masks=masks)


@pytest.fixture(scope="session")
def exports(shared, make_classifier):
    """``exports(architecture)`` → :class:`Exported`. Read only."""
    known = {}

    def exported(architecture):
        if architecture in known:
            return known[architecture]
        folder = shared / "exports" / architecture
        folder.mkdir(parents=True, exist_ok=True)
        path, difference_file = folder / "model.onnx", folder / "difference.txt"
        with FileLock(folder / "lock"):
            if not difference_file.exists():
                make_classifier(folder / "torch", ["a", "b", "c"], architecture=architecture)
                difference_file.write_text(repr(export_student(_load(folder), path)), "utf-8")
        difference = float(difference_file.read_text("utf-8"))
        known[architecture] = Exported(_load(folder), path, folder / "torch" / "tokenizer.json", difference)
        return known[architecture]

    return exported


def _load(folder: Path) -> Any:
    return AutoModelForSequenceClassification.from_pretrained(folder / "torch", attn_implementation="eager").eval()


@pytest.fixture
def toy(tmp_path, tokenizer):
    """``toy(outlier)`` → the path of a bag of words under three products w1, w2, w3 without biases.

    With an outlier, w2 has a row so large that no other weight keeps any resolution; the row is multiplied by zeros.
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
            weights["w2"][5] = outlier
            weights["w1"][:, 5] = 0.0
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
