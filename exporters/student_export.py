"""Write a student as ONNX, and compare its logits with torch's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from transformers import PreTrainedModel

from amalgam_edge.dropout.masks import DROPOUT_OFF
from amalgam_edge.errors import AmalgamError
from amalgam_edge.exporters.rewrites.calibrated_outputs import add_probabilities, divide_logits
from amalgam_edge.exporters.rewrites.first_token_attention import shorten_first_token_attention
from amalgam_edge.exporters.tracing.comparison import TOLERANCE, in_float64, largest_difference
from amalgam_edge.exporters.tracing.to_onnx import INPUT_NAMES, OUTPUT_NAME, eager_attention, save_onnx, to_onnx
from amalgam_edge.heads import Heads
from amalgam_edge.inference.torch_runner import TorchRunner
from amalgam_edge.runtime.session import open_session


def export_student(
    model: PreTrainedModel, path: Path, temperatures: np.ndarray | float = 1.0, heads: Heads | None = None
) -> float:
    """Write a classifier as ONNX with any batch size and length, and compare it with torch.

    The outputs are ``logits``, divided by the temperatures, and ``probabilities``, of each head their softmax or their
    sigmoid. The file records no shapes, since those of the exporter contradict the ones that ONNX Runtime's quantizer
    infers.

    Args:
        model: A classifier in evaluation mode, on the CPU.
        path: The .onnx file to write.
        temperatures: The numbers that the logits are divided by, one for all or ``(n_labels,)``.
        heads: The heads that the model answers; None for one softmax head.

    Returns:
        The largest difference of any logit from torch's in float64, over several shapes, padded and not, as a share of
        the largest logit, or of 1 if that is larger.

    Raises:
        AmalgamError: The model cannot be exported, or the exported one answers differently.
    """
    model.eval()
    with eager_attention(model):
        proto = to_onnx(model)
        del proto.graph.value_info[:]
        shorten_first_token_attention(proto.graph)
        divide_logits(proto.graph, temperatures)
        add_probabilities(proto.graph, heads)
        save_onnx(proto, path)
        difference = _difference_from_torch(model, path, temperatures)
    if not difference <= TOLERANCE:
        raise AmalgamError(
            f"{path}: the exported {model.config.model_type} differs from torch by {difference:.2g} of the largest "
            f"logit (allowed {TOLERANCE:g}); please report this architecture"
        )
    return difference


def _difference_from_torch(model: PreTrainedModel, path: Path, temperatures: np.ndarray | float) -> float:
    session = open_session(path)
    torch_runner = TorchRunner(in_float64(model), sites=(), device="cpu")

    def run_exported(*inputs: np.ndarray) -> np.ndarray:
        return session.run([OUTPUT_NAME], dict(zip(INPUT_NAMES, inputs, strict=True)))[0]

    def run_torch(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return torch_runner.run(ids, mask, [DROPOUT_OFF])[0] / temperatures

    return largest_difference(model, run_torch, run_exported)
