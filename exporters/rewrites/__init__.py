"""Changes to ONNX graphs that keep the answers and save time.

In and out: an ``onnx.ModelProto``.
"""
