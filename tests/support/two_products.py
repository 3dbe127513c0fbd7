"""A graph made by hand: two products of one value, then a third of their sum."""

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

RNG = np.random.default_rng(0)
WEIGHTS = {"q": RNG.normal(size=(6, 4)), "k": RNG.normal(size=(6, 4)), "g": RNG.normal(size=(3, 4)), "b": np.ones(3)}
X = RNG.normal(size=(2, 5, 6)) * [1, 1, 50, 1, 0.1, 0]


def model(shared=False):
    """q and k of one input, then a Gemm of transposed weights over the flattened sum; or k of another input."""
    nodes = [
        helper.make_node("MatMul", ["x", "q"], ["xq"], "first"),
        helper.make_node("Tanh", ["x"], ["t"], "tanh"),
        helper.make_node("MatMul", ["t" if shared else "x", "q" if shared else "k"], ["xk"], "second"),
        helper.make_node("Add", ["xq", "xk"], ["sum"], "sum"),
        helper.make_node("Reshape", ["sum", "flat"], ["rows"], "reshape"),
        helper.make_node("Gemm", ["rows", "g", "b"], ["logits"], "gemm", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", "t", 6])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", 3])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in WEIGHTS.items()]
        + [numpy_helper.from_array(np.array([-1, 4]), "flat")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def run(made):
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": X.astype(np.float32)})


def by_hand():
    return ((X @ WEIGHTS["q"] + X @ WEIGHTS["k"]).reshape(-1, 4)) @ WEIGHTS["g"].T + 1
