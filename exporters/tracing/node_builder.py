"""Append ONNX nodes and constants one by one, with generated names; equal ones are stored once where that is asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

_PREFIX = "live_dropout"  # of the generated names


class NodeBuilder:
    """Nodes and constants, in the order in which they were added.

    Attributes:
        nodes: The nodes so far; others may be appended in between.
        constants: The constants that the added nodes read.
    """

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self._known: dict[tuple[Any, ...], str] = {}

    def add(self, op_type: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Append a node with one output.

        Args:
            op_type: The ONNX operator.
            inputs: The names of its inputs.
            output: The name of its output; generated if empty.
            attributes: The operator's attributes.

        Returns:
            The name of the output.
        """
        output = output or f"{_PREFIX}/{op_type}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [output], f"{_PREFIX}/{len(self.nodes)}", **attributes))
        return output

    def add_once(self, op_type: str, *inputs: str) -> str:
        """As :meth:`add`, but a node of this type on these inputs is added only the first time."""
        key = (op_type, *inputs)
        if key not in self._known:
            self._known[key] = self.add(op_type, *inputs)
        return self._known[key]

    def constant(self, value: Any, dtype: Any = np.int32) -> str:
        """Add a constant, unless an equal one is there; returns its name."""
        array = np.asarray(value, dtype=dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._known:
            self._known[key] = f"{_PREFIX}/constant_{len(self._known)}"
            self.constants.append(numpy_helper.from_array(array, self._known[key]))
        return self._known[key]

    def split(self, stacked: str, sizes: Sequence[int]) -> list[str]:
        """Cut a value along its first axis into parts of these sizes; returns their names."""
        if len(sizes) == 1:
            return [stacked]
        outputs = [f"{stacked}_{part}" for part in range(len(sizes))]
        inputs = [stacked, self.constant(sizes, np.int64)]
        self.nodes.append(helper.make_node("Split", inputs, outputs, f"{stacked}_split", axis=0))
        return outputs

    def unsqueeze(self, name: str, axes: Sequence[int]) -> str:
        """Insert axes of one entry, once for the same value and axes."""
        return self.add_once("Unsqueeze", name, self.constant(axes, np.int64)) if axes else name

    def first_entries(self, name: str, axes: Sequence[int]) -> str:
        """Cut some axes to their first entry."""
        if not axes:
            return name
        starts, ends = ([value] * len(axes) for value in (0, 1))
        return self.add("Slice", name, *(self.constant(entries, np.int64) for entries in (starts, ends, axes)))
