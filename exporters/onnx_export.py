"""torch → ONNX for students, checked against torch."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import torch
from transformers import PreTrainedModel

from amalgam_edge.errors import AmalgamError, first_line
from amalgam_edge.runtime.session import open_session

OPSET = 18
TOLERANCE = 1e-4
INPUTS = ("input_ids", "attention_mask")

# (texts, tokens, padding of the first text): one text, a token alone, padded and not, short and long.
_SHAPES = ((1, 1, 0), (1, 16, 0), (2, 5, 3), (3, 9, 4), (4, 33, 20))


class _Logits(torch.nn.Module):
    """A classifier seen as a function of two tensors."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=input_ids, attention_mask=attention_mask).logits


def export_student(model: PreTrainedModel, path: Path) -> float:
    """Write the model as ONNX with dynamic batch and sequence, and compare it with torch.

    The file holds weights and graph alone: no source lines, no folder names, and no recorded shapes (those of the
    exporter contradict the ones that ONNX Runtime's quantizer infers).

    Args:
        model: a classifier in evaluation mode, on the CPU.
        path: of the .onnx file.

    Returns:
        The largest difference of any logit from torch's, over several shapes, padded and not.

    Raises:
        AmalgamError: the model cannot be exported, or the exported one answers differently.
    """
    model.eval()
    implementation = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        proto = _export(model)
        _strip(proto)
        path.parent.mkdir(parents=True, exist_ok=True)
        onnx.save(proto, path)
        difference = _largest_difference(model, path)
    finally:
        model.set_attn_implementation(implementation)
    if not difference <= TOLERANCE:
        raise AmalgamError(
            f"{path}: the exported {model.config.model_type} differs from torch by {difference:.2g} "
            f"(allowed {TOLERANCE:g}); please report this architecture"
        )
    return difference


def _export(model: PreTrainedModel) -> onnx.ModelProto:
    input_ids, attention_mask = _example(model, 2, 12, 5)
    dynamic = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    try:
        with _quiet():
            program = torch.onnx.export(
                _Logits(model),
                (input_ids, attention_mask),
                dynamo=True,
                opset_version=OPSET,
                input_names=list(INPUTS),
                output_names=["logits"],
                dynamic_shapes=dict.fromkeys(INPUTS, dynamic),
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise AmalgamError(f"a {model.config.model_type} student cannot be exported ({first_line(error)})") from error
    assert program is not None  # noqa: S101  (None only without dynamo)
    return program.model_proto


def _strip(proto: onnx.ModelProto) -> None:
    graph = proto.graph
    del graph.value_info[:]
    for holder in (proto, graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        del holder.metadata_props[:]
    for node in graph.node:
        node.ClearField("doc_string")


def _largest_difference(model: PreTrainedModel, path: Path) -> float:
    session = open_session(path)
    differences = []
    for shape in _SHAPES:
        input_ids, attention_mask = _example(model, *shape)
        with torch.inference_mode():
            expected = model(input_ids=input_ids, attention_mask=attention_mask).logits.numpy()
        answered = session.run(["logits"], {"input_ids": input_ids.numpy(), "attention_mask": attention_mask.numpy()})
        differences.append(np.abs(answered[0] - expected).max())
    return float(np.max(differences))


def _example(model: PreTrainedModel, texts: int, tokens: int, padding: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids spread over the vocabulary, the first text padded at its end."""
    pad = model.config.pad_token_id or 0
    vocabulary = int(model.config.vocab_size)
    ids = (torch.arange(texts * tokens).reshape(texts, tokens) * 7919 + 11) % vocabulary
    ids[ids == pad] = (pad + 1) % vocabulary
    mask = torch.ones_like(ids)
    if padding:
        ids[0, -padding:] = pad
        mask[0, -padding:] = 0
    return ids, mask


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's remarks on its own internals from users."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
