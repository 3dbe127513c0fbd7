"""Teachers as ONNX with live dropout, compared with torch pass by pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnxruntime.transformers.float16 import convert_float_to_float16

from amalgam_edge.dropout import training_mode, unbatched_sites
from amalgam_edge.errors import AmalgamError
from amalgam_edge.exporters.live_dropout import place_live_dropout
from amalgam_edge.exporters.tracing import PROBES, TOLERANCE, probe_inputs, save, to_onnx
from amalgam_edge.masks import DROPOUT_OFF, Masks
from amalgam_edge.models.teacher import Teacher
from amalgam_edge.scoring.onnx_runner import OnnxRunner
from amalgam_edge.scoring.torch_runner import TorchRunner

_PROBE_SEED = 7
_PROBE_PASSES = (DROPOUT_OFF, 0, 23)


def export_teacher(
    teacher: Teacher, path: Path, *, passes: int, masks: Masks = "systematic", half: bool = False
) -> float:
    """Write a teacher as one ONNX model of ``input_ids``, ``attention_mask``, ``mc_pass`` and ``mc_seed``.

    ``mc_pass`` from 0 up answers under that pass' dropout masks, -1 without dropout, in any runtime, since the masks
    are plain arithmetic (:mod:`amalgam_edge.exporters.live_dropout`).

    Args:
        teacher: on the CPU.
        path: of the .onnx file.
        passes: K, the length of a round, over which systematic masks are balanced.
        masks: ``systematic`` or ``independent``.
        half: compute in float16; inputs and outputs stay as they are.

    Returns:
        The largest difference of any logit from torch's, in float32 over several shapes and passes, dropout off
        among them.

    Raises:
        AmalgamError: the teacher cannot be exported, or the exported one answers differently.
    """
    with training_mode(teacher.model):
        proto = to_onnx(teacher.model, unbatched_sites(teacher.sites))
    place_live_dropout(proto, {site.number: site.p for site in teacher.sites}, passes, masks)
    del proto.graph.value_info[:]
    save(proto, path)
    difference = _largest_difference(teacher, path, passes, masks)
    if not difference <= TOLERANCE:
        raise AmalgamError(
            f"teacher '{teacher.name}': the exported {teacher.model.config.model_type} differs from torch by "
            f"{difference:.2g} (allowed {TOLERANCE:g}); score with --backend torch, and please report this architecture"
        )
    if half:
        save(convert_float_to_float16(onnx.load(path), keep_io_types=True), path)
    return difference


def _largest_difference(teacher: Teacher, path: Path, passes: int, masks: Masks) -> float:
    exported = OnnxRunner(path, seed=_PROBE_SEED)
    original = TorchRunner(teacher.model, teacher.sites, seed=_PROBE_SEED, passes=passes, masks=masks, device="cpu")
    differences = []
    for probe in PROBES:
        input_ids, attention_mask = (tensor.numpy() for tensor in probe_inputs(teacher.model, *probe))
        answers = (runner.run(input_ids, attention_mask, _PROBE_PASSES) for runner in (exported, original))
        differences.append(np.abs(np.subtract(*answers)).max())
    return float(np.max(differences))
