"""Quantized static students: int8 in the table of token vectors, where nearly all their bytes are, and nowhere else."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedModel

from amalgam_edge.exporters.quantization.int8 import (
    INT8_LADDER,
    Int8Settings,
    quantizable_products,
    quantize_to_int8,
)
from amalgam_edge.exporters.student_export import export_student
from amalgam_edge.heads import Heads


def int8_tables_only(source: Path) -> Int8Settings:
    """Settings that quantize the embedding tables of an ONNX model and leave every product in float.

    They are for static students, whose only product is with a head of a few rows.
    """
    return Int8Settings("int8 token vectors", float_nodes=tuple(quantizable_products(source)))


def int8_ladder(source: Path, is_static: bool) -> tuple[Int8Settings, ...]:
    """The settings that the quality gate tries on an ONNX model, the least careful first.

    Args:
        source: The file of the float model.
        is_static: Whether it is a static student, for which there is only one way.
    """
    return (int8_tables_only(source),) if is_static else INT8_LADDER


def export_int8_static_student(model: PreTrainedModel, path: Path, heads: Heads) -> None:
    """Write a static student with an int8 table; the float file that it is made from is deleted.

    Raises:
        AmalgamError: The model cannot be exported, or the exported one answers differently.
    """
    float_file = path.with_suffix(".float.onnx")
    try:
        export_student(model, float_file, heads=heads)
        quantize_to_int8(float_file, path, int8_tables_only(float_file))
    finally:
        float_file.unlink(missing_ok=True)
