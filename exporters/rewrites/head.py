"""The end of a student's graph: its temperature, and probabilities beside the logits."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

LOGITS, PROBABILITIES = "logits", "probabilities"


def divide_logits(graph: onnx.GraphProto, temperature: float) -> None:
    """Divide the logits by a temperature, in place: in the weights of the last layer where there is one.

    Whoever takes the softmax of the logits, as every runtime's pipeline does, then gets calibrated probabilities.

    Args:
        graph: of a model with the output ``logits``.
        temperature: above 0; at 1 nothing changes.
    """
    if temperature == 1.0:
        return
    constants = {tensor.name: tensor for tensor in graph.initializer}
    uses = [name for node in graph.node for name in node.input]
    last = next(node for node in graph.node if LOGITS in node.output)
    weights = [name for name in last.input[1:] if name in constants and uses.count(name) == 1]
    if last.op_type == "Gemm" and len(weights) == len(last.input) - 1:
        for name in weights:
            scaled = numpy_helper.to_array(constants[name]) / np.float32(temperature)
            constants[name].CopyFrom(numpy_helper.from_array(scaled, name))
        return
    last.output[list(last.output).index(LOGITS)] = f"{LOGITS}_undivided"
    graph.initializer.append(numpy_helper.from_array(np.array(temperature, np.float32), "temperature"))
    graph.node.append(helper.make_node("Div", [f"{LOGITS}_undivided", "temperature"], [LOGITS], "divide_logits"))


def add_probabilities(graph: onnx.GraphProto) -> None:
    """Give the graph a second output, ``probabilities``: the softmax of the logits, in place."""
    node: NodeProto = helper.make_node("Softmax", [LOGITS], [PROBABILITIES], PROBABILITIES, axis=-1)
    graph.node.append(node)
    output = graph.output.add()
    output.CopyFrom(graph.output[0])
    output.name = PROBABILITIES
    output.type.tensor_type.elem_type = TensorProto.FLOAT
