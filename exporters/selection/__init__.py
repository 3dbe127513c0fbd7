"""Which models may ship: the quality gate, trimmed vocabularies, latency, fused kernels, and the files of a bundle.

In: a student, its ONNX files and texts held out from training. Out: the models that change no more labels than allowed,
and what the manifest records of them.
"""
