"""Smaller numbers in a graph: int8, half floats, 4-bit weights, product-quantized tables.

In: a float ONNX file. Out: a quantized one.
"""
