"""From a torch model to an ONNX graph, with dropout live or off.

In: a torch model. Out: an ``onnx.ModelProto``.
"""
