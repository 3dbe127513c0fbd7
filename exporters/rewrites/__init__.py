"""Rewrites of an ONNX graph that keep its answers and save time, each in a module of its own.

In: an ``onnx.GraphProto`` (or ``ModelProto``), which is changed in place. Out: how many patterns were replaced.
Each module says which pattern it finds, what it puts in its place, why that is faster and why it is exact; a graph
without the pattern stays as it is. ``graph_editing`` holds the tools to find and replace nodes.
"""
