"""Running a model over texts, with dropout on or off: :mod:`batches`, runners on torch and ONNX Runtime, devices.

In: a model and the token ids of texts. Out: logits or vectors, one row a text.
"""
