"""The outputs of a student's graph: logits divided by the calibration temperature, and probabilities.

Pattern: the node that computes the output ``logits``, usually the Gemm of the last linear layer.
Replacement: the temperature is divided into that layer's weights and bias, so that it costs nothing at run time; where
there is no such layer, a Div is appended. A Softmax adds the output ``probabilities``.
Exact up to the rounding of one division per weight: (x W + b) / T = x (W / T) + b / T.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

LOGITS, PROBABILITIES = "logits", "probabilities"


def divide_logits(graph: onnx.GraphProto, temperature: float) -> None:
    """Divide the logits by a temperature, in place, within the weights of the last layer where there is one.

    Every runtime's pipeline takes the softmax of the logits, and so gets calibrated probabilities.

    Args:
        graph: A graph with the output ``logits``.
        temperature: The divisor, above 0; at 1 nothing changes.
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
    """Add a second output, ``probabilities``, the softmax of the logits, in place."""
    node: NodeProto = helper.make_node("Softmax", [LOGITS], [PROBABILITIES], PROBABILITIES, axis=-1)
    graph.node.append(node)
    output = graph.output.add()
    output.CopyFrom(graph.output[0])
    output.name = PROBABILITIES
    output.type.tensor_type.elem_type = TensorProto.FLOAT
