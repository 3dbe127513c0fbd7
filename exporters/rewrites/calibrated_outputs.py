"""The outputs of a student's graph: logits divided by the calibration temperatures, and probabilities.

Pattern: the node that computes the output ``logits``, usually the Gemm of the last linear layer.
Replacement: the temperatures are divided into that layer's weights and bias, so that they cost nothing at run time;
where there is no such layer, a Div is appended. The output ``probabilities`` is added: of each head the Softmax or the
Sigmoid of its logits, side by side.
Exact up to the rounding of one division per weight: (x W + b) / T = x (W / T) + b / T.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from amalgam_edge.heads import SOFTMAX, Head, Heads

LOGITS, PROBABILITIES = "logits", "probabilities"


def divide_logits(graph: onnx.GraphProto, temperatures: np.ndarray | float) -> None:
    """Divide the logits by temperatures, in place, within the weights of the last layer where there is one.

    Every runtime's pipeline takes the softmax or the sigmoid of the logits, and so gets calibrated probabilities.

    Args:
        graph: A graph with the output ``logits``.
        temperatures: The divisors, above 0, one for all logits or ``(n_labels,)``; at 1 nothing changes.
    """
    divisors = np.asarray(temperatures, dtype=np.float32)
    if (divisors == 1.0).all():
        return
    constants = {tensor.name: tensor for tensor in graph.initializer}
    uses = [name for node in graph.node for name in node.input]
    last = next(node for node in graph.node if LOGITS in node.output)
    weights = [name for name in last.input[1:] if name in constants and uses.count(name) == 1]
    if last.op_type == "Gemm" and len(weights) == len(last.input) - 1:
        by_row = any(attribute.name == "transB" and attribute.i for attribute in last.attribute)
        for name in weights:
            values = numpy_helper.to_array(constants[name])
            scaled = values / (divisors[:, None] if divisors.ndim and by_row and values.ndim == 2 else divisors)
            constants[name].CopyFrom(numpy_helper.from_array(scaled, name))
        return
    last.output[list(last.output).index(LOGITS)] = f"{LOGITS}_undivided"
    graph.initializer.append(numpy_helper.from_array(divisors, "temperature"))
    graph.node.append(helper.make_node("Div", [f"{LOGITS}_undivided", "temperature"], [LOGITS], "divide_logits"))


def add_probabilities(graph: onnx.GraphProto, heads: Heads | None = None) -> None:
    """Add a second output, ``probabilities``, in place.

    Args:
        graph: A graph with the output ``logits``.
        heads: The heads, in the order of the logits; None for one softmax head.
    """
    if heads is None or len(heads) == 1:
        graph.node.append(activation_node(next(iter(heads)) if heads else None, LOGITS, PROBABILITIES))
    else:
        _add_probabilities_of_heads(graph, heads)
    output = graph.output.add()
    output.CopyFrom(graph.output[0])
    output.name = PROBABILITIES
    output.type.tensor_type.elem_type = TensorProto.FLOAT


def _add_probabilities_of_heads(graph: onnx.GraphProto, heads: Heads) -> None:
    """The probabilities of several heads: the logits are split, each part is activated, and all are joined again."""
    parts = [f"{LOGITS}_{position}" for position in range(len(heads))]
    activated = [f"{PROBABILITIES}_{position}" for position in range(len(heads))]
    sizes = np.array([len(head) for head in heads], dtype=np.int64)
    graph.initializer.append(numpy_helper.from_array(sizes, "labels_of_heads"))
    graph.node.append(helper.make_node("Split", [LOGITS, "labels_of_heads"], parts, "split_heads", axis=-1))
    graph.node.extend(activation_node(*pair) for pair in zip(heads, parts, activated, strict=True))
    graph.node.append(helper.make_node("Concat", activated, [PROBABILITIES], PROBABILITIES, axis=-1))


def activation_node(head: Head | None, logits: str, probabilities: str) -> NodeProto:
    """The node that makes a head's probabilities of its logits; None stands for a softmax head."""
    if head is None or head.activation == SOFTMAX:
        node: NodeProto = helper.make_node("Softmax", [logits], [probabilities], probabilities, axis=-1)
    else:
        node = helper.make_node("Sigmoid", [logits], [probabilities], probabilities)
    return node
