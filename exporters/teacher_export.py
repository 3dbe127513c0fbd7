"""Write a teacher as ONNX with live dropout, and compare its logits with torch's, pass by pass."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnxruntime.transformers.float16 import convert_float_to_float16

from amalgam_edge.dropout.masks import DROPOUT_OFF, Masks
from amalgam_edge.dropout.sites import training_mode, unbatched_sites
from amalgam_edge.errors import AmalgamError
from amalgam_edge.exporters.tracing.comparison import TOLERANCE, in_float64, largest_difference
from amalgam_edge.exporters.tracing.live_dropout import place_live_dropout
from amalgam_edge.exporters.tracing.to_onnx import save_onnx, to_onnx
from amalgam_edge.inference.onnx_runner import OnnxRunner
from amalgam_edge.inference.torch_runner import TorchRunner
from amalgam_edge.models.teacher import Teacher

FLOAT16_TOLERANCE = 0.05  # like TOLERANCE; float16 keeps 11 bits, and the errors of the layers add up

_PROBE_SEED = 7
_PROBE_PASSES = (DROPOUT_OFF, 0, 23)


def export_teacher(
    teacher: Teacher, path: Path, *, passes: int, masks: Masks = "systematic", half: bool = False
) -> float:
    """Write a teacher as one ONNX model of ``input_ids``, ``attention_mask``, ``mc_pass`` and ``mc_seed``.

    An ``mc_pass`` of 0 or more applies that pass's dropout masks, and -1 turns dropout off. This holds in any runtime,
    since the masks are plain arithmetic (:mod:`amalgam_edge.exporters.tracing.live_dropout`).

    Args:
        teacher: A teacher on the CPU.
        path: The .onnx file to write.
        passes: K, the length of a round, over which systematic masks are balanced.
        masks: ``systematic`` or ``independent``.
        half: Whether to compute in float16; inputs and outputs keep their types.

    Returns:
        The largest difference of any logit from torch's in float64, over several shapes and passes, one of them
        without dropout, as a share of the largest logit, or of 1 if that is larger.

    Raises:
        AmalgamError: The teacher cannot be exported, or the exported one answers differently.
    """
    with training_mode(teacher.model):
        proto = to_onnx(teacher.model, unbatched_sites(teacher.sites))
    place_live_dropout(proto, {site.number: site.p for site in teacher.sites}, passes, masks)
    del proto.graph.value_info[:]
    save_onnx(proto, path)
    difference = _require_same_answers(teacher, path, passes, masks, half=False)
    if half:
        save_onnx(convert_float_to_float16(onnx.load(path), keep_io_types=True), path)
        difference = _require_same_answers(teacher, path, passes, masks, half=True)
    return difference


def _require_same_answers(teacher: Teacher, path: Path, passes: int, masks: Masks, *, half: bool) -> float:
    """The largest difference from torch; raises AmalgamError if it is too large."""
    tolerance = FLOAT16_TOLERANCE if half else TOLERANCE
    exported = OnnxRunner(path, seed=_PROBE_SEED)
    original = TorchRunner(
        in_float64(teacher.model), teacher.sites, seed=_PROBE_SEED, passes=passes, masks=masks, device="cpu"
    )
    difference = largest_difference(
        teacher.model,
        lambda ids, mask: original.run(ids, mask, _PROBE_PASSES),
        lambda ids, mask: exported.run(ids, mask, _PROBE_PASSES),
    )
    if not difference <= tolerance:
        remedy = "use --precision fp32" if half else "score with --backend torch, and please report this architecture"
        raise AmalgamError(
            f"teacher '{teacher.name}': the exported {teacher.model.config.model_type} differs from torch by "
            f"{difference:.2g} of the largest logit (allowed {tolerance:g}); {remedy}"
        )
    return difference
