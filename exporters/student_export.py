"""Students as ONNX, checked against torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from amalgam_edge.errors import AmalgamError
from amalgam_edge.exporters.tracing import (
    INPUTS,
    OUTPUT,
    PROBES,
    TOLERANCE,
    eager_attention,
    probe_inputs,
    save,
    to_onnx,
)
from amalgam_edge.runtime.session import open_session


def export_student(model: PreTrainedModel, path: Path) -> float:
    """Write the model as ONNX with dynamic batch and sequence, and compare it with torch.

    The file holds no recorded shapes: those of the exporter contradict the ones that ONNX Runtime's quantizer infers.

    Args:
        model: a classifier in evaluation mode, on the CPU.
        path: of the .onnx file.

    Returns:
        The largest difference of any logit from torch's, over several shapes, padded and not.

    Raises:
        AmalgamError: the model cannot be exported, or the exported one answers differently.
    """
    model.eval()
    with eager_attention(model):
        proto = to_onnx(model)
        del proto.graph.value_info[:]
        save(proto, path)
        difference = _largest_difference(model, path)
    if not difference <= TOLERANCE:
        raise AmalgamError(
            f"{path}: the exported {model.config.model_type} differs from torch by {difference:.2g} "
            f"(allowed {TOLERANCE:g}); please report this architecture"
        )
    return difference


def _largest_difference(model: PreTrainedModel, path: Path) -> float:
    session = open_session(path)
    differences = []
    for probe in PROBES:
        inputs = dict(zip(INPUTS, probe_inputs(model, *probe), strict=True))
        with torch.inference_mode():
            expected = model(**inputs).logits.numpy()
        answered = session.run([OUTPUT], {name: tensor.numpy() for name, tensor in inputs.items()})
        differences.append(np.abs(answered[0] - expected).max())
    return float(np.max(differences))
