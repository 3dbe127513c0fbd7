"""The table of precisions: every way in which a bundle stores a student's model, its file, and how it is made.

To add a precision, add a row to :data:`PRECISIONS` and its file to ``runtime.bundle.MODEL_FILES``, which the edge
reads without the training stack. A build with a budget then makes it, measures it and may pick it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from amalgam_edge.exporters.quantization.activations import Activations
from amalgam_edge.exporters.quantization.int8 import Int8Settings, quantize_to_int8
from amalgam_edge.exporters.quantization.weight_only import write_fp16, write_q4, write_w8

# Writes a precision's file, and returns in words how it was made, for the manifest. Arguments: the float model, the
# file to write, and the settings and activations of the int8 model that the quality gate accepted.
Writer = Callable[[Path, Path, Int8Settings, Activations], str]


@dataclass(frozen=True)
class Precision:
    """One way to store a student's model.

    Attributes:
        file_suffix: What follows ``onnx/model`` in the file's name, before ``.onnx``.
        write: Makes the file when a budget asks for more precisions; None for the two that every build makes: fp32,
            which ``student_export`` writes, and int8, which ``selection.gate`` makes as carefully as is needed.
    """

    file_suffix: str
    write: Writer | None = None


def _write_int8_with_product_quantized_tables(
    source: Path, target: Path, int8: Int8Settings, activations: Activations
) -> str:
    settings = replace(int8, name=f"{int8.name}, tokens by product quantization", product_quantized_tables=True)
    quantize_to_int8(source, target, settings, activations)
    return settings.name


def _without_calibration(description: str, write: Callable[[Path, Path], None]) -> Writer:
    """The writer of a precision that needs nothing but the float model."""

    def write_and_describe(source: Path, target: Path, int8: Int8Settings, activations: Activations) -> str:
        write(source, target)
        return description

    return write_and_describe


PRECISIONS: Mapping[str, Precision] = MappingProxyType(
    {
        "fp32": Precision(""),
        "int8": Precision("_quantized"),
        "fp16": Precision("_fp16", _without_calibration("half floats", write_fp16)),
        "w8": Precision("_w8", _without_calibration("8-bit weights by blocks of 32", write_w8)),
        "q4": Precision("_q4", _without_calibration("4-bit weights by blocks of 32", write_q4)),
        "int8-pq": Precision("_int8_pq", _write_int8_with_product_quantized_tables),
    }
)
