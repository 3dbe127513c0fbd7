"""What a user could run the same student with instead: text in, label out.

Each peer runs the student as it was trained, exported and quantized the way its own documentation says, with the
student's tokenizer, texts of a batch padded to the longest. Nothing of ours is in them.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from amalgam_edge.errors import AmalgamError
from amalgam_edge.exporters.tracing.to_onnx import INPUT_NAMES, OUTPUT_NAME, LogitsModule, quiet_exporter
from amalgam_edge.inference.padding import pad_batch
from amalgam_edge.models.loading import load_saved
from amalgam_edge.runtime.bundle import TOKENIZER, TORCH_STUDENT, Bundle

# Token ids of a batch of texts, each ``(n_tokens,)``, to logits ``(n_texts, n_labels)``.
Run = Callable[[Sequence[Sequence[int]]], np.ndarray]


@dataclass(frozen=True)
class Student:
    """The student as it was trained, in a folder of its own.

    Attributes:
        model: in torch, on the CPU, in evaluation mode.
        folder: for what peers convert it to.
        pad_token_id: fills batches.
        threads: that peers compute with.
    """

    model: PreTrainedModel
    folder: Path
    pad_token_id: int
    threads: int

    def pad(self, ids: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
        """Token ids and attention mask, ``(n_texts, n_tokens)``."""
        return pad_batch(ids, self.pad_token_id)


def _torch(student: Student) -> Run:
    return _run_torch(student, student.model)


def _torch_int8(student: Student) -> Run:
    quantize: Any = torch.ao.quantization.quantize_dynamic
    return _run_torch(student, quantize(student.model, {torch.nn.Linear}, dtype=torch.qint8))


def _run_torch(student: Student, model: torch.nn.Module) -> Run:
    def run(ids: Sequence[Sequence[int]]) -> np.ndarray:
        input_ids, attention_mask = map(torch.from_numpy, student.pad(ids))
        with torch.inference_mode():
            logits: torch.Tensor = model(input_ids=input_ids, attention_mask=attention_mask).logits
        return logits.numpy()

    return run


def _onnxruntime(student: Student) -> Run:
    return _run_onnx(student, _plain_onnx(student))


def _onnxruntime_int8(student: Student) -> Run:
    return _run_onnx(student, _quantized_onnx(student))


def _run_onnx(student: Student, path: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = student.threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(ids: Sequence[Sequence[int]]) -> np.ndarray:
        input_ids, attention_mask = student.pad(ids)
        return session.run(["logits"], {"input_ids": input_ids, "attention_mask": attention_mask})[0]

    return run


def _openvino(student: Student) -> Run:
    return _run_openvino(student, _plain_onnx(student))


def _openvino_int8(student: Student) -> Run:
    return _run_openvino(student, _quantized_onnx(student))


def _run_openvino(student: Student, path: Path) -> Run:
    """In float32 and int8 alone: where the CPU has bfloat16 its default is that, and its answers are others."""
    # OpenVINO reports its import over the network, and goes on without where this package is not there.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    options = {
        "INFERENCE_NUM_THREADS": student.threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    compiled = openvino.Core().compile_model(path, "CPU", options)

    def run(ids: Sequence[Sequence[int]]) -> np.ndarray:
        return np.array(compiled(list(student.pad(ids)))["logits"])

    return run


def _ctranslate2(student: Student) -> Run:
    return _run_ctranslate2(student, "float32")


def _ctranslate2_int8(student: Student) -> Run:
    return _run_ctranslate2(student, "int8")


def _run_ctranslate2(student: Student, compute_type: str) -> Run:
    """It knows encoders alone; the head of a BERT is one product in numpy."""
    import ctranslate2
    from ctranslate2.converters import TransformersConverter

    head = getattr(student.model, "classifier", None)
    if not isinstance(head, torch.nn.Linear) or not hasattr(student.model.base_model, "pooler"):
        raise AmalgamError(f"ctranslate2 runs a {student.model.config.model_type} without its head only")
    weight, bias = (value.detach().numpy() for value in (head.weight, head.bias))
    encoder, converted = student.folder / "encoder", student.folder / f"ctranslate2-{compute_type}"
    if not encoder.exists():
        student.model.base_model.save_pretrained(encoder)
        (encoder / TOKENIZER).write_bytes((student.folder / TOKENIZER).read_bytes())
        (encoder / "tokenizer_config.json").write_bytes((student.folder / "tokenizer_config.json").read_bytes())
    TransformersConverter(str(encoder)).convert(str(converted), quantization=compute_type)
    runner = ctranslate2.Encoder(str(converted), device="cpu", inter_threads=1, intra_threads=student.threads)

    def run(ids: Sequence[Sequence[int]]) -> np.ndarray:
        pooled = np.array(runner.forward_batch([list(map(int, row)) for row in ids]).pooler_output)
        return pooled @ weight.T + bias

    return run


# name → (package, how to run a student with it)
PEERS: Mapping[str, tuple[str, Callable[[Student], Run]]] = MappingProxyType(
    {
        "torch": ("torch", _torch),
        "torch int8": ("torch", _torch_int8),
        "onnxruntime": ("onnxruntime", _onnxruntime),
        "onnxruntime int8": ("onnxruntime", _onnxruntime_int8),
        "openvino": ("openvino", _openvino),
        "openvino int8": ("openvino", _openvino_int8),
        "ctranslate2": ("ctranslate2", _ctranslate2),
        "ctranslate2 int8": ("ctranslate2", _ctranslate2_int8),
    }
)


def open_peer(name: str, student: Student) -> Run:
    """Convert the student for a peer and load it.

    Raises:
        AmalgamError: no such peer, its package is not installed, or it cannot run this student.
    """
    if name not in PEERS:
        raise AmalgamError(f"no peer '{name}'; there are {', '.join(PEERS)}")
    package, make = PEERS[name]
    try:
        return make(student)
    except ModuleNotFoundError as error:
        raise AmalgamError(f"{name} is not installed: pip install {package}") from error


@contextmanager
def trained_student(bundle: Bundle, threads: int) -> Iterator[Student]:
    """The bundle's student as it was trained, with a folder for conversions that is thrown away.

    Raises:
        AmalgamError: the bundle does not carry it.
    """
    if TORCH_STUDENT not in bundle.manifest.files:
        raise AmalgamError(f"{bundle.source}: holds no torch student to compare with; build it with --include-torch")
    with tempfile.TemporaryDirectory(prefix="amalgam-peers-") as folder:
        for name in (TORCH_STUDENT, "config.json", TOKENIZER, "tokenizer_config.json"):
            (Path(folder) / name).write_bytes(bundle.read(name).content)
        model, _ = load_saved(AutoModelForSequenceClassification, Path(folder))
        (Path(folder) / TORCH_STUDENT).unlink()
        yield Student(model.eval(), Path(folder), bundle.manifest.pad_token_id, threads)


def _plain_onnx(student: Student) -> Path:
    """The student by torch's own exporter."""
    path = student.folder / "model.onnx"
    if path.exists():
        return path
    ids = torch.tensor([[5, 6, 7, 8, 9], [5, 6, 7, 8, 9]])
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    dynamic: dict[int, Any] = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    with quiet_exporter(), torch.no_grad():
        torch.onnx.export(
            LogitsModule(student.model),
            (ids, mask),
            path,
            dynamo=True,
            input_names=list(INPUT_NAMES),
            output_names=[OUTPUT_NAME],
            dynamic_shapes=(dynamic, dynamic),
            external_data=False,
            verbose=False,
        )
    return path


def _quantized_onnx(student: Student) -> Path:
    """The same by ONNX Runtime's dynamic quantization, in the way that is right on CPUs without VNNI."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    path = student.folder / "model_quantized.onnx"
    if not path.exists():
        model = onnx.load(_plain_onnx(student))
        del model.graph.value_info[:]  # they contradict what the quantizer infers, and it would stop
        quantize_dynamic(model, path, per_channel=True, reduce_range=True, weight_type=QuantType.QInt8)
    return path
