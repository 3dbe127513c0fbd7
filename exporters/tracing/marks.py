"""Marks in place of dropouts while a teacher is traced: one operation each, which tracing keeps and ONNX lacks."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from onnx.defs import OpSchema
from onnxscript import values

from amalgam_edge.dropout.sites import DropoutInterceptor

DOMAIN = "amalgam_edge"

_SCHEMA = OpSchema(
    "Mark",
    DOMAIN,
    1,
    type_constraints=[("T", ["tensor(float)"], "")],
    inputs=[OpSchema.FormalParameter("X", "T")],
    outputs=[OpSchema.FormalParameter("Y", "T")],
    attributes=[
        OpSchema.Attribute("site", OpSchema.AttrType.INT),
        OpSchema.Attribute("batched", OpSchema.AttrType.INT),
    ],
)
_ONNX_MARK = values.Op(values.Opset(DOMAIN, 1), _SCHEMA.name, _SCHEMA)


@torch.library.custom_op("amalgam_edge::mark", mutates_args=())
def mark(tensor: torch.Tensor, site: int, batched: bool) -> torch.Tensor:
    """A dropout to be; until then it changes nothing."""
    return tensor.clone()


@mark.register_fake
def _(tensor: torch.Tensor, site: int, batched: bool) -> torch.Tensor:
    return torch.empty_like(tensor)


MARK = torch.ops.amalgam_edge.mark.default


class MarkDropout(DropoutInterceptor):
    """Leaves a mark in place of each dropout.

    Args:
        unbatched: numbers of the sites whose first axis is not the batch.
    """

    def __init__(self, unbatched: Collection[int]) -> None:
        super().__init__()
        self._unbatched = frozenset(unbatched)

    def drop(self, site: int, p: float, values: torch.Tensor) -> torch.Tensor:
        """Mark the values."""
        return MARK(values, site, site not in self._unbatched)


def translate(tensor: Any, site: int, batched: bool) -> Any:
    """A mark as an ONNX node of a domain of its own."""
    return _ONNX_MARK(tensor, site=site, batched=int(batched))
