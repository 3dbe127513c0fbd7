"""A tiny bundle as a build would ship it, and the torch model that it was made of."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from filelock import FileLock
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from amalgam_edge.exporters.bundle_writer import write_manifest
from amalgam_edge.exporters.quantization import LADDER, quantize
from amalgam_edge.exporters.student_export import export_student

LABELS = ("games", "science", "net", "Straße & 猫")
MAX_LENGTH = 40


@pytest.fixture(scope="session")
def torch_folder(tmp_path_factory, make_classifier):
    """The student in torch. Read only."""
    return make_classifier(tmp_path_factory.mktemp("student"), list(LABELS), architecture="bert", seed=7)


@pytest.fixture(scope="session")
def torch_model(torch_folder):
    """The student in torch, in evaluation mode."""
    return AutoModelForSequenceClassification.from_pretrained(torch_folder).eval()


@pytest.fixture(scope="session")
def bundle_folder(tmp_path_factory, torch_folder, torch_model):
    """A bundle with both precisions, made once a test session. Read only."""
    shared = tmp_path_factory.getbasetemp()
    if shared.name.startswith("popen-"):  # a worker of xdist: its parent folder is common to all
        shared = shared.parent
    folder = shared / "bundle"
    with FileLock(shared / "bundle.lock"):
        if not (folder / "amalgam.json").exists():
            _write(folder, torch_folder, torch_model)
    return folder


def _write(folder: Path, torch_folder: Path, model: object) -> None:
    tokenizer = AutoTokenizer.from_pretrained(torch_folder)
    tokenizer.model_max_length = MAX_LENGTH
    tokenizer.save_pretrained(folder)
    model.config.save_pretrained(folder)
    export_student(model, folder / "onnx" / "model.onnx")
    quantize(folder / "onnx" / "model.onnx", folder / "onnx" / "model_quantized.onnx", LADDER[0])
    write_manifest(
        folder,
        {
            "labels": [{"name": label, "sources": []} for label in LABELS],
            "precisions": {
                "fp32": {"file": "onnx/model.onnx"},
                "int8": {"file": "onnx/model_quantized.onnx"},
            },
            "default_precision": "int8",
            "max_length": MAX_LENGTH,
            "pad_token_id": tokenizer.pad_token_id,
        },
    )


@pytest.fixture
def copied(tmp_path, bundle_folder):
    """A copy of the bundle that a test may damage."""
    return shutil.copytree(bundle_folder, tmp_path / "copy")


@pytest.fixture
def flip():
    """``flip(path)`` turns one bit in the middle of a file."""

    def flip(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)

    return flip
