"""Mark the dropouts of a teacher while it is traced: each becomes one operation that tracing keeps.

The operation is foreign to ONNX; :mod:`amalgam_edge.exporters.tracing.live_dropout` replaces it by arithmetic.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from onnx.defs import OpSchema
from onnxscript import values

from amalgam_edge.dropout.sites import DropoutInterceptor

DOMAIN = "amalgam_edge"  # of the marks' ONNX nodes

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
    """Mark where dropout will be applied; the values do not change.

    Args:
        tensor: The values that the dropout site reads.
        site: The number of the site.
        batched: Whether the first axis is the batch.
    """
    return tensor.clone()


@mark.register_fake
def _(tensor: torch.Tensor, site: int, batched: bool) -> torch.Tensor:
    return torch.empty_like(tensor)


MARK = torch.ops.amalgam_edge.mark.default


class MarkDropout(DropoutInterceptor):
    """While entered, leaves a mark in place of each dropout.

    Args:
        unbatched: The numbers of the dropout sites whose first axis is not the batch.
    """

    def __init__(self, unbatched: Collection[int]) -> None:
        super().__init__()
        self._unbatched = frozenset(unbatched)

    def drop(self, site: int, p: float, values: torch.Tensor) -> torch.Tensor:
        """Mark the values of a site."""
        return MARK(values, site, site not in self._unbatched)


def mark_to_onnx(tensor: Any, site: int, batched: bool) -> Any:
    """Translate a mark to an ONNX node in the project's own domain."""
    return _ONNX_MARK(tensor, site=site, batched=int(batched))
