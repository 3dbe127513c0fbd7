"""Small ONNX graphs made by hand, and their answers in ONNX Runtime."""

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

OPSET = 18


def value_info(name, kind, *shape):
    return helper.make_tensor_value_info(name, kind, list(shape))


def make_graph(nodes, inputs, outputs, **constants):
    weights = [numpy_helper.from_array(np.asarray(content), name) for name, content in constants.items()]
    return helper.make_graph(nodes, "g", inputs, outputs, weights)


def run_graph(graph, **inputs):
    """The first output of a graph."""
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, inputs)[0]


def initializers(graph):
    """The constants of a graph, by name."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


def run_student(path, ids, mask):
    """The logits of a student's ONNX file."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"input_ids": ids, "attention_mask": mask})[0]
