"""Students as ONNX, checked against torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from transformers import PreTrainedModel

from amalgam_edge.dropout.masks import DROPOUT_OFF
from amalgam_edge.errors import AmalgamError
from amalgam_edge.exporters.rewrites.first_token_attention import shorten_first_token_attention
from amalgam_edge.exporters.rewrites.head import add_probabilities, divide_logits
from amalgam_edge.exporters.tracing.comparison import TOLERANCE, in_float64, largest_difference
from amalgam_edge.exporters.tracing.tracing import INPUTS, OUTPUT, eager_attention, save, to_onnx
from amalgam_edge.inference.torch_runner import TorchRunner
from amalgam_edge.runtime.session import open_session


def export_student(model: PreTrainedModel, path: Path, temperature: float = 1.0) -> float:
    """Write the model as ONNX with dynamic batch and sequence, and compare it with torch.

    It answers with ``logits``, divided by the temperature, and with ``probabilities``, their softmax.

    The file holds no recorded shapes: those of the exporter contradict the ones that ONNX Runtime's quantizer infers.

    Args:
        model: a classifier in evaluation mode, on the CPU.
        path: of the .onnx file.
        temperature: what the logits are divided by.

    Returns:
        The largest difference of any logit from torch's in float64, over several shapes, padded and not, as a share of
        the largest logit, or of 1.

    Raises:
        AmalgamError: the model cannot be exported, or the exported one answers differently.
    """
    model.eval()
    with eager_attention(model):
        proto = to_onnx(model)
        del proto.graph.value_info[:]
        shorten_first_token_attention(proto.graph)
        divide_logits(proto.graph, temperature)
        add_probabilities(proto.graph)
        save(proto, path)
        difference = _difference(model, path, temperature)
    if not difference <= TOLERANCE:
        raise AmalgamError(
            f"{path}: the exported {model.config.model_type} differs from torch by {difference:.2g} of the largest "
            f"logit (allowed {TOLERANCE:g}); please report this architecture"
        )
    return difference


def _difference(model: PreTrainedModel, path: Path, temperature: float) -> float:
    session = open_session(path)
    original = TorchRunner(in_float64(model), sites=(), device="cpu")

    def exported(*inputs: np.ndarray) -> np.ndarray:
        return session.run([OUTPUT], dict(zip(INPUTS, inputs, strict=True)))[0]

    def expected(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return original.run(ids, mask, [DROPOUT_OFF])[0] / temperature

    return largest_difference(model, expected, exported)
