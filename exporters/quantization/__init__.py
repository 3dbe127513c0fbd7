"""Smaller numbers in a student's ONNX file: int8, half floats, 8- and 4-bit weights, product-quantized tables.

In: the float ONNX file, and for int8 what its layers multiply on calibration texts. Out: a quantized ONNX file.
A new precision is a row of the table in ``precisions.py``, and a line of ``runtime.bundle.MODEL_FILES``. ``int8.py``
puts int8 together from ``smoothing``, ``outlier_splitting``, ``embeddings`` and ``rounding``.
"""
