"""Quantized static students: int8 where the bytes are, in the table of token vectors, and nowhere else."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedModel

from amalgam_edge.exporters.quantization.quantization import LADDER, Quantization, quantizable_products, quantize
from amalgam_edge.exporters.student_export import export_student


def tables_alone(source: Path) -> Quantization:
    """The way to quantize an ONNX model that leaves every product in float: a static student's head is a few rows."""
    return Quantization("int8 token vectors", float_nodes=tuple(quantizable_products(source)))


def ladder_of(source: Path, is_static: bool) -> tuple[Quantization, ...]:
    """Ways to quantize an ONNX model, the least careful first: a static student has one."""
    return (tables_alone(source),) if is_static else LADDER


def export_quantized(model: PreTrainedModel, path: Path) -> None:
    """Write a static student with an int8 table; the float one that it is made of does not stay.

    Raises:
        AmalgamError: the model cannot be exported, or the exported one answers differently.
    """
    whole = path.with_suffix(".float.onnx")
    try:
        export_student(model, whole)
        quantize(whole, path, tables_alone(whole))
    finally:
        whole.unlink(missing_ok=True)
