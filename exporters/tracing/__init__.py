"""A torch classifier as an ONNX graph, with dropout off or live.

In: a torch model on the CPU, with eager attention. Out: an ``onnx.ModelProto``, or its largest difference from torch.
``to_onnx`` traces, ``first_token`` narrows the last layer, ``dropout_marks`` and ``live_dropout`` carry dropout over,
``comparison`` checks the result.
"""
